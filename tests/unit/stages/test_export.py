"""Export: what snapshots hold comes out of packs; killed between packs, the next run reads only what is left."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.archive import packs
from bundler.archive.packs import PackWriter, unpack
from bundler.cache import Cache
from bundler.domain.blocks import BLOCK_BYTES
from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, Event, TransferPlanned
from bundler.domain.export import ExportProgress, parse_progress
from bundler.domain.snapshot import DeviceSnapshot, ListedBlock, SnapshotBlocks
from bundler.errors import FormatError, NetworkError
from bundler.exports import ExportFolder
from bundler.stages.export import Exported, export
from bundler.transfer import Pace

ROOT = DeviceSnapshot(device="/dev/xvda", snapshot="snap-root")
DATA = DeviceSnapshot(device="/dev/xvdb", snapshot="snap-data")


def block(seed: int) -> bytes:
    """16 KiB that do not compress, and zeros behind them; 0 gives zeros."""
    start = hashlib.shake_128(str(seed).encode()).digest(16 << 10) if seed else b""
    return start + bytes(BLOCK_BYTES - len(start))


class Snapshots:
    """EBS direct in memory; `fails_at` is the read that fails."""

    def __init__(self, **content: dict[int, int]) -> None:
        self.content = {f"snap-{name}": blocks for name, blocks in content.items()}
        self.reads: list[tuple[str, int]] = []
        self.fails_at: int | None = None
        self._lock = threading.Lock()

    def blocks(self, snapshot: str) -> SnapshotBlocks:
        numbers = sorted(self.content[snapshot])
        listed = tuple(ListedBlock(number, f"token {number}") for number in numbers)
        return SnapshotBlocks(snapshot=snapshot, gib=1, blocks=listed)

    def read(self, snapshot: str, block_: ListedBlock, *, progress: Callable[[], int]) -> tuple[bytes, bytes]:
        assert block_.token == f"token {block_.number}"
        with self._lock:
            self.reads.append((snapshot, block_.number))
            if len(self.reads) == self.fails_at:
                raise NetworkError(snapshot, "no answer")
        content = block(self.content[snapshot][block_.number])
        return content, hashlib.sha256(content).digest()


def contents(exported: Exported, cache: Cache) -> dict[str, dict[int, bytes]]:
    """What the packs give back: device -> block -> bytes."""
    found: dict[bytes, bytes] = {}
    for frame in exported.table.frames:
        pack = b"".join(cache.read(exported.table.packs[frame.pack]))
        piece = pack[frame.offset : frame.offset + frame.length]
        found |= {digest: bytes(raw) for digest, raw in unpack(piece, frame, table=exported.table, subject="pack")}
    return {volume.device: {number: found[digest] for number, digest in volume} for volume in exported.index.volumes}


def test_every_written_block_comes_out_of_the_packs_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    reader = Snapshots(root={0: 1, 5: 2, 9: 1, 10: 0, 2047: 3}, data={4: 2, 6: 4})
    exported = export([ROOT, DATA], reader=reader, place=ExportFolder(cache, key="x"))
    assert contents(exported, cache) == {
        "/dev/xvda": {0: block(1), 5: block(2), 9: block(1), 2047: block(3)},
        "/dev/xvdb": {4: block(2), 6: block(4)},
    }
    assert len(exported.table) == 4, "equal blocks are carried once, zeros not at all"


def test_blocks_of_the_base_are_listed_and_not_carried(tmp_path: Path) -> None:
    cache, base = Cache(tmp_path), [hashlib.sha256(block(1)).digest()]
    exported = export([ROOT], reader=Snapshots(root={0: 1, 1: 2}), place=ExportFolder(cache, key="x"), base=base)
    assert [number for number, _ in exported.index.volumes[0]] == [0, 1]
    assert list(exported.table.all_digests()) == [hashlib.sha256(block(2)).digest()]


def test_nothing_written_is_an_index_without_blocks(tmp_path: Path) -> None:
    exported = export([ROOT], reader=Snapshots(root={}), place=ExportFolder(Cache(tmp_path), key="x"))
    assert (len(exported.index.volumes[0]), len(exported.table), exported.table.packs) == (0, 0, ())


def test_the_same_snapshots_give_the_same_index_table_and_packs(tmp_path: Path) -> None:
    content = {number: number % 50 for number in range(200)}
    one, other = (
        export([ROOT], reader=Snapshots(root=content), place=ExportFolder(Cache(tmp_path / name), key="x"))
        for name in ("one", "other")
    )
    assert (one.index.raw, one.table.raw) == (other.index.raw, other.table.raw)


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack takes one frame of 32 blocks."""
    monkeypatch.setattr(packs, "MAX_PACK_BYTES", 600 << 10)


