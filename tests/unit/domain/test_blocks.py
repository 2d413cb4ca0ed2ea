"""Block index and pack table: one spelling each; anything else is a typed error."""

from __future__ import annotations

import base64
import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.domain.blocks import BLOCKS_PER_GIB, BlockIndex, Volume, parse_block_index
from bundler.domain.digest import Digest
from bundler.domain.packs import FRAME_BLOCKS, Frame, PackTable, parse_pack_table
from bundler.errors import BundleError, FormatError, LimitError


def sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def volume(device: str, *numbers: int, gib: int = 1) -> Volume:
    return Volume.of(device, gib, [(number, sha256(f"content {number % 5}")) for number in numbers])


INDEX = BlockIndex(volumes=(volume("/dev/xvda", 0, 1, 7, 2047), volume("/dev/xvdb", 3, gib=20)))


@st.composite
def indexes(draw: st.DrawFn) -> BlockIndex:
    names = draw(st.lists(st.sampled_from(["/dev/sda1", "/dev/xvda", "/dev/xvdb", "nvme1n1"]), min_size=1, unique=True))
    volumes = []
    for name in sorted(names):
        gib = draw(st.integers(1, 3))
        numbers = draw(st.sets(st.integers(0, gib * BLOCKS_PER_GIB - 1), max_size=40))
        volumes.append(volume(name, *sorted(numbers), gib=gib))
    return BlockIndex(volumes=tuple(volumes))


@given(indexes())
def test_an_index_is_read_as_it_was_written(index: BlockIndex) -> None:
    found = parse_block_index(index.raw, subject="index")
    assert found == index
    assert found.digest == Digest.of(index.raw)


def test_equal_blocks_are_told_once_in_the_order_of_their_first_appearance() -> None:
    assert list(INDEX.distinct()) == [sha256(f"content {number}") for number in (0, 1, 2, 3)]


def test_the_aggregate_is_what_ebs_computes() -> None:
    """EBS direct APIs, CompleteSnapshot, ChecksumAggregationMethod LINEAR (coldsnap, src/upload.rs)."""
    whole = b"".join(sha256(f"content {number}") for number in (0, 1, 2, 2))
    assert INDEX.volumes[0].aggregate == hashlib.sha256(whole).digest()


HEADER, RECORDS = INDEX.raw.split(b"\n", 1)


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (b"", "is not a block index"),
        (HEADER, "is not a block index"),
        (HEADER + b" \n" + RECORDS, "one spelling"),
        (b"{}\n", "is not a block index"),
        (INDEX.raw[:-1], "ends within the blocks of /dev/xvdb"),
        (INDEX.raw + b"x", "more than the blocks"),
        (INDEX.raw.replace(b'"format":1', b'"format":2'), "of another format"),
        (INDEX.raw.replace(b"524288", b"512"), "of another format"),
        (INDEX.raw.replace(b'"gib":1}', b'"gib":0}'), "of a size that no volume has"),
        (INDEX.raw.replace(b'"gib":1}', b'"gib":true}'), "of a size that no volume has"),
        (INDEX.raw.replace(b'"blocks":4', b'"blocks":3000'), "more blocks than the device"),
        (INDEX.raw.replace(b"/dev/xvdb", b"/dev/xvda"), "each device once"),
        (INDEX.raw.replace(b"/dev/xvdb", b"/dev/x db"), "whose name is none"),
        (BlockIndex(volumes=(volume("a", 5, 5),)).raw, "block 5 of a out of order"),
        (BlockIndex(volumes=(volume("a", 7, 5),)).raw, "block 5 of a out of order"),
        (BlockIndex(volumes=(volume("a", 2048),)).raw, "block 2048 of a out of order, or beyond its end"),
        (BlockIndex(volumes=()).raw, "names no devices"),
    ],
)
def test_an_index_in_any_other_spelling_is_refused(raw: bytes, cause: str) -> None:
    with pytest.raises((FormatError, LimitError), match=cause):
        parse_block_index(raw, subject="index")


