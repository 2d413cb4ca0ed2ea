"""Block index and packs -> snapshots of this account; found again by tag, resumed by frames, sealed by aggregate.

What is carried as a delta begins with the site's own snapshot of its base: blocks that stand there already are left as
they are, blocks that stand elsewhere in the base are read back from it, and what is gone is overwritten with zeros.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, islice
from typing import Protocol

from bundler.archive.packs import unpack
from bundler.domain.bake import client_token
from bundler.domain.blocks import BLOCK_BYTES, BlockIndex, Volume
from bundler.domain.delta import ZERO_SHA256, changes
from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, ItemDone, TransferPlanned
from bundler.domain.packs import FRAME_BLOCKS, Frame, PackTable
from bundler.domain.parents import DEVICE_TAG, INDEX_TAG, Parents, serves, snapshot_tags
from bundler.domain.snapshot import FoundSnapshot, ListedBlock, NewSnapshot, SnapshotBlocks
from bundler.errors import ConflictError, DigestError
from bundler.transfer import Pace, ordered_map

PHASE = "restore"
WRITERS = 64
_AHEAD = 2 * WRITERS
_AHEAD_FRAMES = 2
"""Frames that are made ready, by one thread: which damaged one is named does not depend on luck."""
Block = bytes | memoryview
"""A block, or a view of one in the frame that it came with: none is copied."""
_NOTED_BATCHES = 16
"""After so many batches of blocks that no pack carries it is noted how far it is: 256 MiB, as a pack has at most."""
_ZEROS = bytes(BLOCK_BYTES)
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

    def blocks(self, snapshot: str) -> SnapshotBlocks:
        """Return the written blocks of a snapshot."""
        ...

    def read(self, snapshot: str, block: ListedBlock, *, progress: Callable[[], int]) -> tuple[bytes, bytes]:
        """Return a block and its raw SHA-256, checked."""
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
        tags: of what all clusters of the account share.
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
        parents: what the packs leave out; None where they carry every block.
    """

    index: BlockIndex
    there: Mapping[str, str]
    wanted: Mapping[str, NewSnapshot]
    parents: Parents | None = None

    @property
    def volumes(self) -> tuple[Volume, ...]:
        """What is put into each snapshot that is wanted: all of it, or what is not as its parent has it."""
        wanted = (volume for volume in self.index.volumes if volume.device in self.wanted)
        if self.parents is None:
            return tuple(wanted)
        return tuple(changes(volume, self.parents.of(volume)) for volume in wanted)


def plan_restore(
    index: BlockIndex, *, name: str, owner: Owner, found: Sequence[FoundSnapshot], parents: Parents | None = None
) -> RestorePlan:
    """Return what to write, given the snapshots of the account that bear the index's tag."""
    digest = index.digest
    ours = [one for one in found if one.tags.get(INDEX_TAG) == str(digest) and serves(one, owner.kms_key)]
    there = {
        snapshot.tags.get(DEVICE_TAG, ""): snapshot.id
        for snapshot in sorted(ours, key=lambda snapshot: snapshot.id, reverse=True)
        if snapshot.state == "completed"
    }
    devices = {volume.device for volume in index.volumes}

    def new(volume: Volume) -> NewSnapshot:
        parent = _parent(volume, parents)
        attempt = _failures(ours, volume.device)
        return NewSnapshot(
            gib=volume.gib,
            description=f"{name} {digest.short} {volume.device}",
            tags={**owner.tags, **snapshot_tags(digest, volume.device, owner.kms_key)},
            token=snapshot_token(digest, volume.device, owner, attempt=attempt, beside=(name, parent or "")),
            parent=parent,
            kms_key=owner.kms_key if parent is None else None,
        )

    return RestorePlan(
        index=index,
        there={device: snapshot for device, snapshot in there.items() if device in devices},
        wanted={volume.device: new(volume) for volume in index.volumes if volume.device not in there},
        parents=parents,
    )


def snapshot_token(index: Digest, device: str, owner: Owner, *, attempt: int = 0, beside: Sequence[str] = ()) -> str:
    """Return what makes StartSnapshot give the same snapshot again: 64 hex digits of all that it is asked, and attempt.

    With other values beside it, a token is refused: tags, and a parent, which makes another request, too, are part of
    it; `beside` has the latter. No tag names the cluster: another one of the account goes on with what a first began.
    A snapshot that went to `error` would be given again for ever: each of them makes the next token another one.
    """
    tags = (f"{key}={value}" for key, value in sorted(owner.tags.items()))
    parts = (str(index), device, owner.account, owner.region, owner.kms_key or "", *beside, *tags, str(attempt))
    return client_token(*parts)


