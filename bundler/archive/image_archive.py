"""An OCI image archive with one image of one platform, as `ctr images import` takes it: no clock, no host in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator

from bundler.archive.header import END_BYTES, member_header, padding
from bundler.archive.image_layout import CONTAINERD_NAME, INDEX_PATH, OCI_LAYOUT, OCI_LAYOUT_PATH, REF_NAME
from bundler.domain.blob import Blob
from bundler.domain.canonical import canonical_json
from bundler.domain.digest import Digest
from bundler.domain.oci import OCI_INDEX
from bundler.domain.preload import Preload
from bundler.errors import DigestError

Read = Callable[[Digest], Iterator[bytes]]
"""Gives the content of a blob, in pieces."""


def image_archive(preload: Preload, read: Read) -> Iterator[bytes]:
    """Yield the archive, every blob checked on its way; children of other platforms are absent from it.

    Raises:
        DigestError: `read` gives something else than it was asked for.
    """
    for path, content in ((OCI_LAYOUT_PATH, OCI_LAYOUT), (INDEX_PATH, _index(preload))):
        yield from _member(path, len(content), [content])
    for blob in preload.blobs:
        yield from _member(f"blobs/sha256/{blob.digest.hex}", blob.size, _checked(blob, read))
    yield bytes(END_BYTES)


def _index(preload: Preload) -> bytes:
    name = preload.names[0]
    entry = {
        "annotations": {CONTAINERD_NAME: name, REF_NAME: name},
        "digest": str(preload.target.digest),
        "mediaType": preload.target.media_type,
        "size": preload.target.size,
    }
    return canonical_json({"manifests": [entry], "mediaType": OCI_INDEX, "schemaVersion": 2})


def _member(path: str, size: int, content: Iterable[bytes]) -> Iterator[bytes]:
    yield member_header(path, size)
    yield from content
    yield bytes(padding(size))


def _checked(blob: Blob, read: Read) -> Iterator[bytes]:
    seen, size = hashlib.sha256(), 0
    for piece in read(blob.digest):
        size += len(piece)
        if size > blob.size:
            break
        seen.update(piece)
        yield piece
    if size != blob.size or seen.hexdigest() != blob.digest.hex:
        raise DigestError(str(blob.digest), f"is not what was read for it: {size} bytes, {blob.size} are expected")
