"""`bundle.lock.json`: the definition with every reference pinned by digest (docs/formats.md); only we write it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Literal

from pydantic import Field, ValidationError

from bundler.domain.ami import BakedAmi, LockedAmi, Target
from bundler.domain.blob import Blob
from bundler.domain.canonical import indented
from bundler.domain.digest import Digest, is_digest
from bundler.domain.oci import MAX_BLOB_BYTES, parse_strict_json, strict_text
from bundler.domain.reference import Reference
from bundler.domain.schema import (
    MAX_LINE,
    Built,
    ImageReference,
    KubernetesVersion,
    Line,
    Name,
    PlatformName,
    SemanticVersion,
    Sha256,
    Values,
    without_null,
)
from bundler.errors import FormatError, LimitError

MAX_LOCK_BYTES = 256 << 20
_LATER = frozenset({"amis", "bake", "targets"})
"""Keys that the first locks did not have: left out where they are empty, so that those keep their bytes."""
_BLOB_KEYS = frozenset({"mediaType", "digest", "size"})
_BROKEN_HINT = "Take it from version control again; or remove it and make a new one: bundle lock"


class Evidence(Built):
    """Why an image is in the bundle: who asks for it, and where."""

    by: Line
    where: Line


class LockedManifest(Built):
    """The manifest of one platform with its blobs; `platform` is None for an attestation."""

    media_type: Line
    digest: Sha256
    size: int = Field(ge=0, le=MAX_BLOB_BYTES, strict=True)
    platform: PlatformName | None = None
    attests: Sha256 | None = None
    blobs: tuple[Blob, ...]

    @property
    def blob(self) -> Blob:
        """The manifest itself."""
        return Blob(media_type=self.media_type, digest=self.digest, size=self.size)


class LockedImage(Built):
    """One image.

    Attributes:
        reference: full name with tag, as charts and people write it.
        target: what is pushed and referenced: the manifest, the raw index or the derived index.
        form: `target` is upstream's `manifest` or `index`, or an index `derived` for the carried platforms.
        upstream: the upstream index that `derived` was made from, kept as evidence.
        origin: registry, layout, docker-archive or docker.
        image_id: the image id that a Docker daemon or archive gave.
    """

    reference: ImageReference
    target: Blob
    form: Literal["manifest", "index", "derived"]
    upstream: Blob | None = None
    manifests: tuple[LockedManifest, ...] = Field(min_length=1)
    origin: Literal["registry", "layout", "docker-archive", "docker"]
    image_id: Sha256 | None = None
    evidence: tuple[Evidence, ...] = ()

    @property
    def platforms(self) -> tuple[PlatformName, ...]:
        """The carried platforms."""
        return tuple(manifest.platform for manifest in self.manifests if manifest.platform is not None)

    @property
    def upstream_digest(self) -> Digest:
        """What upstream's tag named when it was locked."""
        return self.target.digest if self.upstream is None else self.upstream.digest


class LockedChart(Built):
    """One chart as an OCI artifact `charts/<name>:<version>`; `manifest` names config and the .tgz layer."""

    name: Line
    version: SemanticVersion
    origin: Literal["oci", "https", "path", "manifest", "built-in"]
    manifest: LockedManifest

    @property
    def reference(self) -> str:
        """`charts/<name>:<version>`, `+` written `_` as Helm does for OCI tags."""
        return f"charts/{self.name}:{self.version.replace('+', '_')}"

    @property
    def content(self) -> Blob:
        """The .tgz."""
        return self.manifest.blobs[1]


class LockedRelease(Built):
    """One Helm release: which chart, where, with which values."""

    name: Name
    namespace: Name
    role: Literal["core", "addon"]
    chart: Line
    values: Values = Field(default_factory=dict)
    api_versions: tuple[Line, ...] = ()
    timeout_minutes: int = 10


class LockedTool(Built):
    """One program for one operator platform."""

    name: Literal["helm", "kubectl"]
    version: SemanticVersion
    platform: PlatformName
    content: Blob


class LockedFile(Built):
    """Any other file."""

    name: Name
    purpose: Line
    content: Blob


