"""EBS snapshots as the stages see them."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import overload


@dataclass(frozen=True, slots=True)
class ListedBlock:
    """A written block of a snapshot and the token that reads it."""

    number: int
    token: str


class BlockList(Sequence[ListedBlock]):
    """Listed blocks, packed: a snapshot of 1 TiB lists two million of them, with tokens of up to 256 characters."""

    def __init__(self) -> None:
        self._numbers = array("I")
        self._tokens = bytearray()
        self._ends = array("Q")

    def add(self, block: ListedBlock) -> None:
        """Add a block at the end."""
        self._numbers.append(block.number)
        self._tokens += block.token.encode()
        self._ends.append(len(self._tokens))

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, place: int) -> ListedBlock: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[ListedBlock]: ...

    def __getitem__(self, place: int | slice) -> ListedBlock | Sequence[ListedBlock]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        begin = self._ends[place - 1] if place else 0
        return ListedBlock(self._numbers[place], self._tokens[begin : self._ends[place]].decode())


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotBlocks:
    """The written blocks of a snapshot, numbers ascending; `gib` is the size of its volume."""

    snapshot: str
    gib: int
    blocks: Sequence[ListedBlock]


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
        kms_key: ARN of the key that it is encrypted with; empty where it is not.
        description: EC2's own words where EC2 made it for an AMI.
    """

    id: str
    state: str
    tags: Mapping[str, str]
    owner: str = ""
    is_encrypted: bool = False
    kms_key: str = ""
    why: str = ""
    description: str = ""

    @property
    def is_made_for_an_ami(self) -> bool:
        """Whether CreateImage or CopyImage made it. An AMI may name others, too: data that somebody gave to it."""
        return self.description.startswith(("Created by CreateImage(", "Copied for DestinationAmi"))

    def bears(self, kms_key: str | None) -> bool:
        """Whether it is encrypted as a site asks; by which key an alias means, only KMS knows."""
        if kms_key is None:
            return True
        return self.kms_key == kms_key if ":key/" in kms_key else self.is_encrypted
