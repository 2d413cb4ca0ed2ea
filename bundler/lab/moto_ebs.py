"""moto's EBS direct APIs made honest: blocks are checked, listed in order and page by page, and kept on disk.

Facts: EBS direct APIs reference (StartSnapshot, PutSnapshotBlock, CompleteSnapshot, ListSnapshotBlocks,
ListChangedBlocks, GetSnapshotBlock) and EBS user guide, "Use EBS direct APIs". moto takes wrong checksums, short blocks
and wrong counts, ignores client tokens and parents, misses added blocks, and keeps every block in memory.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moto.core.responses import ActionResult
from moto.ebs import urls
from moto.ebs.models import EBSBackend, ebs_backends
from moto.ebs.responses import EBSResponse

from bundler.domain.blocks import BLOCK_BYTES, BLOCKS_PER_GIB
from bundler.lab.moto_patch import Refused, route_all
from bundler.lab.node_disk import RawDisk

_TOKEN_LIFE_S = 7 * 24 * 3600
_DEFAULT_TIMEOUT_MIN = 60
_DEFAULT_PAGE = 10_000


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """Where a block's bytes are, and their raw SHA-256."""

    path: Path
    offset: int
    sha256: bytes
    token: str

    def read(self) -> bytes:
        """Return the bytes."""
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), BLOCK_BYTES, self.offset)


@dataclass(slots=True, kw_only=True)
class LabSnapshot:
    """The blocks of one snapshot; those of a parent are shared with it.

    Attributes:
        written: numbers of the blocks that were put into this snapshot itself.
        timeout_min: a pending snapshot that nobody writes to for so long is given up.
    """

    id: str
    gib: int
    file: Path
    blocks: dict[int, StoredBlock] = field(default_factory=dict)
    written: set[int] = field(default_factory=set)
    status: str = "pending"
    timeout_min: int = _DEFAULT_TIMEOUT_MIN
    touched_s: float = field(default_factory=time.monotonic)
    started: float = field(default_factory=time.time)

    @property
    def is_given_up(self) -> bool:
        """Whether it waited too long for its next block."""
        return self.status == "pending" and time.monotonic() - self.touched_s > 60 * self.timeout_min


class SnapshotStore:
    """The snapshots of all accounts and Regions of this lab, with their blocks below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._snapshots: dict[tuple[str, str, str], LabSnapshot] = {}
        self._started: dict[tuple[str, str, str], tuple[tuple[object, ...], LabSnapshot]] = {}

    def find(self, backend: EBSBackend, snapshot_id: str) -> LabSnapshot:
        """Return a snapshot that is there."""
        with self._lock:
            found = self._snapshots.get(_key(backend, snapshot_id))
        ec2 = backend.ec2_backend.snapshots.get(snapshot_id)
        if found is None or ec2 is None:
            raise Refused("ResourceNotFoundException", f"The snapshot '{snapshot_id}' does not exist.")
        if not _is_open(ec2, backend.account_id):
            raise Refused("ValidationException", f"The snapshot '{snapshot_id}' is public: this is not supported.")
        return found

    def has(self, backend: EBSBackend, snapshot_id: str) -> bool:
        """Whether the blocks of a snapshot are known."""
        with self._lock:
            return _key(backend, snapshot_id) in self._snapshots

    def read(self, backend: EBSBackend, snapshot_id: str) -> Iterator[tuple[int, bytes]]:
        """Yield the blocks of a snapshot, whoever owns it: what EC2 itself does when it makes a volume of it."""
        with self._lock:
            blocks = dict(self._snapshots[_key(backend, snapshot_id)].blocks)
        for number, block in sorted(blocks.items()):
            yield number, block.read()

    def copy(self, source: tuple[EBSBackend, str], target: tuple[EBSBackend, str], *, gib: int) -> None:
        """Give a snapshot the blocks of another, under tokens of its own; they are not stored twice."""
        with self._lock:
            found = self._snapshots.get(_key(*source))
            blocks = {} if found is None else found.blocks
            self._snapshots[_key(*target)] = LabSnapshot(
                id=target[1],
                gib=gib,
                file=self._folder / f"{target[1]}.blocks",
                blocks={number: replace(block, token=uuid.uuid4().hex) for number, block in blocks.items()},
                status="completed",
            )

    def link(self, backend: EBSBackend, snapshot_id: str, disk: RawDisk) -> None:
        """Give a snapshot the blocks of an image that nobody changes, where they are."""
        blocks = {
            number: StoredBlock(disk.path, number * BLOCK_BYTES, sha256, uuid.uuid4().hex)
            for number, sha256 in disk.blocks.items()
        }
        made = LabSnapshot(id=snapshot_id, gib=disk.gib, file=disk.path, blocks=blocks, status="completed")
        with self._lock:
            self._snapshots[_key(backend, snapshot_id)] = made

    def start(self, backend: EBSBackend, asked: Mapping[str, Any]) -> LabSnapshot:
        """Start a snapshot, or return the one that the client token started."""
        token, wanted = asked.get("ClientToken"), _identity(asked)
        with self._lock:
            before = self._started.get(_key(backend, token)) if token else None
            if before is not None:
                if before[0] != wanted:
                    raise Refused("ConflictException", "The client token was used with other parameters.")
                return before[1]
            made = self._start(backend, asked)
            if token:
                self._started[_key(backend, token)] = (wanted, made)
            return made

    def adopt(self, backend: EBSBackend, snapshot_id: str, gib: int, blocks: Iterable[tuple[int, bytes]]) -> None:
        """Give a snapshot that EC2 itself made its blocks; it is complete from then on."""
        snapshot = LabSnapshot(id=snapshot_id, gib=gib, file=self._folder / f"{snapshot_id}.blocks")
        self._folder.mkdir(parents=True, exist_ok=True)
        for number, content in blocks:
            self.put(snapshot, number, content, hashlib.sha256(content).digest())
        snapshot.status = "completed"
        with self._lock:
            self._snapshots[_key(backend, snapshot_id)] = snapshot

    def fail(self, snapshot_id: str, why: str) -> None:
        """Let a snapshot go to `error`, as AWS does where a key cannot be used or nobody writes for too long."""
        with self._lock:
            found = [(key, one) for key, one in self._snapshots.items() if one.id == snapshot_id]
        for (account, region, _), snapshot in found:
            snapshot.status = "error"
            made: Any = ebs_backends[account][region].ec2_backend.snapshots[snapshot_id]
            made.status, made.state_message = "error", why

    def put(self, snapshot: LabSnapshot, number: int, content: bytes, sha256: bytes) -> None:
        """Keep a block; the last one put under a number counts."""
        with self._lock, snapshot.file.open("ab") as file:
            offset = file.tell()
            file.write(content)
            block = StoredBlock(snapshot.file, offset, sha256, uuid.uuid4().hex)
            snapshot.blocks[number] = block
            snapshot.written.add(number)
            snapshot.touched_s = time.monotonic()

    def _start(self, backend: EBSBackend, asked: Mapping[str, Any]) -> LabSnapshot:
        parent = self._parent(backend, asked)
        ec2 = backend.ec2_backend
        volume = ec2.create_volume(size=asked["VolumeSize"], zone_name=f"{backend.region_name}a")
        made = ec2.create_snapshot(volume_id=volume.id, description=asked.get("Description", ""))
        made.add_tags({tag["Key"]: tag["Value"] for tag in asked.get("Tags", [])})
        made.status = "pending"
        before = None if parent is None else ec2.snapshots[parent.id]
        made.encrypted, made.kms_key_id = _encryption(ec2, asked, before)
        self._folder.mkdir(parents=True, exist_ok=True)
        snapshot = LabSnapshot(
            id=made.id,
            gib=asked["VolumeSize"],
            file=self._folder / f"{made.id}.blocks",
            blocks={} if parent is None else dict(parent.blocks),
            timeout_min=asked.get("Timeout", _DEFAULT_TIMEOUT_MIN),
        )
        self._snapshots[_key(backend, made.id)] = snapshot
        return snapshot

    def _parent(self, backend: EBSBackend, asked: Mapping[str, Any]) -> LabSnapshot | None:
        name = asked.get("ParentSnapshotId")
        if name is None:
            return None
        parent = self._snapshots.get(_key(backend, name))
        if parent is None:
            raise Refused("ResourceNotFoundException", f"The parent snapshot '{name}' does not exist.")
        if asked.get("Encrypted") is not None or asked.get("KmsKeyArn") is not None:
            raise Refused("ValidationException", "Encrypted and KmsKeyArn cannot be given with ParentSnapshotId.")
        if parent.status != "completed" or asked["VolumeSize"] < parent.gib:
            raise Refused("ValidationException", "The parent snapshot is not complete, or larger than the volume.")
        ec2 = backend.ec2_backend
        if ec2.get_ebs_encryption_by_default() and not ec2.snapshots[name].encrypted:
            message = "The parent snapshot is not encrypted, and encryption by default is enabled for the account."
            raise Refused("ValidationException", message)
        return parent


def _encryption(ec2: Any, asked: Mapping[str, Any], parent: Any | None) -> tuple[bool, str | None]:
    """Whether a new snapshot is encrypted, and with which key: as its parent is, as is asked, or by default."""
    if parent is not None:
        return parent.encrypted, parent.kms_key_id
    if asked.get("Encrypted") or asked.get("KmsKeyArn"):
        return True, asked.get("KmsKeyArn") or default_key(ec2)
    by_default = bool(ec2.get_ebs_encryption_by_default())
    return by_default, default_key(ec2) if by_default else None


def default_key(ec2: Any) -> str:
    """Return the ARN of the key that an account's Region encrypts with where none is named."""
    return str(ec2.default_kms_key_id or ec2._create_default_encryption_key())


