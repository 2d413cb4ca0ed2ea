"""Listed blocks, packed: a sequence like any other."""

from __future__ import annotations

import pytest

from bundler.domain.snapshot import BlockList, ListedBlock

BLOCKS = [ListedBlock(number, token) for number, token in ((0, "a"), (7, ""), (1 << 27, "ü" * 256), (1 << 28, "z"))]


def packed() -> BlockList:
    made = BlockList()
    for block in BLOCKS:
        made.add(block)
    return made


def test_blocks_come_out_as_they_went_in() -> None:
    assert list(packed()) == BLOCKS
    assert len(packed()) == 4
    assert not BlockList()


def test_a_place_from_the_end_and_a_stretch_are_found() -> None:
    assert packed()[-1] == BLOCKS[-1]
    assert packed()[1:3] == BLOCKS[1:3]
    with pytest.raises(IndexError):
        packed()[4]
