"""EBS snapshots as the stages see them."""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSnapshot:
    """A snapshot to be written block by block.

    Attributes:
        gib: size of its volume.
        token: the same token and values give the same snapshot again (StartSnapshot, ClientToken).
        parent: id of the snapshot whose blocks it begins with; its encryption is the parent's then.
        kms_key: ARN; without it, and without a parent, the account's default decides.
    """

    gib: int
    description: str
    tags: Mapping[str, str]
    token: str
    parent: str | None = None
    kms_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSnapshot:
    """A snapshot as EC2 describes it.

    Attributes:
        state: pending, completed or error; `why` says more of it where EC2 does.
        owner: 12 digits.
    """

    id: str
    state: str
    tags: Mapping[str, str]
    owner: str = ""
    is_encrypted: bool = False
    why: str = ""