def test_after_a_failure_only_what_no_pack_holds_is_read_again(tmp_path: Path, small_packs: None) -> None:
    content = {number: 1 + number % 1370 for number in range(0, 1600, 2)}
    cache, reader = Cache(tmp_path), Snapshots(root=content, data={7: 1000, 8: 1})
    place = ExportFolder(cache, key="x")
    whole = export([ROOT, DATA], reader=reader, place=ExportFolder(Cache(tmp_path / "other"), key="x"))
    for fails_at in (600, 300):
        reader.reads, reader.fails_at = [], fails_at
        with pytest.raises(NetworkError):
            export([ROOT, DATA], reader=reader, place=place)
    kept = place.load()
    assert kept is not None
    assert kept.seen >= 32
    reader.reads, reader.fails_at = [], None
    events: list[Event] = []
    exported = export([ROOT, DATA], reader=reader, place=place, pace=Pace(emit=events.append))
    assert (exported.index.raw, exported.table.raw) == (whole.index.raw, whole.table.raw)
    assert len(reader.reads) == len(content) + 2 - kept.seen
    (planned,) = [event for event in events if isinstance(event, TransferPlanned)]
    moved = sum(event.count for event in events if isinstance(event, BytesMoved))
    assert planned.present_bytes + moved == planned.total_bytes
    assert contents(exported, cache)["/dev/xvdb"] == {7: block(1000), 8: block(1)}


def test_a_state_that_lost_or_turned_a_bit_is_not_used() -> None:
    state = ExportProgress.fresh(("snap-root",)).at(7, (36,)).with_content((b"r" * 36,), PackWriter(keep=kept).finish())
    assert parse_progress(state.raw, subject="state") == state
    for position in range(len(state.raw)):
        damaged = bytearray(state.raw)
        damaged[position] ^= 1
        for raw in (bytes(damaged), state.raw[:position]):
            with pytest.raises(FormatError):
                parse_progress(raw, subject="state")


def kept(pieces: list[bytes]) -> Digest:
    return Digest.of(b"".join(pieces))


def lost_pack(cache: Cache, place: ExportFolder) -> None:
    kept = place.load()
    assert kept is not None
    cache.drop(kept.table.packs[0])


def damaged_state(cache: Cache, place: ExportFolder) -> None:
    (cache.folder / "exports" / "x.json").write_bytes(b"{")


@pytest.mark.parametrize("spoil", [lost_pack, damaged_state])
def test_what_was_kept_may_be_lost(
    spoil: Callable[[Cache, ExportFolder], None], tmp_path: Path, small_packs: None
) -> None:
    cache, reader = Cache(tmp_path), Snapshots(root={number: number + 1 for number in range(400)})
    place = ExportFolder(cache, key="x")
    reader.fails_at = 395
    with pytest.raises(NetworkError):
        export([ROOT], reader=reader, place=place)
    spoil(cache, place)
    reader.reads, reader.fails_at = [], None
    exported = export([ROOT], reader=reader, place=place)
    assert len(reader.reads) == 400
    assert contents(exported, cache)["/dev/xvda"] == {number: block(number + 1) for number in range(400)}


def test_another_snapshot_does_not_take_what_was_kept(tmp_path: Path, small_packs: None) -> None:
    cache = Cache(tmp_path)
    reader = Snapshots(root={number: number + 1 for number in range(400)}, data={0: 7})
    reader.fails_at = 395
    place = ExportFolder(cache, key="x")
    with pytest.raises(NetworkError):
        export([ROOT], reader=reader, place=place)
    reader.fails_at = None
    exported = export([DATA], reader=reader, place=place)
    assert contents(exported, cache) == {"/dev/xvdb": {0: block(7)}}


def test_a_failure_leaves_no_piece_of_a_pack(tmp_path: Path) -> None:
    reader = Snapshots(root={number: number + 1 for number in range(400)})
    reader.fails_at = 395
    with pytest.raises(NetworkError):
        export([ROOT], reader=reader, place=ExportFolder(Cache(tmp_path), key="x"))
    assert [path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == [".lock"]
