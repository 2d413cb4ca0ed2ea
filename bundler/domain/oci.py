"""OCI image-spec values: media types, platforms, descriptors, manifests and indexes, parsed from hostile bytes.

Docker's schema 2 types (distribution manifest-v2-2.md) have the same shape and are kept under their own names;
nothing here ever writes a manifest again, because a digest names its bytes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from bundler.domain.digest import Digest
from bundler.errors import FormatError, LimitError

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
HELM_CONFIG = "application/vnd.cncf.helm.config.v1+json"
HELM_CHART = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))

MAX_MANIFEST_BYTES = 4 << 20
MAX_CHILDREN = 1000
MAX_LAYERS = 1000
MAX_BLOB_BYTES = 1 << 40
ATTESTATION_REFERENCE = "vnd.docker.reference.digest"
ATTESTATION_TYPE = "vnd.docker.reference.type"

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}\Z")
_PLATFORM = re.compile(r"(?P<os>[a-z0-9]+)/(?P<architecture>[a-z0-9_]+)(?:/(?P<variant>[a-z0-9.]+))?\Z")


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Platform:
    """`os/architecture[/variant]`."""

    os: str
    architecture: str
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Return the platform that `text` spells.

        Raises:
            FormatError: not `os/architecture[/variant]`.
        """
        match = _PLATFORM.match(text)
        if match is None:
            raise FormatError(repr(text[:100]), "is not a platform such as linux/amd64")
        return cls(os=match["os"], architecture=match["architecture"], variant=match["variant"])

    def matches(self, wanted: Platform) -> bool:
        """Whether this platform serves a request for `wanted`; arm64 without variant is arm64/v8."""
        if (self.os, self.architecture) != (wanted.os, wanted.architecture):
            return False
        default = "v8" if self.architecture == "arm64" else None
        return wanted.variant is None or (self.variant or default) == wanted.variant

    def __str__(self) -> str:
        base = f"{self.os}/{self.architecture}"
        return base if self.variant is None else f"{base}/{self.variant}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """Media type, digest and size (bytes) of one blob; `platform` and `annotations` where an index gives them."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    has_urls: bool = False

    @property
    def is_attestation(self) -> bool:
        """Whether this is BuildKit's attestation manifest, which travels with the manifest it annotates."""
        return self.annotations.get(ATTESTATION_TYPE) == "attestation-manifest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One image (or artifact): config and layers. `raw` is what the digest names."""

    raw: bytes
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def digest(self) -> Digest:
        """Digest of the raw bytes."""
        return Digest.of(self.raw)

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Config and layers."""
        return (self.config, *self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """One manifest per platform. `entries` keeps each descriptor's JSON as upstream wrote it."""

    raw: bytes
    media_type: str
    manifests: tuple[Descriptor, ...]
    entries: tuple[Mapping[str, object], ...]

    @property
    def digest(self) -> Digest:
        """Digest of the raw bytes."""
        return Digest.of(self.raw)


def parse_manifest(raw: bytes, *, subject: str, media_type: str | None = None) -> Manifest | Index:
    """Return the manifest or index that `raw` holds.

    Args:
        raw: bytes as the registry sent them.
        subject: what errors name, a reference.
        media_type: the registry's Content-Type; it must agree with the document's own `mediaType`.

    Raises:
        FormatError: not a schema 2 manifest or index, or two documents in one (CVE-2021-41190).
        LimitError: larger or longer than any honest one.
    """
    document = _parse_object(raw, subject)
    own = document.get("mediaType")
    if own is not None and media_type is not None and own != media_type:
        raise FormatError(subject, f"Content-Type {media_type} does not agree with mediaType {own!r}")
    kind = own if isinstance(own, str) else media_type
    if document.get("schemaVersion") != 2:
        raise FormatError(subject, "is not a schema 2 manifest", hint="Push the image again with a current tool.")
    if "manifests" in document and ("layers" in document or "config" in document):
        raise FormatError(subject, "holds both manifests and layers")
    if "manifests" in document:
        return _index(document, raw, kind or OCI_INDEX, subject)
    return _manifest(document, raw, kind or OCI_MANIFEST, subject)


def _index(document: Mapping[str, object], raw: bytes, media_type: str, subject: str) -> Index:
    if media_type not in INDEX_TYPES:
        raise FormatError(subject, f"is an index of unknown type {media_type!r}")
    entries = _list(document, "manifests", subject, MAX_CHILDREN)
    manifests = tuple(parse_descriptor(entry, subject=subject) for entry in entries)
    for entry in manifests:
        if entry.media_type not in MANIFEST_TYPES:
            raise FormatError(subject, f"names a child of type {entry.media_type!r}")
    return Index(raw=raw, media_type=media_type, manifests=manifests, entries=tuple(entries))


def _manifest(document: Mapping[str, object], raw: bytes, media_type: str, subject: str) -> Manifest:
    if media_type not in MANIFEST_TYPES:
        raise FormatError(subject, f"is a manifest of unknown type {media_type!r}")
    config = parse_descriptor(document.get("config"), subject=f"{subject} config")
    layers = tuple(parse_descriptor(item, subject=subject) for item in _list(document, "layers", subject, MAX_LAYERS))
    foreign = next((layer for layer in layers if layer.has_urls), None)
    if foreign is not None:
        raise FormatError(subject, f"layer {foreign.digest} is to be fetched from a foreign URL, which is never done")
    empty = next((layer for layer in layers if layer.size == 0), None)
    if empty is not None:
        raise FormatError(subject, f"layer {empty.digest} is said to be empty, which no tar is")
    return Manifest(raw=raw, media_type=media_type, config=config, layers=layers)


def parse_descriptor(value: object, *, subject: str) -> Descriptor:
    """Return the descriptor in `value` (image-spec descriptor.md).

    Raises:
        FormatError: a missing or ill-typed field.
        LimitError: a size above 1 TiB.
    """
    if not isinstance(value, dict):
        raise FormatError(subject, "a descriptor is not an object")
    media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
    if not isinstance(media_type, str) or not _MEDIA_TYPE.match(media_type):
        raise FormatError(subject, f"a descriptor has the media type {media_type!r:.100}")
    if not isinstance(digest, str) or type(size) is not int or size < 0:
        raise FormatError(subject, "a descriptor lacks a digest or a size")
    if size > MAX_BLOB_BYTES:
        raise LimitError(subject, f"a blob of {size} bytes is larger than any honest one")
    return Descriptor(
        media_type=media_type,
        digest=Digest.parse(digest),
        size=size,
        platform=_platform(value.get("platform"), subject),
        annotations=_annotations(value.get("annotations"), subject),
        has_urls=bool(value.get("urls")),
    )


def parse_config_platform(raw: bytes, *, subject: str) -> Platform:
    """Return the platform that an image config states (image-spec config.md).

    Raises:
        FormatError: not a config, or without os and architecture.
    """
    return _platform_of(_parse_object(raw, subject, fractions=True), subject)


def parse_diff_ids(raw: bytes, *, subject: str) -> tuple[Digest, ...]:
    """Return the digests of the uncompressed layers that an image config states.

    Raises:
        FormatError: no `rootfs.diff_ids`.
    """
    rootfs = _parse_object(raw, subject, fractions=True).get("rootfs")
    ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(ids, list) or not all(isinstance(item, str) for item in ids):
        raise FormatError(subject, "the image config has no rootfs.diff_ids")
    return tuple(Digest.parse(item) for item in ids)


def derive_index(upstream: Index, *, keep: Iterable[Digest]) -> bytes:
    """Return an index of only the wanted children, their descriptors verbatim, the upstream digest annotated.

    Registries refuse an index whose children are absent, so an index of which only some platforms are carried
    cannot travel under its own digest.
    """
    wanted = frozenset(keep)
    kept = [e for e, m in zip(upstream.entries, upstream.manifests, strict=True) if m.digest in wanted]
    document = {
        "schemaVersion": 2,
        "mediaType": upstream.media_type,
        "manifests": kept,
        "annotations": {"io.eks-bundler.upstream.digest": str(upstream.digest)},
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _parse_object(raw: bytes, subject: str, *, fractions: bool = False) -> dict[str, object]:
    if len(raw) > MAX_MANIFEST_BYTES:
        raise LimitError(subject, f"is larger than {MAX_MANIFEST_BYTES} bytes")
    value = parse_strict_json(raw, subject=subject, fractions=fractions)
    if not isinstance(value, dict):
        raise FormatError(subject, "is not a JSON object")
    return value


def strict_text(raw: bytes | memoryview, *, subject: str) -> str:
    """Return the text in `raw`, which is to be JSON.

    Raises:
        FormatError: it is not in UTF-8.
    """
    try:
        return str(raw, "utf-8")
    except ValueError as error:
        raise FormatError(subject, f"is not strict JSON ({str(error)[:120]})") from error


def parse_strict_json(
    raw: bytes | str,
    *,
    subject: str,
    fractions: bool = False,
    shape: Callable[[dict[str, object]], object] | None = None,
) -> object:
    """Return the JSON value in `raw`; duplicate keys, NaN, huge numbers, surrogates and deep nesting are refused.

    Args:
        raw: from outside, or the text in it.
        subject: what errors name.
        fractions: whether a number may have a fraction, as values of charts do.
        shape: gives what stands for each object, the inner ones first; None leaves them as they are.

    Raises:
        FormatError: not such a value.
    """
    try:
        value: object = json.loads(
            raw if isinstance(raw, str) else strict_text(raw, subject=subject),
            object_pairs_hook=_unique if shape is None else lambda pairs: shape(_unique(pairs)),
            parse_constant=_no_constant,
            parse_float=_finite if fractions else _no_constant,
        )
    except (ValueError, RecursionError) as error:
        raise FormatError(subject, f"is not strict JSON ({str(error)[:120]})") from error
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    for key, value in pairs:
        for text in (key, value):
            if isinstance(text, str) and not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
                raise ValueError("lone surrogate")
    return found


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_constant(text)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"number {text[:20]} not allowed")


def _list(document: Mapping[str, object], key: str, subject: str, limit: int) -> list[dict[str, object]]:
    value = document.get(key)
    if not isinstance(value, list):
        raise FormatError(subject, f"has no list of {key}")
    if len(value) > limit:
        raise LimitError(subject, f"lists {len(value)} {key}; at most {limit} are allowed")
    return value


def _platform(value: object, subject: str) -> Platform | None:
    return None if value is None else _platform_of(value, subject)


def _platform_of(value: object, subject: str) -> Platform:
    fields = value if isinstance(value, dict) else {}
    system, architecture, variant = fields.get("os"), fields.get("architecture"), fields.get("variant")
    if not isinstance(system, str) or not isinstance(architecture, str):
        raise FormatError(subject, "states no platform")
    if variant is not None and not isinstance(variant, str):
        raise FormatError(subject, "states a variant that is not text")
    return Platform(os=system, architecture=architecture, variant=variant or None)


def _annotations(value: object, subject: str) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise FormatError(subject, "annotations are not a map of text")
    return value
