"""Packs: blocks -> compressed frames -> blobs of at most 256 MiB, and back (format: domain/packs.py).

Only here is zstandard used. Same blocks, same level and same zstandard: same packs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import zstandard

from bundler.domain.blocks import BLOCK_BYTES
from bundler.domain.digest import Digest
from bundler.domain.packs import DIGEST_BYTES, FRAME_BLOCKS, MAX_PACK_BYTES, Frame, PackTable
from bundler.errors import DigestError, FormatError

LEVEL = 3
_MAX_WINDOW_BYTES = FRAME_BLOCKS * BLOCK_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedFrame:
    """A compressed frame, and the raw SHA-256 of each of its blocks."""

    content: bytes
    digests: tuple[bytes, ...]


def compress(blocks: list[bytes], digests: tuple[bytes, ...], *, level: int = LEVEL) -> PackedFrame:
    """Return up to 32 blocks (in pieces of any size) as one zstd frame; the same at any time and in any thread."""
    packer = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
    return PackedFrame(content=packer.compress(b"".join(blocks)), digests=digests)


class NewPack(Protocol):
    """A pack that grows."""

    def write(self, piece: bytes, /) -> None:
        """Add to it."""
        ...

    def finish(self) -> tuple[Digest, int]:
        """Keep it; return its digest and its size in bytes."""
        ...

    def drop(self) -> None:
        """Forget it; a pack that is finished stays."""
        ...


class PackWriter:
    """Puts frames one after another into packs, and keeps the table of them.

    `keep` is handed each finished pack, as its pieces in order, and gives its digest; `into` writes packs as they grow.
    """

    def __init__(self, *, keep: Callable[[list[bytes]], Digest], table: PackTable | None = None) -> None:
        self._begin: Callable[[], NewPack] = lambda: _Gathered(keep)
        self._packs = [] if table is None else list(table.packs)
        self._frames = [] if table is None else list(table.frames)
        self._digests = [] if table is None else [table.blocks]
        self._open: NewPack | None = None
        self._offset = 0
        self._first = 0 if table is None else len(table)

    @classmethod
    def into(cls, begin: Callable[[], NewPack], *, table: PackTable | None = None) -> PackWriter:
        """Return a writer that holds no pack in memory."""
        made = cls(keep=lambda _: Digest.of(b""), table=table)
        made._begin = begin
        return made

    @property
    def finished(self) -> PackTable:
        """The table of the packs that are finished."""
        frames = tuple(frame for frame in self._frames if frame.pack < len(self._packs))
        count = frames[-1].first + frames[-1].count if frames else 0
        blocks = b"".join(self._digests)[: count * DIGEST_BYTES]
        return PackTable(packs=tuple(self._packs), frames=frames, blocks=blocks, made_with=zstandard.__version__)

    def add(self, frame: PackedFrame) -> bool:
        """Add a frame; return whether a pack was finished to make room for it."""
        finished = self._offset + len(frame.content) > MAX_PACK_BYTES
        if finished:
            self._finish()
        if self._open is None:
            self._open = self._begin()
        place = Frame(
            pack=len(self._packs),
            offset=self._offset,
            length=len(frame.content),
            first=self._first,
            count=len(frame.digests),
        )
        self._frames.append(place)
        self._digests.append(b"".join(frame.digests))
        self._open.write(frame.content)
        self._offset += len(frame.content)
        self._first += len(frame.digests)
        return finished

    def finish(self) -> PackTable:
        """Finish the last pack and return the table of all."""
        self._finish()
        return self.finished

    def close(self) -> None:
        """Forget a pack that is not finished."""
        if self._open is not None:
            self._open.drop()
            self._open = None

    def _finish(self) -> None:
        if self._open is not None:
            self._packs.append(self._open.finish()[0])
            self._open, self._offset = None, 0


def no_packs() -> PackTable:
    """Return the table of an AMI of which no block is carried."""
    return PackWriter(keep=lambda _: Digest.of(b"")).finish()


class _Gathered:
    """A pack in memory, handed over whole."""

    def __init__(self, keep: Callable[[list[bytes]], Digest]) -> None:
        self._keep = keep
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def finish(self) -> tuple[Digest, int]:
        return self._keep(self._pieces), sum(map(len, self._pieces))

    def drop(self) -> None:
        self._pieces = []


def unpack(content: bytes, frame: Frame, *, table: PackTable, subject: str) -> Iterator[tuple[bytes, memoryview]]:
    """Yield digest and bytes of each block of a frame, every one verified before it is handed out.

    Raises:
        FormatError: not the zstd frame that the table describes; nothing beyond its size is ever made of it.
        DigestError: a block is not what the table says.
    """
    raw = memoryview(_decompress(content, frame.count * BLOCK_BYTES, subject))
    for number, digest in enumerate(table.digests(frame)):
        block = raw[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES]
        if hashlib.sha256(block).digest() != digest:
            raise DigestError(subject, f"holds another block than the table says (number {frame.first + number})")
        yield digest, block


def _decompress(content: bytes, size: int, subject: str) -> bytes:
    try:
        stated = zstandard.get_frame_parameters(content)
        if stated.content_size != size or stated.window_size > _MAX_WINDOW_BYTES or not stated.has_checksum:
            raise FormatError(subject, f"has a frame that does not hold {size} bytes with a checksum")
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        raw = decompressor.decompress(content, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError(subject, f"has a frame that is not zstd: {str(error)[:100]}") from error
    if len(raw) != size:
        raise FormatError(subject, f"has a frame of {len(raw)} bytes instead of {size}")
    return raw
