"""Snapshots of an AMI -> block index, pack table and packs; killed anywhere, it goes on from whole packs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bundler.archive.packs import NewPack, PackedFrame, PackWriter, compress
from bundler.domain.blocks import BLOCK_BYTES, BlockIndex, Volume
from bundler.domain.delta import ZERO_SHA256
from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, ItemDone, TransferPlanned
from bundler.domain.export import ExportProgress
from bundler.domain.packs import FRAME_BLOCKS, PackTable
from bundler.domain.snapshot import DeviceSnapshot, ListedBlock, SnapshotBlocks
from bundler.transfer import Pace, ordered_map

PHASE = "export"
READERS = 64
"""Threads that read: a service of 50 to 100 ms is busy with them, and more gain nothing (reference: ami.md §3.2)."""
_AHEAD = 2 * READERS
_PACKERS = 2
_UNWRITTEN = 3
"""Compressed frames that may wait for the disk: as a rule 5 MiB each, and what a failure costs beside the reads."""


class SnapshotReader(Protocol):
    """EBS direct, as far as export needs it."""

    def blocks(self, snapshot: str) -> SnapshotBlocks:
        """Return the written blocks of a snapshot."""
        ...

    def read(self, snapshot: str, block: ListedBlock, *, progress: Callable[[], int]) -> tuple[bytes, bytes]:
        """Return a block and its raw SHA-256, checked."""
        ...


class ExportPlace(Protocol):
    """Where packs are kept, and how far an export is; all of it may be lost at any time."""

    def has(self, pack: Digest) -> bool:
        """Whether a pack is there."""
        ...

    def begin(self) -> NewPack:
        """Begin a pack."""
        ...

    def load(self) -> ExportProgress | None:
        """Return how far it is, None where nothing of use was kept."""
        ...

    def save(self, progress: ExportProgress) -> None:
        """Keep how far it is, whole or not at all."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an AMI's volumes hold, and the packs that carry it."""

    index: BlockIndex
    table: PackTable


@dataclass(frozen=True, slots=True)
class _Read:
    """A block on its way; `position` counts blocks of all devices, `content` is None where it was seen before."""

    position: int
    device: int
    number: int
    content: bytes | None
    sha256: bytes


