"""Whether a lock says of its images and charts what their own manifests say."""

from __future__ import annotations

from collections.abc import Callable

from bundler.domain.blob import Blob
from bundler.domain.digest import Digest
from bundler.domain.lock import Lock, LockedImage, LockedManifest
from bundler.domain.oci import Index, Manifest, parse_manifest
from bundler.errors import FormatError, LockChangedError


def check_manifests(lock: Lock, *, read: Callable[[Digest], bytes]) -> None:
    """Check that the lock says of each image and chart what its manifests say: an edited or badly merged one does not.

    Args:
        lock: names manifests and their blobs.
        read: gives a manifest, its digest right.

    Raises:
        LockChangedError: it says something else.
    """
    for image in lock.images:
        subject = str(image.reference)
        for manifest in image.manifests:
            _check(_says(manifest, _parsed(manifest.blob, read, subject)), subject)
        _check(_is_whole(image, _parsed(image.target, read, subject)), subject)
    for chart in lock.charts:
        _check(_says(chart.manifest, _parsed(chart.manifest.blob, read, chart.reference)), chart.reference)


def _parsed(blob: Blob, read: Callable[[Digest], bytes], subject: str) -> Manifest | Index | None:
    try:
        return parse_manifest(read(blob.digest), subject=subject, media_type=blob.media_type)
    except FormatError:
        return None


def _says(locked: LockedManifest, found: Manifest | Index | None) -> bool:
    return isinstance(found, Manifest) and locked.blobs == tuple(Blob.of(blob) for blob in found.blobs)


def _is_whole(image: LockedImage, target: Manifest | Index | None) -> bool:
    carried = {manifest.digest for manifest in image.manifests}
    if image.form == "manifest":
        return isinstance(target, Manifest) and carried == {image.target.digest}
    children = {child.digest for child in target.manifests} if isinstance(target, Index) else set()
    return children == carried and (image.form == "derived") == (image.upstream is not None)


def _check(right: bool, subject: str) -> None:
    if not right:
        hint = "Make it again: bundle lock"
        raise LockChangedError(subject, "the lock describes it otherwise than its own manifests do", hint=hint)