class Lock(Built):
    """Everything in one bundle, by digest and size: enough to lay the archive out before fetching.

    `bake` alone is written by build, once: what became of each of `amis`.
    """

    api_version: Literal["eks-bundler/v1"] = "eks-bundler/v1"
    kind: Literal["Lock"] = "Lock"
    name: Name
    sequence: int = Field(ge=1, strict=True)
    created: Line
    previous: Sha256 | None = None
    definition: Sha256
    kubernetes_version: KubernetesVersion
    platforms: tuple[PlatformName, ...]
    operator_platforms: tuple[PlatformName, ...]
    pause: ImageReference | None = None
    images: tuple[LockedImage, ...] = ()
    charts: tuple[LockedChart, ...] = ()
    releases: tuple[LockedRelease, ...] = ()
    tools: tuple[LockedTool, ...] = ()
    files: tuple[LockedFile, ...] = ()
    amis: tuple[LockedAmi, ...] = ()
    targets: tuple[Target, ...] = ()
    bake: tuple[BakedAmi, ...] = ()

    def image(self, reference: Reference) -> LockedImage | None:
        """The locked image that `reference` means (a digest must agree where one is given), None when absent."""
        return next((image for image in self.images if _means(reference, image)), None)

    def chart(self, reference: str) -> LockedChart:
        """The locked chart with that reference; a lock is checked for it when it is parsed."""
        return next(chart for chart in self.charts if chart.reference == reference)

    def manifests(self) -> Iterator[Blob]:
        """Every manifest and index in the archive, some twice."""
        for image in self.images:
            yield image.target
            if image.upstream is not None:
                yield image.upstream
            yield from (manifest.blob for manifest in image.manifests)
        for chart in self.charts:
            yield chart.manifest.blob

    def contents(self) -> Iterator[Blob]:
        """Every other blob in the archive, some twice."""
        for image in self.images:
            for manifest in image.manifests:
                yield from manifest.blobs
        for chart in self.charts:
            yield from chart.manifest.blobs
        yield from (tool.content for tool in self.tools)
        yield from (file.content for file in self.files)
        for ami in self.bake:
            yield from ami.blobs

    def baked(self, name: str, architecture: str) -> BakedAmi | None:
        """The AMI of that name for that architecture, None where it is not baked, or not of this bundle."""
        return next((ami for ami in self.bake if (ami.name, ami.architecture) == (name, architecture)), None)


def image_finder(lock: Lock) -> Callable[[Reference], LockedImage | None]:
    """Return what answers as `lock.image` does, without looking at every image for every reference."""
    named: dict[str, list[LockedImage]] = {}
    for image in lock.images:
        named.setdefault(image.reference.name, []).append(image)

    def find(reference: Reference) -> LockedImage | None:
        return next((image for image in named.get(reference.name, ()) if _means(reference, image)), None)

    return find


def _means(reference: Reference, image: LockedImage) -> bool:
    own = image.reference
    if reference.digest is not None:
        known = {image.target.digest, *(m.digest for m in image.manifests)}
        if image.upstream is not None:
            known.add(image.upstream.digest)
        return reference.name == own.name and reference.digest in known
    return (reference.name, reference.tag) == (own.name, own.tag)


def lock_bytes(lock: Lock) -> bytes:
    """Return the one spelling of `lock`: sorted keys, two blanks of indent, no absent keys, a final newline."""
    spelled = io.BytesIO()
    spelled.writelines(lock_pieces(lock))
    return spelled.getvalue()


def lock_pieces(lock: Lock) -> Iterator[bytes]:
    """Yield `lock_bytes` image by image: a hundred thousand blobs are not to be there in three forms at one time."""
    return map(str.encode, _pieces(lock))


def lock_digest(lock: Lock) -> Digest:
    """Return the digest of `lock_bytes`, which are never there as a whole."""
    return Digest.of_pieces(lock_pieces(lock))


def _pieces(lock: Lock) -> Iterator[str]:
    document = lock.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"images"})
    document = {key: value for key, value in document.items() if value or key not in _LATER}
    document["images"] = []
    before = "{"
    for key in sorted(document):
        yield f'{before}\n  "{key}": '
        yield from _images(lock.images) if key == "images" else (indented(document[key], 2),)
        before = ","
    yield "\n}\n"


def _images(images: Sequence[LockedImage]) -> Iterator[str]:
    before = "["
    for image in images:
        manifests = _listed([_manifest(manifest, 8) for manifest in image.manifests], 6)
        yield f"{before}\n    {_object(image, 4, 'manifests', manifests)}"
        before = ","
    yield "\n  ]" if images else "[]"


def _manifest(manifest: LockedManifest, depth: int) -> str:
    margin = "\n" + " " * (depth + 4)
    blobs = [
        f'{{{margin}  "digest": "{blob.digest.text}",{margin}  "mediaType": {_text(blob.media_type)},'
        f'{margin}  "size": {blob.size}{margin}}}'
        for blob in manifest.blobs
    ]
    return _object(manifest, depth, "blobs", _listed(blobs, depth + 2))


def _object(model: Built, depth: int, key: str, spelled: str) -> str:
    """Return how a model is written, given how the value of one of its keys is."""
    document = model.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={key})
    values = {name: indented(value, depth + 2) for name, value in document.items()} | {key: spelled}
    margin = "\n" + " " * depth
    return "{" + ",".join(f'{margin}  "{name}": {values[name]}' for name in sorted(values)) + margin + "}"


