"""From docker's own form of an image to an OCI manifest with uncompressed layers; blobs go into the cache.

The config stays byte for byte, so the image id stays; the manifest follows from config and layers alone, so that the
same image always gets the same digest.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from bundler.adapters.content import Checked
from bundler.adapters.tar_index import IndexedTar
from bundler.cache import Cache
from bundler.domain.digest import Digest
from bundler.domain.oci import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    parse_diff_ids,
    parse_manifest,
)
from bundler.errors import DigestError, FormatError, LimitError, NotFoundUpstreamError
from bundler.ports import Sink

MAX_CONFIG_BYTES = 8 << 20
MAX_LAYER_BYTES = 64 << 30
_INFLATED_CHUNK_BYTES = 1 << 20
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedImage:
    """One image of a `docker save` archive: names of its members, and its tags."""

    config: str
    tags: tuple[str, ...]
    layers: tuple[str, ...]


def export(archive: IndexedTar, image: SavedImage, *, cache: Cache, subject: str) -> Manifest:
    """Put an image's config and layers into the cache, as far as it lacks them; return its manifest.

    Raises:
        FormatError: config and layers do not fit each other.
        DigestError: a layer is not what the config says.
    """
    config = archive.read(image.config, limit=MAX_CONFIG_BYTES)
    diff_ids = parse_diff_ids(config, subject=subject)
    if len(diff_ids) != len(image.layers):
        raise FormatError(subject, f"has {len(image.layers)} layers, its config names {len(diff_ids)}")
    sizes: dict[Digest, int] = {}
    for digest, member in zip(diff_ids, image.layers, strict=True):
        if digest not in sizes:
            kept = _kept_size(cache, digest)
            sizes[digest] = _add(archive, member, digest, cache, subject) if kept is None else kept
    cache.put(config)
    return _manifest(config, [(digest, sizes[digest]) for digest in diff_ids], subject)


def exported(cache: Cache, image_id: Digest, *, subject: str) -> Manifest | None:
    """Return the manifest of an image that the cache holds whole and undamaged, None otherwise."""
    config = cache.get(image_id)
    if config is None:
        return None
    try:
        diff_ids = parse_diff_ids(config, subject=subject)
    except FormatError:  # with containerd's image store, the id is not that of a config
        return None
    layers = []
    for digest in diff_ids:
        size = _kept_size(cache, digest)
        if size is None:
            return None
        layers.append((digest, size))
    return _manifest(config, layers, subject)


def read_exported(
    cache: Cache, blob: Descriptor, sink: Sink, *, restart: Callable[[], None], again: Callable[[], object]
) -> None:
    """Send an exported blob to `sink`; where the cache lost it, `again` exports the image once more.

    Raises:
        NotFoundUpstreamError: the image, as it is now, has no such blob.
    """
    for _ in range(2):
        with suppress(FileNotFoundError, DigestError):
            checked = Checked(blob, subject=str(blob.digest))
            for piece in cache.read(blob.digest):
                checked.add(memoryview(piece))
                sink(memoryview(piece))
            checked.finish()
            return
        restart()
        again()
    raise NotFoundUpstreamError(str(blob.digest), "is not a blob of the image as it is now")


def _manifest(config: bytes, layers: list[tuple[Digest, int]], subject: str) -> Manifest:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
        "layers": [{"mediaType": OCI_LAYER, "digest": str(digest), "size": size} for digest, size in layers],
    }
    raw = json.dumps(document, separators=(",", ":")).encode()
    found = parse_manifest(raw, subject=subject)
    if not isinstance(found, Manifest):
        raise FormatError(subject, "is not one image")
    return found


def _kept_size(cache: Cache, digest: Digest) -> int | None:
    """Return the size of a cached blob after reading it through; None where it is absent or damaged."""
    try:
        return sum(len(piece) for piece in cache.read(digest))
    except (FileNotFoundError, DigestError):
        return None


def _add(archive: IndexedTar, member: str, digest: Digest, cache: Cache, subject: str) -> int:
    try:
        return cache.add(_uncompressed(archive.pieces(member), subject), expect=digest)[1]
    except DigestError as error:
        raise DigestError(subject, f"layer {member[:100]!r} is not what the config says: {error.cause}") from error


def _uncompressed(pieces: Iterator[bytes], subject: str) -> Iterator[bytes]:
    """Yield a layer as its diff id names it; daemons with containerd's image store keep layers compressed."""
    first = next(pieces, b"")
    if first.startswith(_ZSTD):
        raise FormatError(subject, "has a layer in zstd, which this tool does not unpack")
    if not first.startswith(_GZIP):
        yield first
        yield from pieces
        return
    inflate, count = zlib.decompressobj(wbits=31), 0
    for piece in _chain(first, pieces):
        rest = piece
        while rest:
            try:
                inflated = inflate.decompress(rest, _INFLATED_CHUNK_BYTES)
            except zlib.error as error:
                raise FormatError(subject, f"has a layer that is no gzip ({error})") from error
            count += len(inflated)
            if count > MAX_LAYER_BYTES:
                raise LimitError(subject, f"has a layer of more than {MAX_LAYER_BYTES} bytes")
            yield inflated
            rest = inflate.unconsumed_tail if not inflate.eof else b""
    if not inflate.eof:
        raise FormatError(subject, "has a layer whose gzip is cut off")


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest
