"""EBS snapshots as the stages see them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ListedBlock:
    """A written block of a snapshot and the token that reads it."""

    number: int
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotBlocks:
    """The written blocks of a snapshot, numbers ascending; `gib` is the size of its volume."""

    snapshot: str
    gib: int
    blocks: tuple[ListedBlock, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSnapshot:
    """One device of an AMI and the snapshot behind it."""

    device: str
    snapshot: str
