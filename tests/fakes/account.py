"""AMIs and snapshots of one account and Region in memory, with EBS direct; `writes` keeps every write."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bundler.domain.machine_image import FoundDevice, FoundImage, ImageCopy, NewImage
from bundler.domain.snapshot import BlockList, FoundSnapshot, ListedBlock, NewSnapshot, SnapshotBlocks
from bundler.errors import ConflictError, RejectedError

ACCOUNT = "111122223333"


class Clock:
    """Time that passes only while somebody waits; `at` says what happens meanwhile."""

    def __init__(self) -> None:
        self.now = 0.0
        self.at: dict[float, Callable[[], None]] = {}

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for when in sorted(self.at):
            if when <= self.now:
                self.at.pop(when)()


@dataclass
class Account:
    """Fits the ports of restore, register and read back: SiteImages, SnapshotWriter, SnapshotReader.

    Attributes:
        images: by id, those of other owners too.
        settles: state of a snapshot right after CompleteSnapshot; AWS says `pending` for a while.
        content: the blocks of each snapshot.
        hidden: ids that EC2 has given and does not show yet.
    """

    images: dict[str, FoundImage] = field(default_factory=dict)
    made: dict[str, FoundSnapshot] = field(default_factory=dict)
    content: dict[str, dict[int, bytes]] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    settles: str = "completed"
    hidden: set[str] = field(default_factory=set)
    registered_as: str = "available"
    gib: dict[str, int] = field(default_factory=dict)
    uefi: dict[str, str] = field(default_factory=dict)
    reading: list[int] = field(default_factory=list)
    _by_token: dict[str, tuple[object, str]] = field(default_factory=dict)
    _sealed: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def image(self, ami: str) -> FoundImage | None:
        return None if ami in self.hidden else self.images.get(ami)

    def own_named(self, name: str) -> FoundImage | None:
        return next((one for one in self._own() if one.name == name), None)

    def own_tagged(self, key: str, value: str) -> tuple[FoundImage, ...]:
        return tuple(sorted((one for one in self._own() if one.tags.get(key) == value), key=lambda one: one.id))

    def snapshots(self, ids: Sequence[str]) -> Mapping[str, FoundSnapshot]:
        return {name: self.made[name] for name in ids if name in self.made and name not in self.hidden}

    def own_snapshots_tagged(self, key: str, value: str) -> tuple[FoundSnapshot, ...]:
        return tuple(one for one in self.made.values() if one.tags.get(key) == value and one.id not in self.hidden)

    def register(self, image: NewImage) -> str:
        self.writes.append(f"register {image.name}")
        if any(one.name == image.name for one in self.images.values() if one.owner == ACCOUNT):
            raise rejected("InvalidAMIName.Duplicate", f"AMI name {image.name} is already in use")
        devices = tuple(
            FoundDevice(device=one.device, snapshot=image.snapshots[one.device], gib=one.size)
            for one in image.attributes.devices
        )
        return self.add(
            name=image.name,
            description=image.description,
            architecture=image.architecture,
            tags=image.tags,
            devices=devices,
            state=self.registered_as,
            root_device=image.attributes.root_device,
            ena_support=image.attributes.ena_support,
            boot_mode=image.attributes.boot_mode,
            imds_support=image.attributes.imds_support,
        )

    def copy(self, wanted: ImageCopy) -> str:
        self.writes.append(f"copy {wanted.source}")
        if wanted.token not in self._by_token:
            if self.own_named(wanted.name):
                raise rejected("InvalidAMIName.Duplicate", f"AMI name {wanted.name} is already in use")
            made = self.add(
                name=wanted.name, description=wanted.description, tags=wanted.tags, state=self.registered_as
            )
            self._by_token[wanted.token] = (wanted, made)
        asked, made = self._by_token[wanted.token]
        if asked != wanted:
            raise rejected("IdempotentParameterMismatch", "The client token was used with other parameters.")
        return made

    def tag(self, ids: Sequence[str], tags: Mapping[str, str]) -> None:
        for name in ids:
            self.writes.append(f"tag {name}")
            self.images[name] = replace(self.images[name], tags={**self.images[name].tags, **tags})

    def start(self, wanted: NewSnapshot) -> str:
        self.writes.append(f"start {wanted.description}")
        asked, name = self._by_token.get(wanted.token, (wanted, f"snap-{len(self._by_token):04}"))
        if asked != wanted:
            raise rejected("ConflictException", "The client token was used with other parameters.")
        if wanted.token not in self._by_token:
            self._by_token[wanted.token] = (wanted, name)
            key = wanted.kms_key or ""
            self.made[name] = FoundSnapshot(
                id=name, state="pending", tags=wanted.tags, is_encrypted=bool(key), kms_key=key
            )
            self.content[name] = {}
        return name

    def put(self, snapshot: str, number: int, content: bytes | memoryview, sha256: bytes) -> None:
        with self._lock:
            self._open(snapshot)
            self.writes.append(f"put {snapshot} {number}")
            assert hashlib.sha256(content).digest() == sha256
            self.content[snapshot][number] = bytes(content)

    def complete(self, snapshot: str, blocks: int, aggregate: bytes) -> None:
        self._open(snapshot)
        self.writes.append(f"complete {snapshot}")
        held = self.content[snapshot]
        whole = b"".join(hashlib.sha256(held[number]).digest() for number in sorted(held))
        if (blocks, aggregate) != (len(held), hashlib.sha256(whole).digest()):
            raise ConflictError(snapshot, "holds other blocks")
        self._sealed.add(snapshot)
        self.becomes(snapshot, self.settles)

    def blocks(self, snapshot: str) -> SnapshotBlocks:
        if snapshot not in self.made:
            raise ConflictError(f"snapshot {snapshot}", "does not exist in this account and Region")
        found = BlockList()
        for number in sorted(self.content[snapshot]):
            found.add(ListedBlock(number, f"token of {number}"))
        return SnapshotBlocks(snapshot=snapshot, gib=self.gib.get(snapshot, 1), blocks=found)

    def read(self, snapshot: str, block: ListedBlock, *, progress: Callable[[], int]) -> tuple[bytes, bytes]:
        assert block.token == f"token of {block.number}"
        assert progress() >= 0
        raw = self.content[snapshot][block.number]
        with self._lock:
            self.reading.append(block.number)
        return raw, hashlib.sha256(raw).digest()

    def uefi_data(self, ami: str) -> str | None:
        return self.uefi.get(ami)

    def add(self, **values: object) -> str:
        """Add an image; return its id."""
        name = f"ami-{len(self.images):08}"
        known = {"id": name, "name": name, "owner": ACCOUNT, "state": "available", "architecture": "amd64", **values}
        self.images[str(known["id"])] = FoundImage(**known)  # type: ignore[arg-type]
        return str(known["id"])

    def becomes(self, name: str, state: str, why: str = "") -> None:
        """Let an image or a snapshot have another state."""
        if name in self.images:
            self.images[name] = replace(self.images[name], state=state, why=why)
        else:
            self.made[name] = replace(self.made[name], state=state, why=why)

    def delete(self, *names: str) -> None:
        """Deregister images, delete snapshots; what a token has given stays known."""
        for name in names:
            self.images.pop(name, None)
            self.made.pop(name, None)

    def _own(self) -> list[FoundImage]:
        return [one for one in self.images.values() if one.owner == ACCOUNT and one.id not in self.hidden]

    def _open(self, snapshot: str) -> None:
        found = self.made.get(snapshot)
        if found is None:
            raise ConflictError(snapshot, "does not exist in this account and Region")
        if found.state != "pending" or snapshot in self._sealed:
            raise ConflictError(snapshot, "takes no blocks any more")


def rejected(code: str, message: str) -> RejectedError:
    error = RejectedError("EC2", message)
    error.code = code
    return error
