"""Packs: the same blocks come out, or a typed error; never more than the table says."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import zstandard

from bundler.archive.packs import PackedFrame, PackWriter, compress, unpack
from bundler.domain.blocks import BLOCK_BYTES
from bundler.domain.digest import Digest
from bundler.domain.packs import MAX_PACK_BYTES, PackTable, parse_pack_table
from bundler.errors import DigestError, FormatError, RefusedError


def block(number: int) -> bytes:
    """A block that compresses about as a file system does."""
    return random.Random(number).randbytes(BLOCK_BYTES // 4) + bytes(BLOCK_BYTES - BLOCK_BYTES // 4)


def frame_of(*numbers: int) -> PackedFrame:
    blocks = [block(number) for number in numbers]
    return compress(blocks, tuple(hashlib.sha256(raw).digest() for raw in blocks))


class Kept:
    """Packs by digest."""

    def __init__(self) -> None:
        self.packs: dict[Digest, bytes] = {}

    def __call__(self, pieces: list[bytes]) -> Digest:
        content = b"".join(pieces)
        digest = Digest.of(content)
        self.packs[digest] = content
        return digest

    def read(self, table: PackTable) -> list[bytes]:
        """Every block that the table carries, in its order."""
        found = []
        for frame in table.frames:
            content = self.packs[table.packs[frame.pack]][frame.offset : frame.offset + frame.length]
            found += [bytes(raw) for _, raw in unpack(content, frame, table=table, subject="pack")]
        return found


def test_blocks_come_out_of_packs_as_they_went_in() -> None:
    kept = Kept()
    writer = PackWriter(keep=kept)
    writer.add(frame_of(*range(32)))
    writer.add(frame_of(32, 33, 34))
    table = parse_pack_table(writer.finish().raw, subject="table")
    assert kept.read(table) == [block(number) for number in range(35)]
    assert len(table.packs) == 1


def test_the_same_blocks_give_the_same_frame() -> None:
    assert frame_of(1, 2, 3) == frame_of(1, 2, 3)


def test_a_pack_ends_before_it_is_too_large_and_a_writer_goes_on_from_a_table() -> None:
    sizes: list[int] = []

    def keep(pieces: list[bytes]) -> Digest:
        sizes.append(sum(map(len, pieces)))
        return Digest.of(str(len(sizes)).encode())

    def large(number: int) -> PackedFrame:
        return PackedFrame(content=bytes(100 << 20), digests=(hashlib.sha256(str(number).encode()).digest(),))

    writer = PackWriter(keep=keep)
    assert [writer.add(large(number)) for number in range(5)] == [False, False, True, False, True]
    assert sizes == [200 << 20, 200 << 20]
    assert max(sizes) <= MAX_PACK_BYTES
    table = writer.finish()
    again = PackWriter(keep=keep, table=table)
    again.add(large(5))
    whole = again.finish()
    assert whole.frames[:5] == table.frames
    assert (whole.frames[5].pack, whole.frames[5].offset, whole.frames[5].first) == (3, 0, 5)
    assert len(whole) == 6


def one(frame: PackedFrame) -> tuple[bytes, PackTable]:
    kept = Kept()
    writer = PackWriter(keep=kept)
    writer.add(frame)
    table = writer.finish()
    return kept.packs[table.packs[0]], table


CONTENT, TABLE = one(frame_of(1, 2))
PLACE = TABLE.frames[0]


def bomb() -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(bytes(512 << 20))


def wide() -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(19, window_log=27, write_checksum=True)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(block(1) + block(2))


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"",
        lambda: b"not zstd at all",
        lambda: CONTENT[:-1],
        lambda: CONTENT + b"x",
        lambda: CONTENT + CONTENT,
        lambda: zstandard.ZstdCompressor(write_checksum=True).compress(block(1)),
        lambda: zstandard.ZstdCompressor(write_checksum=False).compress(block(1) + block(2)),
        bomb,
    ],
    ids=["empty", "text", "cut", "more", "twice", "one block", "no checksum", "bomb"],
)
def test_what_is_not_the_frame_of_the_table_is_refused(make: Callable[[], bytes]) -> None:
    with pytest.raises(FormatError):
        list(unpack(make(), PLACE, table=TABLE, subject="pack"))


def test_another_block_is_refused_before_it_is_handed_out() -> None:
    content, _ = one(frame_of(1, 3))
    handed: list[bytes] = []
    with pytest.raises(DigestError, match="number 1"):
        handed.extend(bytes(raw) for _, raw in unpack(content, PLACE, table=TABLE, subject="pack"))
    assert handed == [block(1)]


def test_bits_that_flip_are_always_noticed() -> None:
    chance = random.Random(1)
    for _ in range(300):
        raw = bytearray(CONTENT)
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        try:
            found = [bytes(each) for _, each in unpack(bytes(raw), PLACE, table=TABLE, subject="pack")]
        except RefusedError:
            continue
        assert found == [block(1), block(2)]


def test_a_frame_in_a_larger_window_than_its_blocks_is_refused_or_the_same() -> None:
    table = replace(TABLE, frames=(replace(PLACE, length=len(wide())),))
    try:
        found = [bytes(raw) for _, raw in unpack(wide(), table.frames[0], table=table, subject="pack")]
    except FormatError:
        return
    assert found == [block(1), block(2)]