def test_an_index_of_more_than_a_tebibyte_is_refused_before_its_blocks_are_read() -> None:
    raw = HEADER.replace(b'"blocks":4', b'"blocks":134217728').replace(b'"gib":1}', b'"gib":65536}') + b"\n"
    with pytest.raises(LimitError, match="more than 2097152 blocks"):
        parse_block_index(raw, subject="index")


def table(*counts: int, packs: int = 1) -> PackTable:
    frames, first = [], 0
    for number, count in enumerate(counts):
        pack = min(number, packs - 1)
        offset = frames[-1].offset + frames[-1].length if frames and frames[-1].pack == pack else 0
        frames.append(Frame(pack=pack, offset=offset, length=1000 + number, first=first, count=count))
        first += count
    return PackTable(
        packs=tuple(Digest.of(bytes([number])) for number in range(packs)),
        frames=tuple(frames),
        blocks=b"".join(sha256(f"block {number}") for number in range(first)),
        made_with="0.25.0",
    )


@given(st.lists(st.integers(1, FRAME_BLOCKS), min_size=3, max_size=12), st.integers(1, 3))
def test_a_table_is_read_as_it_was_written(counts: list[int], packs: int) -> None:
    made = table(*counts, packs=packs)
    assert parse_pack_table(made.raw, subject="table") == made
    assert len(made) == sum(counts)


def test_a_table_without_blocks_is_one() -> None:
    empty = PackTable(packs=(), frames=(), blocks=b"", made_with="0.25.0")
    assert parse_pack_table(empty.raw, subject="table") == empty


def with_frames(*records: str) -> bytes:
    header = table(1).raw.split(b"\n")[0].replace(b'"frames":1', f'"frames":{len(records)}'.encode())
    return header + b"\n" + b"".join(bytes.fromhex(record) for record in records) + sha256("block 0")


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (b"", "is not a pack table"),
        (b"{}\n", "is not a pack table"),
        (table(32, 3).raw[:-1], "one digest for each block"),
        (table(32, 3).raw + b"x", "one digest for each block"),
        (table(1).raw[:-33], "ends within its frames"),
        (table(2).raw[:-32] + sha256("block 0"), "carries a block twice"),
        (table(1).raw.replace(b"sha256:", b"sha512:"), "is not a sha256 digest"),
        (table(1).raw.replace(b'"format":1', b'"format":9'), "of another format"),
        (with_frames("0001 000003e8 01"), "frames out of order"),
        (with_frames("0000 000003e8 00"), "frames out of order"),
        (with_frames("0000 000003e8 21"), "frames out of order"),
        (with_frames("0000 00000000 01"), "a frame of 0 bytes"),
        (with_frames("0000 7fffffff 01"), "a frame of 2147483647 bytes"),
        (with_frames(), "names packs that hold no frame"),
    ],
)
def test_a_table_in_any_other_spelling_is_refused(raw: bytes, cause: str) -> None:
    with pytest.raises((FormatError, LimitError), match=cause):
        parse_pack_table(raw, subject="table")


def test_a_pack_is_never_larger_than_a_blob_of_256_mib() -> None:
    record = "00000100000020"
    raw = table(1).raw.split(b"\n")[0].replace(b'"frames":1', b'"frames":17') + b"\n" + bytes.fromhex(record) * 17
    with pytest.raises(LimitError, match="a pack of over"):
        parse_pack_table(raw, subject="table")


@pytest.mark.parametrize(
    ("good", "parse"), [(INDEX.raw, parse_block_index), (table(32, 32, 5, packs=2).raw, parse_pack_table)]
)
def test_thousands_of_mutations_are_refused_with_a_typed_error_or_mean_the_same(good: bytes, parse: object) -> None:
    chance = random.Random(3)
    refused = 0
    for _ in range(4000):
        raw = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        if chance.random() < 0.3:
            del raw[chance.randrange(len(raw)) :]
        try:
            found = parse(bytes(raw), subject=base64.b64encode(raw[:8]).decode())  # type: ignore[operator]
        except BundleError:
            refused += 1
        else:
            assert found.raw == bytes(raw)
    assert refused > 1000