@dataclass(slots=True)
class _Batch:
    """Blocks of one frame, and how much had been seen before the first of them."""

    before: ExportProgress
    blocks: list[bytes] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A device with its written blocks."""

    device: str
    listed: SnapshotBlocks


def export(
    devices: Sequence[DeviceSnapshot],
    *,
    reader: SnapshotReader,
    place: ExportPlace,
    base: Iterable[bytes] = (),
    pace: Pace = Pace(),
) -> Exported:
    """Read the snapshots of an AMI; each different block that is not all zeros and not in `base` goes into a pack.

    Args:
        devices: by the names of the devices, ascending.
        reader: EBS direct.
        place: where finished packs go, and how far it is.
        base: raw SHA-256s of blocks that the far side has: they are listed, and not carried.
        pace: who hears of it; the number of readers is fixed.

    Raises:
        ConflictError: a snapshot does not exist or is not complete.
        NetworkError: EBS direct does not answer, or not as it should.
    """
    sources = [_Source(device=one.device, listed=reader.blocks(one.snapshot)) for one in devices]
    return _Export(sources, base, reader=reader, place=place, pace=pace).all()


class _Export:
    """One run: the index as far as it is known, and the packs."""

    def __init__(
        self,
        sources: Sequence[_Source],
        base: Iterable[bytes],
        *,
        reader: SnapshotReader,
        place: ExportPlace,
        pace: Pace,
    ) -> None:
        self._sources = sources
        self._reader = reader
        self._place = place
        self._emit = pace.emit
        self._count = 0
        self._progress = self._kept()
        self._writer = PackWriter.into(place.begin, table=self._progress.table)
        self._known = {*base, ZERO_SHA256, *self._progress.table.all_digests()}
        self._records = [bytearray(records) for records in self._progress.records]

    def all(self) -> Exported:
        total = sum(len(source.listed.blocks) for source in self._sources)
        left = total - self._progress.seen
        self._emit(
            TransferPlanned(
                phase=PHASE,
                total_bytes=total * BLOCK_BYTES,
                items=len(self._sources),
                present_bytes=(total - left) * BLOCK_BYTES,
            )
        )
        try:
            table = self._packed()
        finally:
            self._writer.close()
        for source in self._sources:
            self._emit(ItemDone(phase=PHASE, item=source.device))
        index = BlockIndex(volumes=tuple(self._volume(number) for number in range(len(self._sources))))
        return Exported(index=index, table=table)

    def _packed(self) -> PackTable:
        """Read, compress and write, each while the others go on: a disk that is slow for a second stops nobody."""
        with (
            ordered_map(self._read, self._wanted(), workers=READERS, ahead=_AHEAD) as reads,
            ordered_map(_pack, self._batches(reads), workers=_PACKERS, ahead=_PACKERS + 1) as frames,
            ordered_map(self._write, frames, workers=1, ahead=_UNWRITTEN) as written,
        ):
            for _ in written:
                pass
        return self._writer.finish()

    def _write(self, packed: tuple[ExportProgress, PackedFrame]) -> None:
        before, frame = packed
        if self._writer.add(frame):
            self._save(before)

    def _kept(self) -> ExportProgress:
        """How far an earlier run came with the same snapshots and packs that are still there."""
        kept = self._place.load()
        snapshots = tuple(source.listed.snapshot for source in self._sources)
        if kept is None or kept.snapshots != snapshots or not all(map(self._place.has, kept.table.packs)):
            return ExportProgress.fresh(snapshots)
        return kept

    def _batches(self, reads: Iterable[_Read]) -> Iterator[_Batch]:
        """Yield the blocks to carry, a frame at a time; every block of the snapshots is noted in the index."""
        batch = _Batch(self._seen(self._progress.seen))
        for read in reads:
            if read.content is not None and read.sha256 not in self._known:
                self._known.add(read.sha256)
                if not batch.blocks:
                    batch.before = self._seen(read.position)
                batch.blocks.append(read.content)
                batch.digests.append(read.sha256)
            if read.sha256 != ZERO_SHA256:
                self._records[read.device] += read.number.to_bytes(4, "big") + read.sha256
            if len(batch.blocks) == FRAME_BLOCKS:
                yield batch
                batch = _Batch(batch.before)
        if batch.blocks:
            yield batch

    def _wanted(self) -> Iterator[tuple[int, int, ListedBlock]]:
        for position, (device, block) in enumerate(self._all_blocks()):
            if position >= self._progress.seen:
                yield position, device, block

    def _all_blocks(self) -> Iterator[tuple[int, ListedBlock]]:
        for device, source in enumerate(self._sources):
            for block in source.listed.blocks:
                yield device, block

    def _read(self, wanted: tuple[int, int, ListedBlock]) -> _Read:
        position, device, block = wanted
        source = self._sources[device]
        content, sha256 = self._reader.read(source.listed.snapshot, block, progress=lambda: self._count)
        self._count += 1  # only ever a hint that something moves
        self._emit(BytesMoved(phase=PHASE, item=source.device, count=BLOCK_BYTES))
        wanted_content = None if sha256 in self._known else content  # what nobody carries need not wait for its turn
        return _Read(position, device, block.number, wanted_content, sha256)

    def _seen(self, position: int) -> ExportProgress:
        """What is known before the block at `position`: lengths now, contents when they are saved."""
        return self._progress.at(position, tuple(len(records) for records in self._records))

    def _save(self, before: ExportProgress) -> None:
        """Keep what the finished packs hold; the frame that was just added is not among it."""
        records = tuple(bytes(have[:length]) for have, length in zip(self._records, before.lengths, strict=True))
        self._place.save(before.with_content(records, self._writer.finished))

    def _volume(self, number: int) -> Volume:
        return Volume(
            device=self._sources[number].device,
            gib=self._sources[number].listed.gib,
            records=bytes(self._records[number]),
        )


def _pack(batch: _Batch) -> tuple[ExportProgress, PackedFrame]:
    whole = b"".join(batch.blocks)
    batch.blocks.clear()  # 16 MiB that are not held twice
    return batch.before, compress([whole], tuple(batch.digests))
