"""Image layers whose bytes are the same on every machine: tar, gzip and zstd written here, by nobody's library version.

gzip is RFC 1952 over stored blocks of RFC 1951 §3.2.4; zstd is one frame of raw blocks (RFC 8878 §3.1.1). Both hold
the content as it is: what is lost in size is won in digests that no zlib or libzstd release can move.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from bundler.domain.digest import Digest

Compression = Literal["gzip", "zstd"]
_BLOCK_BYTES = 512
_DEFLATE_BLOCK_BYTES = 65_535
_ZSTD_BLOCK_BYTES = 128 << 10
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_DESCRIPTOR = bytes([0xC0, 0x38])  # 8-byte content size, no checksum; window of 128 KiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Bytes that can be read again and again: `size` of them."""

    size: int
    read: Callable[[], Iterator[bytes]]

    @classmethod
    def of(cls, text: bytes) -> Content:
        """Return `text` as content."""
        return cls(size=len(text), read=lambda: iter((text,)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a layer: a file with `content`, a symbolic link to `link`, else a folder."""

    path: str
    mode: int = 0o755
    content: Content | None = None
    link: str | None = None

    @property
    def size(self) -> int:
        """Length of the content in bytes."""
        return 0 if self.content is None else self.content.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Digest and size (bytes) of a packed layer, and the digest of the tar inside."""

    digest: Digest
    size: int
    diff_id: Digest


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer by its entries, in their order."""

    entries: tuple[Entry, ...]
    compression: Compression = "gzip"

    @cached_property
    def measured(self) -> Measured:
        """What a manifest and a config say of the layer; reads the content once."""
        inner, outer, size = hashlib.sha256(), hashlib.sha256(), 0
        for chunk in self._packed(_seen(tar_stream(self.entries), inner.update)):
            outer.update(chunk)
            size += len(chunk)
        return Measured(digest=_digest(outer.hexdigest()), size=size, diff_id=_digest(inner.hexdigest()))

    def read(self) -> Iterator[bytes]:
        """Yield the packed layer in small chunks."""
        return self._packed(tar_stream(self.entries))

    def _packed(self, tar: Iterator[bytes]) -> Iterator[bytes]:
        return gzip_stored(tar) if self.compression == "gzip" else zstd_raw(tar, self._tar_bytes)

    @property
    def _tar_bytes(self) -> int:
        return sum(_BLOCK_BYTES + _padded(entry.size) for entry in self.entries) + 2 * _BLOCK_BYTES


def tar_stream(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Yield a tar of `entries`, in their order."""
    for entry in entries:
        yield _tar_header(entry)
        if entry.content is not None:
            yield from entry.content.read()
            yield bytes(_padded(entry.size) - entry.size)
    yield bytes(2 * _BLOCK_BYTES)


def _tar_header(entry: Entry) -> bytes:
    """Return the ustar header (POSIX.1-1988) of an entry: root's, of 1 January 1970."""
    kind = b"0" if entry.content is not None else b"2" if entry.link is not None else b"5"
    name = entry.path + "/" * (kind == b"5")
    fields = struct.pack(
        "100s8s8s8s12s12s8sc100s8s",
        name.encode(), b"%07o\0" % entry.mode, b"%07o\0" % 0, b"%07o\0" % 0, b"%011o\0" % entry.size, b"%011o\0" % 0,
        b" " * 8, kind, (entry.link or "").encode(), b"ustar\x0000",
    )  # fmt: skip
    checksum = b"%06o\0 " % sum(fields)
    return (fields[:148] + checksum + fields[156:]).ljust(_BLOCK_BYTES, b"\0")


def gzip_stored(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a gzip member that holds `chunks` in stored blocks."""
    yield b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    crc, size = 0, 0
    for block, is_last in _blocks(chunks, _DEFLATE_BLOCK_BYTES):
        crc, size = zlib.crc32(block, crc), size + len(block)
        yield struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF)
        yield block
    yield struct.pack("<II", crc, size & 0xFFFFFFFF)


def zstd_raw(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield a zstd frame that holds `chunks`, `size` bytes in all, in raw blocks."""
    yield _ZSTD_MAGIC + _ZSTD_DESCRIPTOR + struct.pack("<Q", size)
    for block, is_last in _blocks(chunks, _ZSTD_BLOCK_BYTES):
        yield struct.pack("<I", is_last | len(block) << 3)[:3]
        yield block


def _blocks(chunks: Iterable[bytes], length: int) -> Iterator[tuple[bytes, bool]]:
    """Yield blocks of exactly `length` bytes and a last one of the rest, each with whether it is the last."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        start = 0
        while len(held) - start > length:
            yield bytes(held[start : start + length]), False
            start += length
        del held[:start]
    yield bytes(held), True


def _seen(chunks: Iterable[bytes], see: Callable[[bytes], object]) -> Iterator[bytes]:
    for chunk in chunks:
        see(chunk)
        yield chunk


def _padded(size: int) -> int:
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES


def _digest(text: str) -> Digest:
    return Digest(f"sha256:{text}")
