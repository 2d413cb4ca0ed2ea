"""Small synthetic images: enough structure for any test that does not run them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bundler.domain.digest import Digest
from bundler.domain.oci import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Platform,
)


def layer_bytes(seed: str, size: int) -> bytes:
    """Reproducible bytes that do not compress and differ for each seed."""
    blocks = (hashlib.sha256(f"{seed}/{number}".encode()).digest() for number in range(size // 32 + 1))
    return b"".join(blocks)[:size]


@dataclass(frozen=True, kw_only=True)
class FakeImage:
    """One manifest or index with everything below it, by digest."""

    raw: bytes
    media_type: str
    platform: Platform | None = None
    blobs: Mapping[Digest, bytes] = field(default_factory=dict)
    manifests: Mapping[Digest, tuple[str, bytes]] = field(default_factory=dict)

    @property
    def digest(self) -> Digest:
        return Digest.of(self.raw)

    def descriptor(self, **more: object) -> dict[str, object]:
        entry: dict[str, object] = {"mediaType": self.media_type, "digest": str(self.digest), "size": len(self.raw)}
        if self.platform is not None:
            parts = {"os": self.platform.os, "architecture": self.platform.architecture}
            entry["platform"] = parts | ({"variant": self.platform.variant} if self.platform.variant else {})
        return entry | more


def image(
    seed: str, *, platform: str = "linux/amd64", layers: Sequence[bytes] | None = None, docker: bool = False
) -> FakeImage:
    """An image of one platform."""
    parsed = Platform.parse(platform)
    contents = list(layers) if layers is not None else [layer_bytes(f"{seed}/{n}", 700 + 100 * n) for n in range(2)]
    config = json.dumps(
        {
            "architecture": parsed.architecture,
            "os": parsed.os,
            **({"variant": parsed.variant} if parsed.variant else {}),
            "config": {"Entrypoint": [seed]},
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(content)) for content in contents]},
        }
    ).encode()
    kinds = (
        (
            DOCKER_MANIFEST,
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.docker.image.rootfs.diff.tar",
        )
        if docker
        else (OCI_MANIFEST, OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar")
    )
    document = {
        "schemaVersion": 2,
        "mediaType": kinds[0],
        "config": {"mediaType": kinds[1], "digest": str(Digest.of(config)), "size": len(config)},
        "layers": [
            {"mediaType": kinds[2], "digest": str(Digest.of(content)), "size": len(content)} for content in contents
        ],
    }
    raw = json.dumps(document, indent=3).encode()
    blobs = {Digest.of(content): content for content in (config, *contents)}
    return FakeImage(
        raw=raw, media_type=kinds[0], platform=parsed, blobs=blobs, manifests={Digest.of(raw): (kinds[0], raw)}
    )


def attestation(subject: FakeImage) -> tuple[FakeImage, dict[str, object]]:
    """BuildKit's attestation manifest for `subject`, and its entry in the index."""
    made = image(f"attests {subject.digest}", platform="unknown/unknown", layers=[b'{"_type":"statement"}'])
    notes = {"vnd.docker.reference.digest": str(subject.digest), "vnd.docker.reference.type": "attestation-manifest"}
    return made, made.descriptor(annotations=notes)


def index(
    *children: FakeImage, extra: Sequence[tuple[FakeImage, dict[str, object]]] = (), docker: bool = False
) -> FakeImage:
    """An index of `children`, and of `extra` with entries of their own."""
    media_type = DOCKER_LIST if docker else OCI_INDEX
    entries = [child.descriptor() for child in children] + [entry for _, entry in extra]
    raw = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}, indent=2).encode()
    everything = [*children, *(child for child, _ in extra)]
    return FakeImage(
        raw=raw,
        media_type=media_type,
        blobs={digest: blob for child in everything for digest, blob in child.blobs.items()},
        manifests={digest: entry for child in everything for digest, entry in child.manifests.items()}
        | {Digest.of(raw): (media_type, raw)},
    )


def blob_descriptor(content: bytes) -> Descriptor:
    """The descriptor of a blob of no particular type."""
    return Descriptor(media_type="application/octet-stream", digest=Digest.of(content), size=len(content))
