"""Differences between block indexes: what one becomes another by, and the way back."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.domain.bake import kept_bakes
from bundler.domain.blocks import BLOCKS_PER_GIB, BlockIndex, Volume, parse_block_index
from bundler.domain.delta import ZERO_SHA256, base_of, changes, difference
from bundler.errors import FormatError
from tests.fakes.deltas import delta_sample


def sha256(seed: int) -> bytes:
    return hashlib.sha256(str(seed).encode()).digest() if seed else ZERO_SHA256


def volume(blocks: dict[int, int], device: str = "/dev/xvda", gib: int = 1) -> Volume:
    return Volume.of(device, gib, [(number, sha256(seed)) for number, seed in sorted(blocks.items())])


def index(*volumes: Volume) -> BlockIndex:
    return BlockIndex(volumes=volumes)


@st.composite
def indexes(draw: st.DrawFn) -> BlockIndex:
    names = draw(st.sets(st.sampled_from(["/dev/xvda", "/dev/xvdb", "/dev/xvdc"]), min_size=1))
    volumes = []
    for name in sorted(names):
        gib = draw(st.integers(1, 2))
        near = st.integers(0, 20) | st.integers(gib * BLOCKS_PER_GIB - 5, gib * BLOCKS_PER_GIB - 1)
        volumes.append(volume(draw(st.dictionaries(near, st.integers(1, 6), max_size=15)), name, gib))
    return index(*volumes)


@given(indexes(), indexes())
def test_an_ami_and_its_difference_give_the_base(new: BlockIndex, base: BlockIndex) -> None:
    stored = parse_block_index(difference(new, base=base).raw, subject="difference")
    assert base_of(new, difference=stored) == base


@given(indexes(), indexes())
def test_what_changes_makes_the_new_of_the_old(new: BlockIndex, base: BlockIndex) -> None:
    for wanted in new.volumes:
        before = next((one for one in base.volumes if one.device == wanted.device and one.gib <= wanted.gib), None)
        held = dict(before or ()) | dict(changes(wanted, before))
        assert {number: digest for number, digest in held.items() if digest != ZERO_SHA256} == dict(wanted)


def test_only_what_differs_is_named_and_what_is_gone_as_zeros() -> None:
    new, old = volume({0: 1, 1: 2, 3: 4, 9: 9}), volume({0: 1, 1: 3, 2: 5, 9: 9})
    assert dict(changes(new, old)) == {1: sha256(2), 2: ZERO_SHA256, 3: sha256(4)}
    assert dict(difference(index(new), base=index(old)).volumes[0]) == {1: sha256(3), 2: sha256(5), 3: ZERO_SHA256}


def test_equal_volumes_differ_in_nothing() -> None:
    one = volume({0: 1, 2047: 2})
    assert len(changes(one, one)) == len(difference(index(one), base=index(one)).volumes[0]) == 0


def test_a_device_without_a_predecessor_is_written_whole() -> None:
    assert changes(volume({0: 1}), None) == volume({0: 1})


def test_what_lies_beyond_the_end_of_a_smaller_base_is_not_named_in_its_difference() -> None:
    new, old = volume({0: 1, 3000: 2}, gib=2), volume({0: 1, 5: 3})
    found = difference(index(new), base=index(old))
    assert (found.volumes[0].gib, dict(found.volumes[0])) == (1, {5: sha256(3)})


def test_a_base_that_names_zeros_is_no_base() -> None:
    with pytest.raises(FormatError, match="names blocks of zeros"):
        difference(index(volume({0: 1})), base=index(volume({0: 1, 4: 0})))


def test_a_changed_lock_keeps_what_was_baked_and_not_what_is_carried_as_a_delta() -> None:
    whole, delta = delta_sample(base=None).lock, delta_sample().lock
    assert kept_bakes(whole, whole) == whole.bake
    assert kept_bakes(delta, delta) == ()
