"""Restore: snapshots hold what was exported; found again by tag, resumed by frames, never sealed wrong."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest

from bundler.archive.packs import PackWriter, compress
from bundler.domain.blocks import BLOCK_BYTES, BlockIndex, Volume
from bundler.domain.digest import Digest
from bundler.domain.packs import FRAME_BLOCKS, PackTable
from bundler.domain.snapshot import FoundSnapshot, NewSnapshot
from bundler.errors import ConflictError, DigestError, NetworkError
from bundler.stages.restore import (
    INDEX_TAG,
    Owner,
    RestorePlan,
    plan_restore,
    restore,
    snapshot_tags,
    snapshot_token,
)

OWNER = Owner(account="111122223333", region="eu-central-1", tags={"bundle:managed": "true"})
CONTENT = {"/dev/xvda": {number: 1 + number % 90 for number in range(0, 300, 2)}, "/dev/xvdb": {3: 1, 9: 500}}


def block(seed: int) -> bytes:
    start = hashlib.shake_128(str(seed).encode()).digest(16 << 10)
    return start + bytes(BLOCK_BYTES - len(start))


def sha256(seed: int) -> bytes:
    return hashlib.sha256(block(seed)).digest()


class Packs:
    """Packs in memory."""

    def __init__(self, index: BlockIndex, seeds: Mapping[bytes, int]) -> None:
        self.packs: dict[Digest, bytes] = {}
        writer = PackWriter(keep=self._keep)
        digests = list(index.distinct())
        for first in range(0, len(digests), FRAME_BLOCKS):
            some = digests[first : first + FRAME_BLOCKS]
            writer.add(compress([block(seeds[digest]) for digest in some], tuple(some)))
        self.table: PackTable = writer.finish()

    def _keep(self, pieces: list[bytes]) -> Digest:
        content = b"".join(pieces)
        self.packs[Digest.of(content)] = content
        return Digest.of(content)

    def read_at(self, pack: Digest, offset: int, length: int) -> bytes:
        return self.packs[pack][offset : offset + length]


SEEDS = {sha256(seed): seed for blocks in CONTENT.values() for seed in blocks.values()}
INDEX = BlockIndex(
    volumes=tuple(
        Volume.of(device, 1, [(number, sha256(seed)) for number, seed in sorted(blocks.items())])
        for device, blocks in CONTENT.items()
    )
)
PACKS = Packs(INDEX, SEEDS)


class Snapshots:
    """EBS direct in memory: snapshots by token, checked when they are sealed; `fails_at` is the put that fails."""

    def __init__(self) -> None:
        self.by_token: dict[str, str] = {}
        self.asked: dict[str, NewSnapshot] = {}
        self.blocks: dict[str, dict[int, bytes]] = {}
        self.sealed: list[str] = []
        self.puts = 0
        self.fails_at: int | None = None
        self._lock = threading.Lock()

    def start(self, wanted: NewSnapshot) -> str:
        snapshot = self.by_token.setdefault(wanted.token, f"snap-{len(self.by_token)}")
        assert self.asked.setdefault(snapshot, wanted) == wanted
        self.blocks.setdefault(snapshot, {})
        return snapshot

    def put(self, snapshot: str, number: int, content: bytes, sha256: bytes) -> None:
        assert hashlib.sha256(content).digest() == sha256
        with self._lock:
            self.puts += 1
            if self.puts == self.fails_at:
                raise NetworkError(snapshot, "no answer")
            self.blocks[snapshot][number] = content

    def complete(self, snapshot: str, blocks: int, aggregate: bytes) -> None:
        held = self.blocks[snapshot]
        whole = b"".join(hashlib.sha256(held[number]).digest() for number in sorted(held))
        if (blocks, aggregate) != (len(held), hashlib.sha256(whole).digest()):
            raise ConflictError(snapshot, "holds other blocks")
        self.sealed.append(snapshot)

    @property
    def found(self) -> list[FoundSnapshot]:
        states = {True: "completed", False: "pending"}
        return [
            FoundSnapshot(id=snapshot, state=states[snapshot in self.sealed], tags=asked.tags)
            for snapshot, asked in self.asked.items()
        ]


@dataclass
class Progress:
    """What a journal would keep."""

    noted: dict[tuple[tuple[str, str], ...], int] = field(default_factory=dict)

    def frames(self, snapshots: Mapping[str, str]) -> int:
        return self.noted.get(tuple(sorted(snapshots.items())), 0)

    def put(self, snapshots: Mapping[str, str], frames: int) -> None:
        self.noted[tuple(sorted(snapshots.items()))] = frames


def plan(ebs: Snapshots) -> RestorePlan:
    return plan_restore(INDEX, name="workers", owner=OWNER, found=ebs.found)


def test_snapshots_hold_every_block_of_every_device() -> None:
    ebs = Snapshots()
    made = restore(plan(ebs), packs=PACKS, writer=ebs, progress=Progress())
    for device, blocks in CONTENT.items():
        assert ebs.blocks[made[device]] == {number: block(seed) for number, seed in blocks.items()}
    assert sorted(ebs.sealed) == sorted(made.values())


def test_they_are_found_again_by_their_tags_and_nothing_is_written() -> None:
    ebs = Snapshots()
    made = restore(plan(ebs), packs=PACKS, writer=ebs, progress=Progress())
    puts, again = ebs.puts, plan(ebs)
    assert (again.there, again.wanted) == (made, {})
    assert restore(again, packs=PACKS, writer=ebs, progress=Progress()) == made
    assert ebs.puts == puts


def test_what_is_asked_for_names_content_owner_and_key() -> None:
    wanted = plan_restore(INDEX, name="workers", owner=replace(OWNER, kms_key="arn:key"), found=()).wanted["/dev/xvdb"]
    assert wanted.tags == {"bundle:managed": "true", **snapshot_tags(INDEX.digest, "/dev/xvdb", "arn:key")}
    assert (wanted.gib, wanted.kms_key, len(wanted.token)) == (1, "arn:key", 64)


def test_the_token_follows_content_device_place_and_key() -> None:
    others = [
        snapshot_token(Digest.of(b"x"), "/dev/xvda", OWNER),
        snapshot_token(INDEX.digest, "/dev/xvdb", OWNER),
        snapshot_token(INDEX.digest, "/dev/xvda", replace(OWNER, account="999999999999")),
        snapshot_token(INDEX.digest, "/dev/xvda", replace(OWNER, region="eu-west-1")),
        snapshot_token(INDEX.digest, "/dev/xvda", replace(OWNER, kms_key="arn:key")),
    ]
    assert len({snapshot_token(INDEX.digest, "/dev/xvda", OWNER), *others}) == 6


@pytest.mark.parametrize("fails_at", [1, 40, 100, 152])
def test_after_a_failure_the_same_snapshots_are_finished(fails_at: int) -> None:
    ebs, progress = Snapshots(), Progress()
    ebs.fails_at = fails_at
    with pytest.raises(NetworkError):
        restore(plan(ebs), packs=PACKS, writer=ebs, progress=progress)
    assert ebs.sealed == []
    ebs.fails_at = None
    made = restore(plan(ebs), packs=PACKS, writer=ebs, progress=progress)
    assert len(ebs.by_token) == 2
    assert sorted(ebs.sealed) == sorted(made.values())


def test_frames_that_are_noted_are_not_put_again() -> None:
    ebs, progress = Snapshots(), Progress()
    wanted = plan(ebs)
    made = restore(wanted, packs=PACKS, writer=ebs, progress=progress)
    ebs.sealed, ebs.puts = [], 0
    progress.put(made, 2)
    assert restore(wanted, packs=PACKS, writer=ebs, progress=progress) == made
    first = {digest for frame in PACKS.table.frames[:2] for digest in PACKS.table.digests(frame)}
    left = sum(digest not in first for volume in INDEX.volumes for _, digest in volume)
    assert ebs.puts == left


def test_progress_that_is_wrong_is_noticed_when_the_snapshot_is_sealed() -> None:
    ebs, progress = Snapshots(), Progress()
    wanted = plan(ebs)
    progress.put({device: f"snap-{number}" for number, device in enumerate(sorted(wanted.wanted))}, 2)
    with pytest.raises(ConflictError, match="holds other blocks"):
        restore(wanted, packs=PACKS, writer=ebs, progress=progress)


def test_one_device_that_is_there_is_not_written_again() -> None:
    ebs = Snapshots()
    found = [FoundSnapshot(id="snap-old", state="completed", tags=snapshot_tags(INDEX.digest, "/dev/xvda"))]
    made = restore(
        plan_restore(INDEX, name="workers", owner=OWNER, found=found), packs=PACKS, writer=ebs, progress=Progress()
    )
    assert made["/dev/xvda"] == "snap-old"
    assert ebs.puts == 2


@pytest.mark.parametrize(
    ("state", "tags"),
    [
        ("pending", snapshot_tags(INDEX.digest, "/dev/xvda")),
        ("error", snapshot_tags(INDEX.digest, "/dev/xvda")),
        ("completed", snapshot_tags(Digest.of(b"other"), "/dev/xvda")),
        ("completed", {INDEX_TAG: str(INDEX.digest)}),
    ],
)
def test_what_is_not_a_complete_snapshot_of_this_content_does_not_count(state: str, tags: dict[str, str]) -> None:
    found = [FoundSnapshot(id="snap-old", state=state, tags=tags)]
    assert set(plan_restore(INDEX, name="workers", owner=OWNER, found=found).wanted) == {"/dev/xvda", "/dev/xvdb"}


def test_a_pack_that_is_damaged_puts_nothing_of_its_frame() -> None:
    ebs = Snapshots()

    class Damaged(Packs):
        def read_at(self, pack: Digest, offset: int, length: int) -> bytes:
            other = compress([block(7000 + n) for n in range(FRAME_BLOCKS)], (b"",) * FRAME_BLOCKS)
            return other.content

    with pytest.raises(DigestError):
        restore(plan(ebs), packs=Damaged(INDEX, SEEDS), writer=ebs, progress=Progress())
    assert ebs.puts == 0


def test_packs_that_lack_a_block_are_refused_before_anything_is_written() -> None:
    ebs = Snapshots()
    more = BlockIndex(volumes=(Volume.of("/dev/xvda", 1, [(0, sha256(1)), (1, sha256(7777))]),))
    with pytest.raises(ConflictError, match="names 1 blocks that no pack"):
        restore(plan_restore(more, name="w", owner=OWNER, found=()), packs=PACKS, writer=ebs, progress=Progress())
    assert ebs.puts == 0