def _listed(spelled: Sequence[str], depth: int) -> str:
    margin = "\n" + " " * depth
    return "[" + ",".join(f"{margin}  {one}" for one in spelled) + margin + "]" if spelled else "[]"


@lru_cache(maxsize=64)
def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def parse_lock(raw: bytes | memoryview, *, source: str, digest: Callable[[str], Digest] = Digest.parse) -> Lock:
    """Return the lock in `raw`.

    Args:
        raw: from a file or an archive.
        source: what errors name.
        digest: gives the digest that a text spells; it may be one that is in memory already.

    Raises:
        FormatError: not a lock, or a release or bake whose chart or AMI it does not hold.
        LimitError: larger than 256 MiB.
    """
    if len(raw) > MAX_LOCK_BYTES:
        raise LimitError(source, f"is larger than {MAX_LOCK_BYTES} bytes")
    try:
        text = strict_text(raw, subject=source)
        del raw  # as long as the text: most of what a lock of many blobs needs while it is parsed
        lock = _parsed(text, source, digest)
    except FormatError as error:
        raise FormatError(source, error.cause, hint=_BROKEN_HINT) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "document"
        raise FormatError(source, f"is not a lock: {place}: {first['msg']}", hint=_BROKEN_HINT) from None
    amis = {(ami.name, ami.architecture) for ami in lock.amis}
    stray = next((one for one in lock.bake if (one.name, one.architecture) not in amis), None)
    if stray is not None:
        cause = f"records a bake of {stray.name} {stray.architecture}, which is no AMI of the lock"
        raise FormatError(source, cause, hint=_BROKEN_HINT)
    charts = {chart.reference for chart in lock.charts}
    lost = next((release for release in lock.releases if release.chart not in charts), None)
    if lost is not None:
        raise FormatError(source, f"release {lost.name} needs the chart {lost.chart}, which the lock does not hold")
    return lock


def _parsed(text: str, source: str, digest: Callable[[str], Digest]) -> Lock:
    shaped = parse_strict_json(text, subject=source, fractions=True, shape=_Shape(digest))
    try:
        return Lock.model_validate(shaped)
    except ValidationError:  # said of the document as it is
        return Lock.model_validate(parse_strict_json(text, subject=source, fractions=True))


class _Shape:
    """Makes blobs of objects while they are parsed, so that no tree of all of them is ever there.

    What is not exactly a blob stays an object, for the models to check; and so does all that is in `values`.
    """

    def __init__(self, digest: Callable[[str], Digest]) -> None:
        self._digest = digest
        self._types: dict[str, str] = {}
        self._blobs: dict[Digest, Blob] = {}

    def __call__(self, found: dict[str, object]) -> object:
        if found.keys() == _BLOB_KEYS:
            return self._blob(found) or found
        if "values" in found:
            found["values"] = _plain(found["values"])
        return found

    def _blob(self, found: dict[str, object]) -> Blob | None:
        """Return the blob that an object names, one for all that name it alike."""
        kind, text, size = found["mediaType"], found["digest"], found["size"]
        if not isinstance(kind, str) or not isinstance(text, str) or type(size) is not int:
            return None
        if not 0 < len(kind) <= MAX_LINE or "\n" in kind or not 0 <= size <= MAX_BLOB_BYTES or not is_digest(text):
            return None
        digest = self._digest(text)
        blob = self._blobs.get(digest)
        if blob is None or (blob.media_type, blob.size) != (kind, size):
            blob = Blob(media_type=self._types.setdefault(kind, kind), digest=digest, size=size)
            self._blobs[digest] = blob
        return blob


def _plain(value: object) -> object:
    if isinstance(value, Blob):
        return {"mediaType": value.media_type, "digest": value.digest.text, "size": value.size}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def blob_sizes(lock: Lock, *, source: str) -> dict[Digest, int]:
    """Return the size in bytes of every blob of the pool.

    Raises:
        FormatError: the lock gives two sizes for one digest.
    """
    sizes: dict[Digest, int] = {}
    for blob in chain(lock.manifests(), lock.contents()):
        if sizes.setdefault(blob.digest, blob.size) != blob.size:
            raise FormatError(source, f"gives two sizes for {blob.digest}", hint="Make it again: bundle lock")
    return sizes


def lock_schema() -> dict[str, Any]:
    """Return the JSON Schema of `bundle.lock.json`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **without_null(Lock.model_json_schema(by_alias=True, mode="serialization")),
    }


def same_content(one: Lock, other: Lock) -> bool:
    """Whether two locks pin the same things; sequence, created and previous say when, and bake follows."""
    when = {"sequence", "created", "previous", "bake"}
    return one.model_dump(exclude=when) == other.model_dump(exclude=when)