def _parent(volume: Volume, parents: Parents | None) -> str | None:
    if parents is None or parents.of(volume) is None:
        return None
    return parents.snapshots[volume.device]


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
        DigestError, FormatError: a pack is not what the table says; nothing of the frame was put. Or a snapshot of the
            base is not what its tag says.
        ConflictError: AWS has other blocks than were put, or a block of the index is neither carried nor in the base.
    """
    if not plan.wanted:
        return plan.there
    run = _Restore(plan, packs=packs, writer=writer)
    snapshots = {device: writer.start(wanted) for device, wanted in sorted(plan.wanted.items())}
    run.put(snapshots, progress, pace)
    for volume in run.volumes:
        writer.complete(snapshots[volume.device], len(volume), volume.aggregate)
    return {**plan.there, **snapshots}


@dataclass(frozen=True, slots=True)
class _Put:
    """One block on its way.

    Attributes:
        content: None where no pack carries it.
        frames: on the last block of a frame: how many frames are put with it.
    """

    device: str
    number: int
    content: Block | None
    sha256: bytes
    frames: int | None = None


class _Restore:
    """Frames are put first, then what no pack carries: in batches that count as further frames."""

    def __init__(self, plan: RestorePlan, *, packs: PackReader, writer: SnapshotWriter) -> None:
        self.volumes = plan.volumes
        self._table = packs.table
        self._packs = packs
        self._writer = writer
        self._places = _Places(self.volumes)
        carried = set(self._table.all_digests())
        self._absent = {digest for digest in self._places if digest not in carried}
        self._base = _Base(plan.parents, self._absent - {ZERO_SHA256}, writer)

    def put(self, snapshots: Mapping[str, str], progress: RestoreProgress, pace: Pace) -> None:
        """Put every block of every frame that is not noted as put."""
        done = progress.frames(snapshots)
        total = sum(map(len, self.volumes))
        left = sum(self._places.count(digest) for digest in self._digests(done)) - self._further(done) * FRAME_BLOCKS
        pace.emit(
            TransferPlanned(
                phase=PHASE,
                total_bytes=total * BLOCK_BYTES,
                items=len(self.volumes),
                present_bytes=(total - left) * BLOCK_BYTES,
            )
        )

        def put(one: _Put) -> _Put:
            content = self._content(one.sha256) if one.content is None else one.content
            self._writer.put(snapshots[one.device], one.number, content, one.sha256)
            pace.emit(BytesMoved(phase=PHASE, item=one.device, count=BLOCK_BYTES))
            return one

        pack = -1
        with ordered_map(put, self._blocks(done), workers=WRITERS, ahead=_AHEAD) as puts:
            for one in puts:
                if one.frames is not None and self._pack_of(one.frames) != pack:
                    pack = self._pack_of(one.frames)
                    progress.put(snapshots, one.frames)
        for device in snapshots:
            pace.emit(ItemDone(phase=PHASE, item=device))

    def _pack_of(self, frames: int) -> int:
        """The pack that the next frame stands in, after so many; what no pack carries is counted in such packs, too."""
        if frames < len(self._table.frames):
            return self._table.frames[frames].pack
        return len(self._table.packs) + self._further(frames) // _NOTED_BATCHES

    def _further(self, frames: int) -> int:
        """How many batches of what no pack carries are among so many frames."""
        return max(0, frames - len(self._table.frames))

    def _digests(self, first: int) -> Iterator[bytes]:
        for frame in self._table.frames[first:]:
            yield from self._table.digests(frame)
        yield from self._absent

    def _blocks(self, first: int) -> Iterator[_Put]:
        numbers = range(first, len(self._table.frames))
        with ordered_map(self._frame, numbers, workers=1, ahead=_AHEAD_FRAMES) as frames:
            for number, frame in frames:
                yield from _counted(self._puts(frame), number + 1)
        further = self._further(first)
        others = islice(self._others(), further * FRAME_BLOCKS, None)
        while batch := list(islice(others, FRAME_BLOCKS)):
            further += 1
            yield from _counted(batch, len(self._table.frames) + further)

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

    def _others(self) -> Iterator[_Put]:
        """What no pack carries, in the order of the volumes."""
        for volume in self.volumes if self._absent else ():
            for number, digest in volume:
                if digest in self._absent:
                    yield _Put(volume.device, number, None, digest)

    def _content(self, digest: bytes) -> Block:
        return _ZEROS if digest == ZERO_SHA256 else self._base.read(digest)


class _Base:
    """Blocks that the site's snapshots of the base hold, read back; each is verified by the index that is signed."""

    def __init__(self, parents: Parents | None, wanted: set[bytes], reader: SnapshotWriter) -> None:
        self._places = {} if parents is None else parents.places(wanted)
        self._reader = reader
        self._count = 0
        missing = len(wanted) - len(self._places)
        if missing:
            where = "" if parents is None else ", and that its base does not hold"
            cause = f"names {missing} blocks that no pack of this bundle carries{where}"
            raise ConflictError("the block index", cause)
        snapshots = sorted({snapshot for snapshot, _ in self._places.values()})
        self._listed = {snapshot: reader.blocks(snapshot).blocks for snapshot in snapshots}

    def read(self, digest: bytes) -> bytes:
        """Return a block of the base.

        Raises:
            DigestError: the snapshot holds something else than its tag says.
        """
        snapshot, number = self._places[digest]
        listed = self._listed[snapshot]
        place = bisect_left(listed, number, key=lambda block: block.number)
        if place < len(listed) and listed[place].number == number:
            content, found = self._reader.read(snapshot, listed[place], progress=lambda: self._count)
            self._count += 1  # only ever a hint that something moves
            if found == digest:
                return content
        raise DigestError(
            f"snapshot {snapshot}",
            f"is tagged as the base ({INDEX_TAG}), and holds other content at block {number}",
            hint="Take the tag away from it, and install the bundle that brings the base again.",
        )


def _counted(puts: Iterable[_Put], frames: int) -> Iterator[_Put]:
    """Yield what is to be put, one behind: only then is it known which is the last, and it counts the frames."""
    last: _Put | None = None
    for one in puts:
        if last is not None:
            yield last
        last = one
    if last is not None:
        yield replace(last, frames=frames)


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
