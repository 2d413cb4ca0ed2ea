"""AMIs in the lock: what each is made from, and what it became once it was baked and read out."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from bundler.domain.blob import Blob
from bundler.domain.blocks import BLOCK_BYTES, MAX_BLOCKS
from bundler.domain.digest import Digest
from bundler.domain.partition import refuse_other_partition
from bundler.domain.schema import (
    Account,
    AmiId,
    Architecture,
    Built,
    HexSha256,
    ImageReference,
    Line,
    Name,
    Partition,
    Region,
    Sha256,
)

DeviceName = Annotated[str, StringConstraints(pattern=r"^(/dev/)?[a-z0-9]{1,30}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,4}(\.[0-9]{1,6}){1,3}$")]
"""What EC2 calls an architecture, by our word."""


class AmiSource(Built):
    """An AMI as it was found: pinned by id.

    Attributes:
        parameter: SSM parameter that named it, empty where a person did.
        release: of the EKS-optimized AMI, such as 1.36.0-20261101; empty where nobody says.
    """

    id: AmiId
    owner: Account
    region: Region
    name: str = Field(max_length=200)
    parameter: str = Field(default="", max_length=500)
    release: str = Field(default="", max_length=100)


class Floors(Built):
    """The oldest containerd and runc that an AMI may have; None asks for nothing."""

    containerd: Version | None = None
    runc: Version | None = None


class LockedAmi(Built):
    """An AMI of the bundle, before anything was baked.

    Attributes:
        kind: `bake` our thin bake on an EKS-optimized AMI; `template` the same on what a team's own template makes;
            `id` an AMI as it is; `bottlerocket` as it is, too.
        source: what is baked on or carried; None for a team's template, which makes it.
        template: digest of the team's template folder and its variables.
        preload: images of the bundle that it holds.
        certificates: digest of PEM certificates that its nodes trust.
        registry_hosts: digest of the folder of containerd's hosts.toml files.
        volume_size: GiB of the root volume of what is baked; None where the source says it.
    """

    name: Name
    architecture: Architecture
    kind: Literal["bake", "template", "id", "bottlerocket"]
    source: AmiSource | None = None
    template: Sha256 | None = None
    preload: tuple[ImageReference, ...] = ()
    certificates: Sha256 | None = None
    registry_hosts: Sha256 | None = None
    floors: Floors = Floors()
    volume_size: int | None = Field(default=None, ge=1, le=65536)

    @property
    def is_baked(self) -> bool:
        """Whether Packer has a part in it."""
        return self.kind in ("bake", "template")


class AmiDevice(Built):
    """One EBS device of an AMI's block device mapping; `size` in GiB."""

    device: DeviceName
    size: int = Field(ge=1, le=65536)
    volume_type: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{2,10}$")] = "gp3"
    iops: int | None = Field(default=None, ge=100, le=256_000)
    throughput: int | None = Field(default=None, ge=125, le=2000)


class AmiAttributes(Built):
    """What RegisterImage is told, but for the snapshots (EC2 API reference, RegisterImage)."""

    root_device: DeviceName
    devices: tuple[AmiDevice, ...] = Field(min_length=1, max_length=26)
    virtualization: Literal["hvm"] = "hvm"
    ena_support: bool = True
    boot_mode: Literal["legacy-bios", "uefi", "uefi-preferred"] | None = None
    sriov_net_support: Literal["simple"] | None = None
    imds_support: Literal["v2.0"] | None = None
    tpm_support: Literal["v2.0"] | None = None
    uefi_data: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/=]+$", max_length=65536)] | None = None

    @model_validator(mode="after")
    def _devices(self) -> Self:
        names = [one.device for one in self.devices]
        if names != sorted(set(names)):
            raise ValueError("devices: each device once, by name")
        if self.root_device not in names:
            raise ValueError("rootDevice: is none of the devices")
        return self


class Preloaded(Built):
    """An image in the AMI's containerd, namespace k8s.io."""

    name: Line
    digest: Sha256
    pinned: bool


class NodeFacts(Built):
    """What runs on the AMI, as it said of itself at the end of the bake.

    Attributes:
        os: PRETTY_NAME of /etc/os-release.
        sandbox_image: the image that containerd starts pods with.
        images: everything in containerd's namespace k8s.io.
    """

    os: Line
    architecture: Architecture
    kernel: Line
    containerd: Version
    runc: Version
    kubelet: Version
    nodeadm: Line
    kubelet_sha256: HexSha256
    credential_provider_sha256: HexSha256
    sandbox_image: Line
    images: tuple[Preloaded, ...] = ()


class AmiBase(Built):
    """What a site must hold already where an AMI is carried as a delta.

    Attributes:
        bundle: name and sequence of the bundle that brings it.
        root: digest of that bundle's root.
        index: the base's block index, which is not carried: its digest is what the site's snapshots are tagged with.
        difference: what the base holds wherever the AMI holds something else (domain/delta.py).
    """

    bundle: Line
    root: Sha256
    index: Blob
    difference: Blob


class BakedAmi(Built):
    """What became of a LockedAmi: the content of its volumes, and what must be said to register it again.

    Attributes:
        inputs: digest of everything that the bake depended on.
        ami: its id in the account and Region where it was built.
        facts: None where nothing ran on it: an AMI that is carried as it is.
        index: the block index (domain/blocks.py): what the volumes hold.
        blocks: written blocks of all devices; those of zeros do not count.
        table: the pack table (domain/packs.py): where it stands in the packs.
        base: None where every block is carried.
        packed_with: version of the zstandard that made the packs, for the day when they are lost.
    """

    name: Name
    architecture: Architecture
    inputs: Sha256
    ami: AmiId
    account: Account
    region: Region
    partition: Partition
    attributes: AmiAttributes
    facts: NodeFacts | None = None
    index: Blob
    blocks: int = Field(ge=0, le=MAX_BLOCKS, strict=True)
    table: Blob
    packs: tuple[Blob, ...] = ()
    base: AmiBase | None = None
    packed_with: Line | None = None

    @property
    def written_bytes(self) -> int:
        """What the volumes hold, unpacked."""
        return self.blocks * BLOCK_BYTES

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """All that the archive carries of it."""
        difference = () if self.base is None else (self.base.difference,)
        return (self.index, *difference, self.table, *self.packs)

    @property
    def base_index(self) -> Digest | None:
        """What the site's snapshots must be tagged with; None where every block is carried."""
        return None if self.base is None else self.base.index.digest


class Target(Built):
    """A site that the bundle is meant for: its private references are what preloads are tagged with."""

    partition: Partition = "aws"
    account: Account
    region: Region
    prefix: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+([._/-][a-z0-9]+)*$", max_length=100)]

    @model_validator(mode="after")
    def _one_partition(self) -> Self:
        refuse_other_partition(self.region, self.partition)
        return self
