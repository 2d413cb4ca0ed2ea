"""Which pack carries which block: the *pack table* of an AMI.

Distinct blocks stand in frames of 32, each compressed by itself (RFC 8878: one zstd frame with content size and
checksum); frames stand one after another in packs of at most 256 MiB, ordinary blobs of the archive. The table is one
line of JSON, then a record of 7 bytes for each frame (pack, 16 bits; length, 32 bits; blocks, 8 bits;
big-endian), then the raw SHA-256 of every carried block in the order of the frames. Offsets are computed, never stored.

Another version of zstandard may make other packs of the same blocks: the block index, not the table, tells what is
equal.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from bundler.domain.blocks import BLOCK_BYTES, MAX_BLOCKS
from bundler.domain.canonical import canonical_json, parse_canonical_json
from bundler.domain.digest import Digest
from bundler.errors import FormatError, LimitError

FRAME_BLOCKS = 32
MAX_PACK_BYTES = 256 << 20
FORMAT = 1
_MAX_HEADER_BYTES = 1 << 20
_MAX_FRAME_BYTES = FRAME_BLOCKS * BLOCK_BYTES + (FRAME_BLOCKS * BLOCK_BYTES >> 8) + 4096  # incompressible, and a little
_RECORD = struct.Struct(">HIB")
DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Up to 32 blocks, compressed together.

    Attributes:
        pack: which of the table's packs it stands in.
        offset: where, in bytes.
        length: compressed, in bytes.
        first: position of its first block among the table's blocks.
        count: how many blocks it holds.
    """

    pack: int
    offset: int
    length: int
    first: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackTable:
    """Packs, frames and blocks of one AMI.

    Attributes:
        packs: digest of each pack, in the order of their use.
        frames: in the order of the blocks.
        blocks: raw SHA-256 of each carried block, 32 bytes each, in the order of the frames.
        made_with: the version of zstandard that compressed them.
    """

    packs: tuple[Digest, ...]
    frames: tuple[Frame, ...]
    blocks: bytes
    made_with: str

    def __len__(self) -> int:
        return len(self.blocks) // DIGEST_BYTES

    def all_digests(self) -> Iterator[bytes]:
        """Yield the raw SHA-256 of every carried block."""
        for frame in self.frames:
            yield from self.digests(frame)

    def digests(self, frame: Frame) -> Iterator[bytes]:
        """Yield the raw SHA-256 of each block of a frame."""
        for position in range(frame.first, frame.first + frame.count):
            yield self.blocks[position * DIGEST_BYTES : (position + 1) * DIGEST_BYTES]

    @property
    def raw(self) -> bytes:
        """The table as it is stored."""
        packs = [str(pack) for pack in self.packs]
        header = canonical_json({"format": FORMAT, "frames": len(self.frames), "packs": packs, "zstd": self.made_with})
        records = (_RECORD.pack(frame.pack, frame.length, frame.count) for frame in self.frames)
        return b"".join([header, b"\n", *records, self.blocks])


def parse_pack_table(raw: bytes, *, subject: str) -> PackTable:
    """Return the table in `raw`.

    Raises:
        FormatError: anything but the one spelling that `PackTable.raw` gives.
        LimitError: more frames than an AMI may have, a frame or a pack that is too large.
    """
    header, separator, rest = raw.partition(b"\n")
    if not separator or len(header) > _MAX_HEADER_BYTES:
        raise FormatError(subject, "is not a pack table")
    packs, count, made_with = _header(header, subject)
    end = count * _RECORD.size
    if len(rest) < end:
        raise FormatError(subject, "ends within its frames")
    frames = tuple(_frames(rest[:end], len(packs), subject))
    blocks = rest[end:]
    if len(blocks) != sum(frame.count for frame in frames) * DIGEST_BYTES:
        raise FormatError(subject, "does not have one digest for each block of its frames")
    table = PackTable(packs=packs, frames=frames, blocks=blocks, made_with=made_with)
    if len({digest for frame in frames for digest in table.digests(frame)}) != len(table):
        raise FormatError(subject, "carries a block twice")
    return table


def _header(raw: bytes, subject: str) -> tuple[tuple[Digest, ...], int, str]:
    value = parse_canonical_json(raw, subject=subject)
    if not isinstance(value, dict) or set(value) != {"format", "frames", "packs", "zstd"}:
        raise FormatError(subject, "is not a pack table")
    packs, count, made_with = value["packs"], value["frames"], value["zstd"]
    if value["format"] != FORMAT or not isinstance(made_with, str) or len(made_with) > 100:
        raise FormatError(subject, "is a pack table of another format")
    if type(count) is not int or not isinstance(packs, list) or not all(isinstance(pack, str) for pack in packs):
        raise FormatError(subject, "is not a pack table")
    if not 0 <= count <= MAX_BLOCKS or len(packs) >= 1 << 16:
        raise LimitError(subject, "has more frames than an AMI may have")
    return tuple(Digest.parse(pack) for pack in packs), count, made_with


def _frames(records: bytes, packs: int, subject: str) -> Iterator[Frame]:
    """Yield the frames; packs are used one after another and none is left out."""
    current, offset, first = -1, 0, 0
    for pack, length, count in _RECORD.iter_unpack(records):
        if pack not in (current, current + 1) or pack >= packs or not 0 < count <= FRAME_BLOCKS:
            raise FormatError(subject, "has frames out of order")
        if pack != current:
            current, offset = pack, 0
        if not 0 < length <= _MAX_FRAME_BYTES or offset + length > MAX_PACK_BYTES:
            raise LimitError(subject, f"has a frame of {length} bytes, or a pack of over {MAX_PACK_BYTES}")
        yield Frame(pack=pack, offset=offset, length=length, first=first, count=count)
        offset, first = offset + length, first + count
    if current != packs - 1:
        raise FormatError(subject, "names packs that hold no frame")
