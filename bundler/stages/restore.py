"""Block index and packs -> snapshots of this account; found again by tag, resumed by frames, sealed by aggregate."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Protocol

from bundler.archive.packs import unpack
from bundler.domain.blocks import BLOCK_BYTES, BlockIndex, Volume
from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, TransferPlanned
from bundler.domain.packs import Frame, PackTable
from bundler.domain.snapshot import FoundSnapshot, NewSnapshot
from bundler.errors import ConflictError
from bundler.transfer import Pace, ordered_map

PHASE = "restore"
WRITERS = 64
_AHEAD = 2 * WRITERS
_AHEAD_FRAMES = 2
"""Frames that are made ready, by one thread: which damaged one is named does not depend on luck."""
Block = bytes | memoryview
"""A block, or a view of one in the frame that it came with: none is copied."""
INDEX_TAG = "bundle:ami-index"
DEVICE_TAG = "bundle:ami-device"
_NONE = (1 << 32) - 1


class SnapshotWriter(Protocol):
    """EBS direct, as far as restore needs it."""

    def start(self, wanted: NewSnapshot) -> str:
        """Start a snapshot or find the one that this request started; return its id."""
        ...

    def put(self, snapshot: str, number: int, content: Block, sha256: bytes) -> None:
        """Write a block."""
        ...

    def complete(self, snapshot: str, blocks: int, aggregate: bytes) -> None:
        """Seal a snapshot."""
        ...


class PackReader(Protocol):
    """The packs of one AMI in the verified archive."""

    @property
    def table(self) -> PackTable:
        """What they hold."""
        ...

    def read_at(self, pack: Digest, offset: int, length: int) -> bytes:
        """Return a stretch of a pack; what it holds is checked against the table."""
        ...


class RestoreProgress(Protocol):
    """How many frames of an AMI are put; it only saves time."""

    def frames(self, snapshots: Mapping[str, str]) -> int:
        """Return how many frames these snapshots (by device) hold for certain."""
        ...

    def put(self, snapshots: Mapping[str, str], frames: int) -> None:
        """Note that these snapshots hold so many frames."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose snapshots they become.

    Attributes:
        account: 12 digits.
        tags: of everything that this tool makes at the site.
        kms_key: ARN of the site's key; None for the account's default.
    """

    account: str
    region: str
    tags: Mapping[str, str]
    kms_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    """What becomes of each device of an AMI.

    Attributes:
        there: device -> id of the complete snapshot that holds it already.
        wanted: device -> the snapshot to write; one that is under way already is found again by its token.
    """

    index: BlockIndex
    there: Mapping[str, str]
    wanted: Mapping[str, NewSnapshot]


def snapshot_tags(index: Digest, device: str) -> dict[str, str]:
    """Tags by which a restored snapshot is found again."""
    return {INDEX_TAG: str(index), DEVICE_TAG: device}


def plan_restore(index: BlockIndex, *, name: str, owner: Owner, found: Sequence[FoundSnapshot]) -> RestorePlan:
    """Return what to write, given the snapshots of the account that bear the index's tag."""
    digest = index.digest
    ours = [snapshot for snapshot in found if snapshot.tags.get(INDEX_TAG) == str(digest)]
    there = {
        snapshot.tags.get(DEVICE_TAG, ""): snapshot.id
        for snapshot in sorted(ours, key=lambda snapshot: snapshot.id, reverse=True)
        if snapshot.state == "completed" and snapshot.bears(owner.kms_key)
    }
    devices = {volume.device for volume in index.volumes}
    return RestorePlan(
        index=index,
        there={device: snapshot for device, snapshot in there.items() if device in devices},
        wanted={
            volume.device: NewSnapshot(
                gib=volume.gib,
                description=f"{name} {digest.short} {volume.device}",
                tags={**owner.tags, **snapshot_tags(digest, volume.device)},
                token=client_token(digest, volume.device, owner, name=name, attempt=_failures(ours, volume.device)),
                kms_key=owner.kms_key,
            )
            for volume in index.volumes
            if volume.device not in there
        },
    )


def client_token(index: Digest, device: str, owner: Owner, *, name: str = "", attempt: int = 0) -> str:
    """Return what makes StartSnapshot give the same snapshot again: 64 hex digits of all that it is asked, and attempt.

    With other values beside it, a token is refused: two clusters of one account differ in their tags. A snapshot that
    went to `error` would be given again for ever: each of them makes the next token another one.
    """
    tags = (f"{key}={value}" for key, value in sorted(owner.tags.items()))
    parts = (str(index), device, owner.account, owner.region, owner.kms_key or "", name, *tags, str(attempt))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _failures(ours: Sequence[FoundSnapshot], device: str) -> int:
    return sum(one.state == "error" and one.tags.get(DEVICE_TAG) == device for one in ours)


def restore(
    plan: RestorePlan,
    *,
    packs: PackReader,
    writer: SnapshotWriter,
    progress: RestoreProgress,
    pace: Pace = Pace(),
) -> Mapping[str, str]:
    """Write the snapshots that the plan wants; return the id of each device's snapshot.

    Killed anywhere, the next run finds its snapshots by their tokens and goes on from the frames that are put.

    Raises:
        DigestError, FormatError: a pack is not what the table says; nothing of the frame was put.
        ConflictError: AWS has other blocks than were put, or the table does not carry a block of the index.
    """
    if not plan.wanted:
        return plan.there
    snapshots = {device: writer.start(wanted) for device, wanted in sorted(plan.wanted.items())}
    run = _Restore(plan, snapshots, packs=packs, writer=writer)
    run.put(progress, pace)
    for volume in run.volumes:
        writer.complete(snapshots[volume.device], len(volume), volume.aggregate)
    return {**plan.there, **snapshots}


@dataclass(frozen=True, slots=True)
class _Put:
    """One block on its way; the last of a frame says how many frames are put with it."""

    device: str
    number: int
    content: Block
    sha256: bytes
    frames: int | None = None


class _Restore:
    def __init__(
        self,
        plan: RestorePlan,
        snapshots: Mapping[str, str],
        *,
        packs: PackReader,
        writer: SnapshotWriter,
    ) -> None:
        self.volumes = [volume for volume in plan.index.volumes if volume.device in plan.wanted]
        self._table = packs.table
        self._snapshots = snapshots
        self._packs = packs
        self._writer = writer
        self._places = _Places(self.volumes)
        self._require_all()

    def put(self, progress: RestoreProgress, pace: Pace) -> None:
        """Put every block of every frame that is not noted as put."""
        done = min(progress.frames(self._snapshots), len(self._table.frames))
        total = sum(map(len, self.volumes))
        left = sum(self._places.count(digest) for digest in self._digests(done))
        pace.emit(
            TransferPlanned(
                phase=PHASE,
                total_bytes=total * BLOCK_BYTES,
                items=len(self.volumes),
                present_bytes=(total - left) * BLOCK_BYTES,
            )
        )

        def put(one: _Put) -> _Put:
            self._writer.put(self._snapshots[one.device], one.number, one.content, one.sha256)
            pace.emit(BytesMoved(phase=PHASE, item=one.device, count=BLOCK_BYTES))
            return one

        pack = -1
        for one in ordered_map(put, self._blocks(done), workers=WRITERS, ahead=_AHEAD):
            if one.frames is not None and self._pack_of(one.frames) != pack:
                pack = self._pack_of(one.frames)
                progress.put(self._snapshots, one.frames)

    def _pack_of(self, frames: int) -> int:
        """The pack that the next frame stands in, after so many."""
        return self._table.frames[frames].pack if frames < len(self._table.frames) else -2

    def _digests(self, first: int) -> Iterator[bytes]:
        for frame in self._table.frames[first:]:
            yield from self._table.digests(frame)

    def _blocks(self, first: int) -> Iterator[_Put]:
        """Yield what is to be put, one behind: only then is it known which is the last of its frame."""
        numbers = range(first, len(self._table.frames))
        for number, frame in ordered_map(self._frame, numbers, workers=1, ahead=_AHEAD_FRAMES):
            last: _Put | None = None
            for one in self._puts(frame):
                if last is not None:
                    yield last
                last = one
            if last is not None:
                yield replace(last, frames=number + 1)

    def _frame(self, number: int) -> tuple[int, Sequence[tuple[bytes, Block]]]:
        """The blocks of a frame, all of them verified before the first is put."""
        frame: Frame = self._table.frames[number]
        pack = self._table.packs[frame.pack]
        content = self._packs.read_at(pack, frame.offset, frame.length)
        subject = f"pack {pack.short}, frame {number}"
        return number, list(unpack(content, frame, table=self._table, subject=subject))

    def _puts(self, frame: Sequence[tuple[bytes, Block]]) -> Iterator[_Put]:
        for digest, content in frame:
            for device, number in self._places.of(digest):
                yield _Put(self.volumes[device].device, number, content, digest)

    def _require_all(self) -> None:
        carried = set(self._table.all_digests())
        missing = sum(digest not in carried for digest in self._places)
        if missing:
            raise ConflictError("the block index", f"names {missing} blocks that no pack of this bundle carries")


class _Places:
    """Where each different block stands; four bytes for each place, however many there are of one block."""

    def __init__(self, volumes: Sequence[Volume]) -> None:
        self._begins = [0, *accumulate(map(len, volumes))]
        self._volumes = volumes
        self._last: dict[bytes, int] = {}
        self._before = array("I", bytes(4 * self._begins[-1]))
        for position, (_, digest) in enumerate(chain.from_iterable(volumes)):
            self._before[position] = self._last.get(digest, _NONE)
            self._last[digest] = position

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._last)

    def count(self, digest: bytes) -> int:
        """In how many places a block stands."""
        return sum(1 for _ in self._positions(digest))

    def of(self, digest: bytes) -> Iterator[tuple[int, int]]:
        """Yield position of the device, and number, of each place of a block."""
        for position in self._positions(digest):
            device = bisect_right(self._begins, position) - 1
            yield device, self._volumes[device].number(position - self._begins[device])

    def _positions(self, digest: bytes) -> Iterator[int]:
        position = self._last.get(digest, _NONE)
        while position != _NONE:
            yield position
            position = self._before[position]