def _key(backend: EBSBackend, name: str) -> tuple[str, str, str]:
    return backend.account_id, backend.region_name, name


def _is_open(snapshot: Any, account: str) -> bool:
    """Whether EBS direct reads it for an account: its own and those shared with it by number, not public ones."""
    return account in {snapshot.owner_id, *snapshot.create_volume_permission_userids}


def _identity(asked: Mapping[str, Any]) -> tuple[object, ...]:
    tags = sorted((tag["Key"], tag["Value"]) for tag in asked.get("Tags", []))
    names = ("VolumeSize", "ParentSnapshotId", "Description", "Encrypted", "KmsKeyArn", "Timeout")
    return (*(asked.get(name) for name in names), tuple(tags))


def correct_ebs(folder: Path) -> SnapshotStore:
    """Put the corrected responses in moto's place; blocks are kept below `folder`."""
    store = SnapshotStore(folder)
    responses: Any = type("LabEbs", (LabEbsResponse,), {"store": store})
    route_all(urls.url_paths, responses.dispatch)
    return store


class LabEbsResponse(EBSResponse):
    """Snapshots block by block."""

    store: SnapshotStore

    @property
    def _backend(self) -> EBSBackend:
        return ebs_backends[self.current_account][self.region]

    def start_snapshot(self) -> ActionResult:
        """Begin; the same client token and parameters give the same snapshot, also where it is deleted by now."""
        made = self.store.start(self._backend, self.params)
        result = {
            "SnapshotId": made.id,
            "OwnerId": self.current_account,
            "Status": made.status,
            "StartTime": made.started,
            "VolumeSize": made.gib,
            "BlockSize": BLOCK_BYTES,
            "Tags": self._get_param("Tags"),
            "Description": self._get_param("Description"),
            "ParentSnapshotId": self._get_param("ParentSnapshotId"),
            "KmsKeyArn": self._get_param("KmsKeyArn"),
        }
        return ActionResult({name: value for name, value in result.items() if value is not None})

    def put_snapshot_block(self) -> ActionResult:
        """Take a block whose length and SHA-256 are true."""
        snapshot = self._pending()
        number, content = int(self._get_param("BlockIndex")), bytes(self._get_param("BlockData"))
        if len(content) != BLOCK_BYTES or int(self._get_param("DataLength")) != BLOCK_BYTES:
            raise Refused("ValidationException", f"A block has {BLOCK_BYTES} bytes.")
        if not 0 <= number < snapshot.gib * BLOCKS_PER_GIB:
            raise Refused("ValidationException", "The block index is beyond the volume.")
        sha256 = hashlib.sha256(content).digest()
        if self._get_param("ChecksumAlgorithm") != "SHA256" or self._get_param("Checksum") != _base64(sha256):
            raise Refused("ValidationException", "The checksum does not match the data.")
        self.store.put(snapshot, number, content, sha256)
        return ActionResult({"Checksum": _base64(sha256), "ChecksumAlgorithm": "SHA256"})

    def complete_snapshot(self) -> ActionResult:
        """Seal a snapshot that holds as many blocks, with such contents, as the caller says."""
        snapshot = self._pending()
        if int(self._get_param("ChangedBlocksCount")) != len(snapshot.written):
            raise Refused("ValidationException", f"{len(snapshot.written)} blocks were written.")
        stated = self._get_param("Checksum")
        if stated is not None:
            self._check_aggregate(snapshot, stated)
        snapshot.status = "completed"
        self._backend.ec2_backend.snapshots[snapshot.id].status = "completed"
        return ActionResult({"Status": "completed"})

    def _check_aggregate(self, snapshot: LabSnapshot, stated: str) -> None:
        wanted = (self._get_param("ChecksumAlgorithm"), self._get_param("ChecksumAggregationMethod"))
        whole = hashlib.sha256(b"".join(snapshot.blocks[number].sha256 for number in sorted(snapshot.written)))
        if wanted != ("SHA256", "LINEAR") or stated != _base64(whole.digest()):
            raise Refused("ValidationException", "The aggregate checksum does not match the blocks.")

    def get_snapshot_block(self) -> ActionResult:
        """Give a block for the token that a list gave."""
        snapshot = self._complete(self._get_param("SnapshotId"))
        block = snapshot.blocks.get(int(self._get_param("BlockIndex")))
        if block is None:
            raise Refused("ResourceNotFoundException", "The snapshot has no such block.")
        if self._get_param("BlockToken") != block.token:
            raise Refused("ValidationException", "The block token is not valid.")
        return ActionResult(
            {
                "DataLength": BLOCK_BYTES,
                "BlockData": block.read(),
                "Checksum": _base64(block.sha256),
                "ChecksumAlgorithm": "SHA256",
            }
        )

    def list_snapshot_blocks(self) -> ActionResult:
        """Name the written blocks, ascending, page by page."""
        snapshot = self._complete(self._get_param("SnapshotId"))
        items = [{"BlockIndex": number, "BlockToken": block.token} for number, block in snapshot.blocks.items()]
        return self._page("Blocks", items, snapshot)

    def list_changed_blocks(self) -> ActionResult:
        """Name the blocks in which two snapshots differ, added and removed ones too."""
        first = self._get_param("FirstSnapshotId")
        old = self._complete(first).blocks if first is not None else {}
        snapshot = self._complete(self._get_param("SecondSnapshotId"))
        items = []
        for number in old.keys() | snapshot.blocks.keys():
            one, other = old.get(number), snapshot.blocks.get(number)
            if one is not None and other is not None and one.sha256 == other.sha256:
                continue
            item = {
                "BlockIndex": number,
                "FirstBlockToken": one and one.token,
                "SecondBlockToken": other and other.token,
            }
            items.append({name: value for name, value in item.items() if value is not None})
        return self._page("ChangedBlocks", items, snapshot)

    def _page(self, key: str, items: list[dict[str, Any]], snapshot: LabSnapshot) -> ActionResult:
        first = int(self._get_param("NextToken") or self._get_param("StartingBlockIndex") or 0)
        size = int(self._get_param("MaxResults") or _DEFAULT_PAGE)
        wanted = sorted((item for item in items if item["BlockIndex"] >= first), key=lambda item: item["BlockIndex"])
        result = {
            key: wanted[:size],
            "VolumeSize": snapshot.gib,
            "BlockSize": BLOCK_BYTES,
            "ExpiryTime": time.time() + _TOKEN_LIFE_S,
        }
        if len(wanted) > size:
            result["NextToken"] = str(wanted[size]["BlockIndex"])
        return ActionResult(result)

    def _complete(self, snapshot_id: str) -> LabSnapshot:
        snapshot = self.store.find(self._backend, snapshot_id)
        if snapshot.status != "completed":
            raise Refused("ValidationException", f"The snapshot '{snapshot.id}' is {snapshot.status}.")
        return snapshot

    def _pending(self) -> LabSnapshot:
        snapshot = self.store.find(self._backend, self._get_param("SnapshotId"))
        if snapshot.is_given_up:
            snapshot.status = "error"
            self._backend.ec2_backend.snapshots[snapshot.id].status = "error"
        if snapshot.status != "pending":
            raise Refused("ValidationException", f"The snapshot '{snapshot.id}' is {snapshot.status}, not pending.")
        return snapshot


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
