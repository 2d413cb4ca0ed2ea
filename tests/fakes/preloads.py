"""Images as a lock names them, with content that containerd can unpack, and AMIs that preload them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bundler.domain.ami import LockedAmi, Target
from bundler.domain.blob import Blob
from bundler.domain.digest import Digest
from bundler.domain.lock import Lock, LockedImage, LockedManifest
from bundler.domain.oci import Manifest, Platform, parse_manifest
from bundler.domain.reference import Reference
from tests.fakes.images import FakeImage

GOV = Target(partition="aws-us-gov", account="123456789012", region="us-gov-west-1", prefix="eks")
CHINA = Target(partition="aws-cn", account="210987654321", region="cn-north-1", prefix="team/eks")


class Contents:
    """Blobs by digest, read in small pieces, with a list of what was read."""

    def __init__(self, *images: FakeImage) -> None:
        self.read: list[Digest] = []
        self.blobs: dict[Digest, bytes] = {}
        for image in images:
            self.blobs |= image.blobs | {digest: raw for digest, (_, raw) in image.manifests.items()}

    def __call__(self, digest: Digest) -> Iterator[bytes]:
        self.read.append(digest)
        content = self.blobs[digest]
        for start in range(0, len(content), 500):
            yield content[start : start + 500]


def locked(name: str, made: FakeImage, *children: FakeImage) -> LockedImage:
    """`made` as the lock has it; `children` where it is an index."""
    return LockedImage(
        reference=Reference.parse(name),
        target=Blob(media_type=made.media_type, digest=made.digest, size=len(made.raw)),
        form="index" if children else "manifest",
        manifests=tuple(_manifest(child) for child in children or (made,)),
        origin="registry",
    )


def _manifest(made: FakeImage) -> LockedManifest:
    found = parse_manifest(made.raw, subject="fake")
    assert isinstance(found, Manifest)
    blobs = tuple(Blob.of(blob) for blob in found.blobs)
    return LockedManifest(
        media_type=found.media_type, digest=found.digest, size=len(made.raw), platform=made.platform, blobs=blobs
    )


def lock_of(*images: LockedImage, targets: tuple[Target, ...] = ()) -> Lock:
    platforms = (Platform.parse("linux/amd64"), Platform.parse("linux/arm64"))
    return Lock(
        name="test",
        sequence=1,
        created="2026-01-01T00:00:00Z",
        definition=Digest.of(b""),
        kubernetes_version="1.34",
        platforms=platforms,
        operator_platforms=platforms[:1],
        images=images,
        targets=targets,
    )


def ami_of(lock: Lock, **more: object) -> LockedAmi:
    """An AMI that preloads everything of `lock`."""
    values: Mapping[str, object] = {
        "name": "workers",
        "architecture": "amd64",
        "kind": "bake",
        "preload": tuple(image.reference for image in lock.images),
        **more,
    }
    return LockedAmi.model_validate(values)
