"""A restored snapshot, read back block by block: does it hold what the block index says, and nothing else?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

from bundler.domain.blocks import BLOCK_BYTES, Volume
from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, ItemDone
from bundler.domain.snapshot import ListedBlock, SnapshotBlocks
from bundler.transfer import Pace, ordered_map

PHASE = "read-back"
READERS = 64
_AHEAD = 2 * READERS
_FIRST = 5
"""How many blocks of each kind are named."""
_ZERO = bytes.fromhex(Digest.of(bytes(BLOCK_BYTES)).hex)
Kind = Literal["right", "zeros", "missing", "additional", "different"]


class SnapshotReader(Protocol):
    """EBS direct, reading."""

    def blocks(self, snapshot: str) -> SnapshotBlocks:
        """Return the written blocks of a snapshot."""
        ...

    def read(self, snapshot: str, block: ListedBlock, *, progress: Callable[[], int]) -> tuple[bytes, bytes]:
        """Return a block and its raw SHA-256, checked."""
        ...


@dataclass(slots=True)
class Blocks:
    """Blocks of one kind: how many, and the numbers of the first ones."""

    count: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, number: int) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < _FIRST:
            self.first.append(number)

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.first) else ""
        return f"{self.count} ({', '.join(map(str, self.first))}{more})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBack:
    """What a snapshot holds, beside what it should.

    Attributes:
        gib: size of its volume.
        missing: blocks of the index that were never written to it.
        additional: blocks that are written, not zeros, and not in the index.
        different: blocks with other content.
        right: how many blocks of the index it holds.
    """

    snapshot: str
    gib: int
    right: int
    missing: Blocks
    additional: Blocks
    different: Blocks

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with it, in words."""
        kinds = {"missing": self.missing, "additional": self.additional, "different": self.different}
        return tuple(f"{name}: {blocks}" for name, blocks in kinds.items() if blocks.count)


def read_back(volume: Volume, snapshot: str, *, reader: SnapshotReader, pace: Pace = Pace()) -> ReadBack:
    """Read a snapshot and compare it with the volume that it should hold; few blocks are in memory at a time.

    Raises:
        ConflictError: the snapshot does not exist, or is not complete.
        NetworkError: EBS direct does not answer, or not as it should.
    """
    listed = reader.blocks(snapshot)
    moved = Blocks()

    def look(one: _Place) -> tuple[int, Kind]:
        if one.wanted is not None:  # only these are planned
            pace.emit(BytesMoved(phase=PHASE, item=volume.device, count=BLOCK_BYTES, kept=one.block is None))
        if one.block is None:
            return one.number, "missing"
        _, sha256 = reader.read(snapshot, one.block, progress=lambda: moved.count)
        return one.number, _kind(one.wanted, sha256)

    found = {kind: Blocks() for kind in get_args(Kind)}
    with ordered_map(look, _places(volume, listed), workers=READERS, ahead=_AHEAD) as looked:
        for number, kind in looked:
            moved.count += 1
            found[kind].add(number)
    pace.emit(ItemDone(phase=PHASE, item=volume.device, how="verified"))
    return ReadBack(
        snapshot=snapshot,
        gib=listed.gib,
        right=found["right"].count,
        missing=found["missing"],
        additional=found["additional"],
        different=found["different"],
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """A block that the index names (`wanted` is its raw SHA-256), that the snapshot lists, or both."""

    number: int
    wanted: bytes | None
    block: ListedBlock | None


def _places(volume: Volume, listed: SnapshotBlocks) -> Iterator[_Place]:
    """Yield every place of both, ascending: each is sorted."""
    wanted, written = iter(volume), iter(listed.blocks)
    one, other = next(wanted, None), next(written, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[0] < other.number):
            assert one is not None  # noqa: S101 - else the loop has ended
            yield _Place(one[0], one[1], None)
            one = next(wanted, None)
        elif one is None or other.number < one[0]:
            yield _Place(other.number, None, other)
            other = next(written, None)
        else:
            yield _Place(one[0], one[1], other)
            one, other = next(wanted, None), next(written, None)


def _kind(wanted: bytes | None, found: bytes) -> Kind:
    """What a block is; one of zeros that no index names is as good as none: a restore does not write it."""
    if wanted is None:
        return "zeros" if found == _ZERO else "additional"
    return "right" if found == wanted else "different"
