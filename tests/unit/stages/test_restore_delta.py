"""Restoring a delta: new volumes begin with the site's snapshots of the base, and end as what was exported."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.archive.packs import PackWriter, compress
from bundler.domain.blocks import BLOCK_BYTES, BLOCKS_PER_GIB, BlockIndex, Volume
from bundler.domain.delta import ZERO_SHA256
from bundler.domain.events import BytesMoved, Event, TransferPlanned
from bundler.domain.packs import FRAME_BLOCKS
from bundler.domain.parents import Parents, snapshot_tags
from bundler.errors import ConflictError, DigestError, NetworkError
from bundler.stages.restore import Owner, RestorePlan, plan_restore, restore, snapshot_token
from bundler.transfer import Pace
from tests.fakes.memory_ebs import MemoryEbs, MemoryPacks, MemoryProgress, block

OWNER = Owner(account="111122223333", region="eu-central-1", tags={})
Disks = Mapping[str, tuple[int, Mapping[int, int]]]
"""Device -> GiB and its blocks by number, each told by its seed."""
BASE: Disks = {
    "/dev/xvda": (1, {**{number: 1 + number for number in range(50)}, 700: 9000, 701: 9001}),
    "/dev/xvdb": (1, {3: 5000, 9: 5001}),
}
NEW: Disks = {
    "/dev/xvda": (2, {**{number: 1 + number for number in range(5, 30)}, 40: 2, 41: 7001, 42: 7001, 3000: 7002}),
    "/dev/xvdb": (1, {3: 5001, 9: 5000, 10: 9000}),
    "/dev/xvdc": (1, {0: 7003, 1: 9001}),
}
SHA256: dict[int, bytes] = {0: ZERO_SHA256}


def sha256(seed: int) -> bytes:
    return SHA256.setdefault(seed, hashlib.sha256(block(seed)).digest())


def index_of(disks: Disks) -> BlockIndex:
    return BlockIndex(
        volumes=tuple(
            Volume.of(device, gib, [(number, sha256(seed)) for number, seed in sorted(blocks.items())])
            for device, (gib, blocks) in sorted(disks.items())
        )
    )


def packs_of(new: Disks, base: Disks) -> MemoryPacks:
    """What `build --against` carries: content that the base has nowhere."""
    packs, known = MemoryPacks(), {seed for _, blocks in base.values() for seed in blocks.values()}
    seeds = sorted({seed for _, blocks in new.values() for seed in blocks.values()} - known)
    writer = PackWriter(keep=packs.keep)
    for first in range(0, len(seeds), FRAME_BLOCKS):
        some = seeds[first : first + FRAME_BLOCKS]
        writer.add(compress([block(seed) for seed in some], tuple(map(sha256, some))))
    packs.table = writer.finish()
    return packs


def site_with(base: Disks) -> tuple[MemoryEbs, Parents]:
    ebs, index = MemoryEbs(), index_of(base)
    ids = {
        device: ebs.add({n: block(s) for n, s in blocks.items()}, snapshot_tags(index.digest, device), gib=gib)
        for device, (gib, blocks) in base.items()
    }
    return ebs, Parents(index=index, snapshots=ids)


def plan(ebs: MemoryEbs, parents: Parents, new: Disks = NEW) -> RestorePlan:
    return plan_restore(index_of(new), name="workers", owner=OWNER, found=ebs.found, parents=parents)


def check(ebs: MemoryEbs, made: Mapping[str, str], new: Disks) -> None:
    for device, (_, blocks) in new.items():
        assert ebs.content(made[device]) == {number: block(seed) for number, seed in blocks.items()}
        assert ebs.held[made[device]].state == "completed"


PACKS = packs_of(NEW, BASE)


def test_a_delta_gives_the_new_volumes_and_puts_only_what_differs() -> None:
    ebs, parents = site_with(BASE)
    made = restore(plan(ebs, parents), packs=PACKS, writer=ebs, progress=MemoryProgress())
    check(ebs, made, NEW)
    put = {device: sorted(n for name, n in ebs.puts if name == made[device]) for device in made}
    gone = [*range(5), *range(30, 40), *range(43, 50), 700, 701]
    assert put == {
        "/dev/xvda": sorted([*gone, 40, 41, 42, 3000]),
        "/dev/xvdb": [3, 9, 10],
        "/dev/xvdc": [0, 1],
    }


def test_blocks_that_moved_are_read_back_from_the_base_and_no_others() -> None:
    ebs, parents = site_with(BASE)
    restore(plan(ebs, parents), packs=PACKS, writer=ebs, progress=MemoryProgress())
    root, data = parents.snapshots["/dev/xvda"], parents.snapshots["/dev/xvdb"]
    assert sorted(ebs.reads) == sorted([(root, 1), (root, 700), (root, 701), (data, 3), (data, 9)])


def test_only_new_content_is_carried() -> None:
    assert set(PACKS.table.all_digests()) == {sha256(seed) for seed in (7001, 7002, 7003)}


def test_what_is_planned_and_moved_is_what_is_put() -> None:
    ebs, parents = site_with(BASE)
    events: list[Event] = []
    restore(plan(ebs, parents), packs=PACKS, writer=ebs, progress=MemoryProgress(), pace=Pace(emit=events.append))
    (planned,) = [event for event in events if isinstance(event, TransferPlanned)]
    moved = sum(event.count for event in events if isinstance(event, BytesMoved))
    assert planned.present_bytes + moved == planned.total_bytes == len(ebs.puts) * BLOCK_BYTES


def writes_of_a_whole_run() -> int:
    ebs, parents = site_with(BASE)
    restore(plan(ebs, parents), packs=PACKS, writer=ebs, progress=MemoryProgress())
    return ebs.writes


@pytest.mark.parametrize("fails_at", range(1, writes_of_a_whole_run() + 1))
def test_after_a_failure_at_any_write_the_same_snapshots_are_finished(fails_at: int) -> None:
    ebs, parents = site_with(BASE)
    progress = MemoryProgress()
    ebs.fails_at = fails_at
    with pytest.raises(NetworkError):
        restore(plan(ebs, parents), packs=PACKS, writer=ebs, progress=progress)
    ebs.fails_at = None
    check(ebs, restore(plan(ebs, parents), packs=PACKS, writer=ebs, progress=progress), NEW)
    assert len(ebs.held) == len(BASE) + len(NEW)


def test_batches_that_are_noted_are_not_put_again() -> None:
    base: Disks = {"/dev/xvda": (1, {number: 1 + number for number in range(1200)})}
    new: Disks = {"/dev/xvda": (1, {number + 3: seed for number, seed in base["/dev/xvda"][1].items()})}
    ebs, parents = site_with(base)
    packs, progress = packs_of(new, base), MemoryProgress()
    ebs.fails_at = 1100
    with pytest.raises(NetworkError):
        restore(plan(ebs, parents, new), packs=packs, writer=ebs, progress=progress)
    (noted,) = progress.noted.values()
    assert noted == 32
    ebs.fails_at, ebs.puts = None, []
    events: list[Event] = []
    pace = Pace(emit=events.append)
    made = restore(plan(ebs, parents, new), packs=packs, writer=ebs, progress=progress, pace=pace)
    check(ebs, made, new)
    assert len(ebs.puts) == 1203 - 32 * FRAME_BLOCKS
    (planned,) = [event for event in events if isinstance(event, TransferPlanned)]
    assert planned.total_bytes - planned.present_bytes == len(ebs.puts) * BLOCK_BYTES


def test_the_same_content_is_nothing_to_do() -> None:
    ebs, parents = site_with(BASE)
    again = plan(ebs, parents, BASE)
    assert (again.there, again.wanted) == (parents.snapshots, {})
    assert restore(again, packs=MemoryPacks(), writer=ebs, progress=MemoryProgress()) == parents.snapshots
    assert ebs.writes == 0


def test_a_device_that_shrank_is_written_whole_from_what_the_base_holds() -> None:
    base: Disks = {"/dev/xvda": (2, {0: 1, 1: 2, 3000: 3})}
    new: Disks = {"/dev/xvda": (1, {0: 1, 2: 3, 4: 50})}
    ebs, parents = site_with(base)
    wanted = plan(ebs, parents, new)
    assert wanted.wanted["/dev/xvda"].parent is None
    made = restore(wanted, packs=packs_of(new, base), writer=ebs, progress=MemoryProgress())
    check(ebs, made, new)
    assert len(ebs.puts) == 3


def test_one_device_that_is_there_is_not_written_again() -> None:
    ebs, parents = site_with(BASE)
    there = ebs.add({}, snapshot_tags(index_of(NEW).digest, "/dev/xvda"), gib=2)
    made = restore(plan(ebs, parents), packs=PACKS, writer=ebs, progress=MemoryProgress())
    assert made["/dev/xvda"] == there
    check(ebs, {**made, "/dev/xvda": made["/dev/xvdb"]}, {"/dev/xvdb": NEW["/dev/xvdb"], "/dev/xvdc": NEW["/dev/xvdc"]})


def test_a_snapshot_that_begins_with_a_parent_names_it_and_no_key() -> None:
    ebs, parents = site_with(BASE)
    owner = replace(OWNER, kms_key="arn:key")
    wanted = plan_restore(index_of(NEW), name="w", owner=owner, found=ebs.found, parents=parents).wanted
    assert (wanted["/dev/xvda"].parent, wanted["/dev/xvda"].kms_key) == (parents.snapshots["/dev/xvda"], None)
    assert (wanted["/dev/xvdc"].parent, wanted["/dev/xvdc"].kms_key) == (None, "arn:key")


def test_the_token_follows_the_parent_too() -> None:
    digest = index_of(NEW).digest
    tokens = {snapshot_token(digest, "/dev/xvda", OWNER, beside=("w", parent)) for parent in ("", "snap-1", "snap-2")}
    assert len(tokens) == 3


def test_a_base_that_is_not_what_its_tag_says_is_never_put() -> None:
    ebs, parents = site_with(BASE)
    ebs.held[parents.snapshots["/dev/xvdb"]].blocks[9] = block(666)
    with pytest.raises(DigestError, match=r"is tagged as the base .* other content at block 9"):
        restore(plan(ebs, parents), packs=PACKS, writer=ebs, progress=MemoryProgress())
    assert [held.state for held in ebs.held.values()].count("completed") == len(BASE), "and nothing is sealed"


def test_a_base_that_lacks_a_block_of_its_index_is_refused() -> None:
    ebs, parents = site_with(BASE)
    del ebs.held[parents.snapshots["/dev/xvda"]].blocks[700]
    with pytest.raises(DigestError, match="other content at block 700"):
        restore(plan(ebs, parents), packs=PACKS, writer=ebs, progress=MemoryProgress())


def test_content_that_is_neither_carried_nor_in_the_base_is_refused_before_any_write() -> None:
    ebs, parents = site_with(BASE)
    with pytest.raises(ConflictError, match="names 3 blocks that no pack of this bundle carries, and that its base"):
        restore(plan(ebs, parents), packs=MemoryPacks(), writer=ebs, progress=MemoryProgress())
    assert ebs.writes == 0


@st.composite
def disks(draw: st.DrawFn) -> Disks:
    names = draw(st.sets(st.sampled_from(["/dev/xvda", "/dev/xvdb"]), min_size=1))
    made = {}
    for name in sorted(names):
        gib = draw(st.integers(1, 2))
        numbers = st.integers(0, 12) | st.integers(gib * BLOCKS_PER_GIB - 3, gib * BLOCKS_PER_GIB - 1)
        made[name] = (gib, draw(st.dictionaries(numbers, st.integers(1, 9), max_size=10)))
    return made


@settings(max_examples=60, deadline=None)
@given(base=disks(), new=disks())
def test_any_delta_on_its_base_is_the_new_content_byte_for_byte(base: Disks, new: Disks) -> None:
    ebs, parents = site_with(base)
    made = restore(plan(ebs, parents, new), packs=packs_of(new, base), writer=ebs, progress=MemoryProgress())
    check(ebs, made, new)
