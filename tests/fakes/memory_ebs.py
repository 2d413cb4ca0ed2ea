"""EBS direct and the snapshots of an account in memory: parents, tokens, counts and aggregates as AWS has them."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bundler.archive.packs import PackWriter
from bundler.domain.blocks import BLOCK_BYTES, BLOCKS_PER_GIB
from bundler.domain.digest import Digest
from bundler.domain.packs import PackTable
from bundler.domain.snapshot import FoundSnapshot, ListedBlock, NewSnapshot, SnapshotBlocks
from bundler.errors import ConflictError, NetworkError

ZEROS = bytes(BLOCK_BYTES)


@functools.cache
def block(seed: int) -> bytes:
    """A block with 16 bytes of its own; 0 gives zeros."""
    return (seed.to_bytes(16) if seed else b"").ljust(BLOCK_BYTES, b"\0")


@dataclass
class _Held:
    gib: int
    blocks: dict[int, bytes]
    tags: Mapping[str, str]
    is_encrypted: bool = False
    kms_key: str = ""
    written: set[int] = field(default_factory=set)
    state: str = "pending"


class MemoryEbs:
    """Snapshots; `fails_at` is the number of the write (start, put, complete) that never arrives."""

    def __init__(self) -> None:
        self.held: dict[str, _Held] = {}
        self.writes = 0
        self.puts: list[tuple[str, int]] = []
        self.reads: list[tuple[str, int]] = []
        self.fails_at: int | None = None
        self._tokens: dict[str, tuple[NewSnapshot, str]] = {}
        self._lock = threading.Lock()

    def add(self, blocks: Mapping[int, bytes], tags: Mapping[str, str], *, gib: int = 1, kms_key: str = "") -> str:
        """Put a complete snapshot there."""
        made = f"snap-{len(self.held)}"
        kept = _Held(gib=gib, blocks=dict(blocks), tags=tags, is_encrypted=bool(kms_key), kms_key=kms_key)
        kept.state = "completed"
        self.held[made] = kept
        return made

    @property
    def found(self) -> list[FoundSnapshot]:
        """What EC2 tells of them."""
        return [
            FoundSnapshot(
                id=name, state=held.state, tags=held.tags, is_encrypted=held.is_encrypted, kms_key=held.kms_key
            )
            for name, held in self.held.items()
        ]

    def content(self, snapshot: str) -> dict[int, bytes]:
        """What a volume of a snapshot reads as, where it is not zeros."""
        return {number: content for number, content in self.held[snapshot].blocks.items() if content != ZEROS}

    def start(self, wanted: NewSnapshot) -> str:
        self._write()
        asked, name = self._tokens.get(wanted.token, (wanted, ""))
        assert asked == wanted, "the token was used with other parameters"
        if name:
            return name
        made = _Held(gib=wanted.gib, blocks={}, tags=wanted.tags, is_encrypted=wanted.kms_key is not None)
        if wanted.parent is not None:
            parent = self.held[wanted.parent]
            assert parent.state == "completed"
            assert parent.gib <= wanted.gib
            assert wanted.kms_key is None
            made.blocks = dict(parent.blocks)
            made.is_encrypted, made.kms_key = parent.is_encrypted, parent.kms_key
        name = f"snap-{len(self.held)}"
        self.held[name] = made
        self._tokens[wanted.token] = (wanted, name)
        return name

    def put(self, snapshot: str, number: int, content: bytes | memoryview, sha256: bytes) -> None:
        held = self.held[snapshot]
        assert held.state == "pending"
        assert (len(content), hashlib.sha256(content).digest()) == (BLOCK_BYTES, sha256)
        assert number < held.gib * BLOCKS_PER_GIB
        with self._lock:
            self._write()
            self.puts.append((snapshot, number))
            held.blocks[number] = bytes(content)
            held.written.add(number)

    def complete(self, snapshot: str, blocks: int, aggregate: bytes) -> None:
        self._write()
        held = self.held[snapshot]
        whole = b"".join(hashlib.sha256(held.blocks[number]).digest() for number in sorted(held.written))
        if (blocks, aggregate) != (len(held.written), hashlib.sha256(whole).digest()):
            raise ConflictError(snapshot, "holds other blocks")
        held.state = "completed"

    def blocks(self, snapshot: str) -> SnapshotBlocks:
        held = self.held[snapshot]
        assert held.state == "completed"
        listed = tuple(ListedBlock(number, f"{snapshot} {number}") for number in sorted(held.blocks))
        return SnapshotBlocks(snapshot=snapshot, gib=held.gib, blocks=listed)

    def read(self, snapshot: str, block: ListedBlock, *, progress: Callable[[], int]) -> tuple[bytes, bytes]:
        assert block.token == f"{snapshot} {block.number}"
        with self._lock:
            self.reads.append((snapshot, block.number))
        content = self.held[snapshot].blocks[block.number]
        return content, hashlib.sha256(content).digest()

    def _write(self) -> None:
        self.writes += 1
        if self.writes == self.fails_at:
            raise NetworkError("EBS direct", "no answer")


class MemoryPacks:
    """Packs of one AMI, as `PackReader`, and where an export puts them."""

    def __init__(self) -> None:
        self.packs: dict[Digest, bytes] = {}
        self.table: PackTable = PackWriter(keep=self.keep).finish()

    def keep(self, pieces: list[bytes]) -> Digest:
        content = b"".join(pieces)
        self.packs[Digest.of(content)] = content
        return Digest.of(content)

    def read_at(self, pack: Digest, offset: int, length: int) -> bytes:
        return self.packs[pack][offset : offset + length]


@dataclass
class MemoryProgress:
    """What a journal would keep."""

    noted: dict[tuple[tuple[str, str], ...], int] = field(default_factory=dict)

    def frames(self, snapshots: Mapping[str, str]) -> int:
        return self.noted.get(tuple(sorted(snapshots.items())), 0)

    def put(self, snapshots: Mapping[str, str], frames: int) -> None:
        self.noted[tuple(sorted(snapshots.items()))] = frames
