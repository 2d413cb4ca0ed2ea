"""AMIs as EC2 describes them, and what must be said to register one again (EC2 API reference, Image, RegisterImage)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bundler.domain.ami import AmiAttributes, AmiDevice
from bundler.domain.schema import Architecture
from bundler.domain.snapshot import DeviceSnapshot
from bundler.errors import PolicyError

_HINT = "Name another AMI, or bake one."


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundDevice:
    """One EBS device of an AMI; `gib` is the size of its volume."""

    device: str
    snapshot: str
    gib: int
    volume_type: str = "gp3"
    iops: int | None = None
    throughput: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundImage:
    """An AMI.

    Attributes:
        alias: `amazon` where AWS itself owns it.
        state: pending, available, failed …
        architecture: amd64 or arm64; EC2's word where it is another.
        devices: the EBS devices that begin with a snapshot.
        created: ISO 8601, as EC2 writes it.
    """

    id: str
    name: str
    owner: str
    state: str
    architecture: str
    alias: str = ""
    description: str = ""
    is_public: bool = False
    product_codes: tuple[str, ...] = ()
    root_type: str = "ebs"
    root_device: str = "/dev/xvda"
    devices: tuple[FoundDevice, ...] = ()
    virtualization: str = "hvm"
    ena_support: bool = True
    boot_mode: str | None = None
    sriov_net_support: str | None = None
    imds_support: str | None = None
    tpm_support: str | None = None
    created: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """Its name for messages."""
        return f"AMI {self.id} ({self.name})"

    @property
    def snapshots(self) -> tuple[DeviceSnapshot, ...]:
        """The snapshot behind each device, by the names of the devices."""
        ordered = sorted(self.devices, key=lambda device: device.device)
        return tuple(DeviceSnapshot(device=one.device, snapshot=one.snapshot) for one in ordered)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewImage:
    """An AMI to be registered.

    Attributes:
        snapshots: device -> id.
        tags: of the AMI.
    """

    name: str
    description: str
    architecture: Architecture
    attributes: AmiAttributes
    snapshots: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCopy:
    """A copy of an AMI of another owner or Region, to be made in this account and Region.

    Attributes:
        source: id of the AMI.
        region: where that is.
        token: the same token gives the same copy again (CopyImage, ClientToken).
        tags: of the AMI and its snapshots.
        kms_key: encrypts the copy; None leaves it as the source is, or as the account's default says.
    """

    source: str
    region: str
    name: str
    token: str
    tags: Mapping[str, str]
    kms_key: str | None = None


def require_portable(image: FoundImage) -> None:
    """Do nothing where the AMI may and can be carried as blocks.

    Raises:
        PolicyError: it is sold on the Marketplace, or its root is none that EBS direct reads.
    """
    if image.product_codes:
        codes = ", ".join(image.product_codes)
        raise PolicyError(image.subject, f"has product codes ({codes}): what is sold is not copied", hint=_HINT)
    if image.root_type != "ebs":
        raise PolicyError(image.subject, f"has a root device of type {image.root_type}, not on EBS", hint=_HINT)
    if image.virtualization != "hvm":
        raise PolicyError(image.subject, f"has {image.virtualization} virtualization: only hvm is carried", hint=_HINT)
    if image.root_device not in {device.device for device in image.devices}:
        raise PolicyError(image.subject, f"has no snapshot behind its root device {image.root_device}", hint=_HINT)


def attributes_of(image: FoundImage, *, uefi_data: str | None) -> AmiAttributes:
    """Return what RegisterImage must be told to make the same AMI.

    Raises:
        ValueError: EC2 says something of it that this tool does not know.
    """
    return AmiAttributes.model_validate(
        {
            "root_device": image.root_device,
            "devices": [
                AmiDevice(
                    device=one.device,
                    size=one.gib,
                    volume_type=one.volume_type,
                    iops=one.iops,
                    throughput=one.throughput,
                )
                for one in sorted(image.devices, key=lambda device: device.device)
            ],
            "virtualization": image.virtualization,
            "ena_support": image.ena_support,
            "boot_mode": image.boot_mode,
            "sriov_net_support": image.sriov_net_support,
            "imds_support": image.imds_support,
            "tpm_support": image.tpm_support,
            "uefi_data": uefi_data,
        }
    )
