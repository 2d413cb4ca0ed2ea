"""Read back: every block of a snapshot against the index; what differs is counted and the first ones are named."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from bundler.domain.blocks import BLOCK_BYTES, Volume
from bundler.domain.events import BytesMoved, Event
from bundler.domain.snapshot import FoundSnapshot
from bundler.errors import ConflictError
from bundler.stages.read_back import ReadBack, read_back
from bundler.transfer import Pace
from tests.fakes.account import Account
from tests.fakes.amis import block, sha256

SEEDS = {number: number % 7 for number in range(0, 600, 3)}
VOLUME = Volume.of("/dev/xvda", 1, [(number, sha256(seed)) for number, seed in SEEDS.items()])
WHOLE = {number: block(seed) for number, seed in SEEDS.items()}
ZEROS = bytes(BLOCK_BYTES)


def account_with(blocks: Mapping[int, bytes]) -> Account:
    account = Account()
    account.made["snap-1"] = FoundSnapshot(id="snap-1", state="completed", tags={})
    account.content["snap-1"] = dict(blocks)
    return account


def looked_at(blocks: Mapping[int, bytes], volume: Volume = VOLUME) -> ReadBack:
    return read_back(volume, "snap-1", reader=account_with(blocks))


def test_a_snapshot_that_holds_what_it_should_has_no_problems() -> None:
    found = looked_at(WHOLE)
    assert found.problems == ()
    assert (found.right, found.gib) == (200, 1)


def test_every_block_is_read_once_and_told() -> None:
    account, events = account_with(WHOLE), list[Event]()
    read_back(VOLUME, "snap-1", reader=account, pace=Pace(emit=events.append))
    assert sorted(account.reading) == sorted(WHOLE)
    assert sum(event.count for event in events if isinstance(event, BytesMoved)) == 200 * BLOCK_BYTES


def test_progress_ends_at_the_plan_whatever_the_snapshot_holds() -> None:
    events: list[Event] = []
    other = {number: raw for number, raw in WHOLE.items() if number > 100} | {1: block(1), 599: ZEROS}
    read_back(VOLUME, "snap-1", reader=account_with(other), pace=Pace(emit=events.append))
    assert sum(event.count for event in events if isinstance(event, BytesMoved)) == len(VOLUME) * BLOCK_BYTES


def test_one_bit_in_one_block_is_found_and_named() -> None:
    wrong = bytearray(WHOLE[300])
    wrong[-1] ^= 1
    assert looked_at({**WHOLE, 300: bytes(wrong)}).problems == ("different: 1 (300)",)


def test_blocks_that_have_traded_places_are_different() -> None:
    assert looked_at({**WHOLE, 3: WHOLE[6], 6: WHOLE[3]}).problems == ("different: 2 (3, 6)",)


def test_a_block_that_is_not_written_is_missing() -> None:
    found = looked_at({number: raw for number, raw in WHOLE.items() if number not in (0, 597)})
    assert found.problems == ("missing: 2 (0, 597)",)
    assert found.right == 198


def test_a_block_that_nobody_signed_is_additional_unless_it_is_zeros() -> None:
    assert looked_at({**WHOLE, 1: ZEROS, 2000: ZEROS}).problems == ()
    assert looked_at({**WHOLE, 1: ZEROS, 2: block(9), 2000: block(9)}).problems == ("additional: 2 (2, 2000)",)


def test_zeros_in_the_place_of_a_block_are_different() -> None:
    assert looked_at({**WHOLE, 9: ZEROS}).problems == ("different: 1 (9)",)


def test_of_many_only_the_first_are_named() -> None:
    assert looked_at({}).problems == ("missing: 200 (0, 3, 6, 9, 12, …)",)


def test_all_kinds_are_told_at_once() -> None:
    found = looked_at({**{number: raw for number, raw in WHOLE.items() if number}, 3: block(99), 4: block(99)})
    assert found.problems == ("missing: 1 (0)", "additional: 1 (4)", "different: 1 (3)")


def test_a_volume_without_blocks_has_none() -> None:
    empty = Volume.of("/dev/xvda", 1, [])
    assert looked_at({}, empty).problems == ()
    assert looked_at({5: block(1)}, empty).problems == ("additional: 1 (5)",)


def test_the_size_of_the_volume_is_told() -> None:
    account = account_with(WHOLE)
    account.gib["snap-1"] = 7
    assert read_back(VOLUME, "snap-1", reader=account).gib == 7


def test_a_snapshot_that_does_not_exist_is_a_conflict() -> None:
    with pytest.raises(ConflictError, match="does not exist"):
        read_back(VOLUME, "snap-2", reader=account_with(WHOLE))
