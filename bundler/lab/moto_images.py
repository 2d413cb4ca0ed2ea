"""moto's AMIs corrected: an AMI is what was registered, made of an instance's disk, or copied; and it has an owner.

Facts: EC2 API reference (RegisterImage, CreateImage, CopyImage, DescribeImages, DescribeImageAttribute,
ModifyImageAttribute, DeregisterImage). An image is available at once, unless the settings have it pending for a time.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping
from typing import Any

from moto.core.responses import ActionResult, EmptyResult
from moto.ec2.models.amis import Ami
from moto.ec2.responses import EC2Response
from moto.ec2.utils import random_ami_id

from bundler.lab.moto_patch import Refused
from bundler.lab.moto_snapshots import SnapshotCopies, account_key
from bundler.lab.settings import ImageSettings

DeviceMapping = dict[str, Any]
"""A block device mapping as the API has it."""
_TRAITS = (
    "Description", "Architecture", "VirtualizationType", "RootDeviceName", "BootMode", "EnaSupport", "ImdsSupport",
    "TpmSupport", "SriovNetSupport", "UefiData",
)  # fmt: skip
_VALUES = {
    "description": ("Description", "description"),
    "bootMode": ("BootMode", "boot_mode"),
    "imdsSupport": ("ImdsSupport", "imds_support"),
    "kernel": ("KernelId", "kernel_id"),
    "ramdisk": ("RamdiskId", "ramdisk"),
    "sriovNetSupport": ("SriovNetSupport", "sriov_net_support"),
    "tpmSupport": ("TpmSupport", "tpm_support"),
    "uefiData": ("UefiData", "uefi_data"),
    "lastLaunchedTime": ("LastLaunchedTime", "last_launched_time"),
}
"""Attributes that are one value: member of the answer, and where an image has it."""


class LabAmi(Ami):
    """An AMI with everything that RegisterImage was told, or that it has from its source."""

    def __init__(self, backend: Any, name: str, asked: Mapping[str, Any], *, owner: str | None = None) -> None:
        super().__init__(
            backend, random_ami_id(), name=name, description=asked.get("Description"), owner_id=owner,
            architecture=asked.get("Architecture", "i386"), virtualization_type=asked.get("VirtualizationType", "hvm"),
            root_device_name=asked.get("RootDeviceName", "/dev/sda1"), root_device_type="ebs",
            region_name=f"{backend.region_name}a",
        )  # fmt: skip
        backend.snapshots.pop(self.ebs_snapshot.id)  # moto makes an empty one for every image
        self.asked = {name: asked[name] for name in _TRAITS if asked.get(name) is not None}
        self.mappings: list[DeviceMapping] = copy.deepcopy(asked.get("BlockDeviceMappings", []))
        boot_mode: Any = asked.get("BootMode")
        self.boot_mode = boot_mode
        self.ena_support = bool(asked.get("EnaSupport", False))
        self.imds_support = asked.get("ImdsSupport")
        self.tpm_support = asked.get("TpmSupport")
        self.sriov_net_support = asked.get("SriovNetSupport")
        self.uefi_data = asked.get("UefiData")
        self.ramdisk = None
        self.last_launched_time = None
        self.platform_details = "Linux/UNIX"
        self.hypervisor = "xen"
        self.image_location = f"{self.owner_id}/{name}"
        self.image_owner_alias: str | None = None
        self.source_image_id: str | None = None
        self.source_image_region: str | None = None
        self.ready_at = 0.0

    @property
    def state(self) -> str:
        """Pending for as long as the settings had it when it was made."""
        return "pending" if time.monotonic() < self.ready_at else self._state

    @state.setter
    def state(self, value: str) -> None:
        self.ready_at, self._state = 0.0, value

    @property
    def block_device_mappings(self) -> list[DeviceMapping]:
        """The mappings as registered, with what AWS fills in from the snapshot."""
        return [self._filled(mapping) for mapping in self.mappings]

    @property
    def public(self) -> bool:
        """Whether everybody may launch it."""
        return bool(self.is_public)

    def get_filter_value(self, filter_name: str, method_name: str | None = None) -> Any:
        """Know the filters that moto does not."""
        known = {
            "root-device-name": self.root_device_name,
            "root-device-type": self.root_device_type,
            "ena-support": str(self.ena_support).lower(),
            "is-public": str(self.is_public).lower(),
            "description": self.description,
            "hypervisor": self.hypervisor,
            "image-type": self.image_type,
            "source-image-id": self.source_image_id,
            "block-device-mapping.snapshot-id": [one.get("Ebs", {}).get("SnapshotId") for one in self.mappings],
        }
        return known[filter_name] if filter_name in known else super().get_filter_value(filter_name, method_name)

    def _filled(self, mapping: DeviceMapping) -> DeviceMapping:
        if "Ebs" not in mapping:
            return mapping
        ebs = mapping["Ebs"]
        snapshot = self.ec2_backend.snapshots.get(ebs.get("SnapshotId"))
        defaults = {"DeleteOnTermination": True, "VolumeType": "gp2", "Encrypted": False}
        if snapshot is not None:
            defaults.update(VolumeSize=snapshot.volume.size, Encrypted=snapshot.encrypted)
        return {**mapping, "Ebs": {**defaults, **ebs}}


class ImageResponses(SnapshotCopies, EC2Response):
    """Images.

    Attributes:
        settings: what tests may change.
    """

    settings: ImageSettings

    def register_image(self) -> ActionResult:
        """Keep block devices, root device, architecture and the rest; a name is taken once."""
        self.error_on_dryrun()
        name = self._free_name()
        mappings = self._get_param("BlockDeviceMappings", [])
        for mapping in mappings:
            self._need_snapshot(mapping.get("Ebs", {}).get("SnapshotId"))
        return self._keep(LabAmi(self.ec2_backend, name, self.params))

    def create_image(self) -> ActionResult:
        """Make an image of an instance: its devices as they are now, the rest as its own image has it."""
        self.error_on_dryrun()
        name = self._free_name()
        instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
        source = self.ec2_backend.amis.get(instance.image_id)
        inherited = source.asked if isinstance(source, LabAmi) else {"RootDeviceName": instance.root_device_name}
        about = f"Created by CreateImage({instance.id}) for {name}"
        with self._held_still(instance):
            mappings = [self._saved(instance, device, block, about) for device, block in _devices(instance)]
        own = {"Description": self._get_param("Description"), "BlockDeviceMappings": mappings}
        image = LabAmi(self.ec2_backend, name, {**inherited, **own})
        image.instance_id = instance.id
        return self._keep(image)

    def _saved(self, instance: Any, device: str, block: Any, about: str) -> DeviceMapping:
        volume = self.ec2_backend.get_volume(block.volume_id)
        snapshot = self._new_snapshot(volume, about, self._volume_blocks(instance, device, volume))
        ebs = {"SnapshotId": snapshot.id, "VolumeType": volume.volume_type, "DeleteOnTermination": True}
        return {"DeviceName": device, "Ebs": ebs}

    def copy_image(self) -> ActionResult:
        """Copy an image with its snapshots into this account and Region; the same client token copies once."""
        self.error_on_dryrun()
        token = self._get_param("ClientToken")
        before = self.started.get((*account_key(self.ec2_backend), "CopyImage", token)) if token else None
        if before is not None:
            return ActionResult({"ImageId": before})
        home = self._home(self._get_param("SourceRegion"))
        source = _image(home, self._get_param("SourceImageId"))
        name = self._free_name()
        about = f"Copied for DestinationAmi from SourceAmi {source.id}"
        mappings = [self._copied_mapping(home, mapping, about) for mapping in copy.deepcopy(source.mappings)]
        own = {"Description": self._get_param("Description") or source.description, "BlockDeviceMappings": mappings}
        image = LabAmi(self.ec2_backend, name, {**source.asked, **own})
        image.source_image_id, image.source_image_region = source.id, home.region_name
        if self._get_bool_param("CopyImageTags", False):
            image.add_tags({tag["key"]: tag["value"] for tag in source.get_tags() if not tag["key"].startswith("aws:")})
        if token:
            self.started[*account_key(self.ec2_backend), "CopyImage", token] = image.id
        return self._keep(image)

    def _copied_mapping(self, home: Any, mapping: DeviceMapping, about: str) -> DeviceMapping:
        snapshot = mapping.get("Ebs", {}).get("SnapshotId")
        if snapshot is None:
            return mapping
        wanted = self._get_bool_param("Encrypted", False), self._get_param("KmsKeyId")
        made = self._copied_snapshot(home, snapshot, about, encrypted=wanted[0], key=wanted[1])
        return {**mapping, "Ebs": {**mapping["Ebs"], "SnapshotId": made.id}}

    def describe_images(self) -> ActionResult:
        """Name the images that this account may see."""
        self.error_on_dryrun()
        wanted, account = self._get_param("ImageIds", []), self.current_account
        for image_id in wanted:
            if image_id not in self.ec2_backend.amis:
                raise Refused("InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist")
        owners = [account if owner == "self" else owner for owner in self._get_param("Owners", [])]
        found = self.ec2_backend.describe_images(
            filters=self._filters_from_querystring(), exec_users=self._get_param("ExecutableUsers", [])
        )
        images = [
            image for image in found
            if (not wanted or image.id in wanted) and (not owners or {image.owner_id, image.owner_alias} & {*owners})
        ]  # fmt: skip
        return ActionResult({"Images": images})

    def describe_image_attribute(self) -> ActionResult:
        """Tell one attribute of an image of this account."""
        attribute = self._get_param("Attribute")
        if attribute == "blockDeviceMapping":  # deprecated: AWS answers nobody any more
            raise Refused("AuthFailure", "Unauthorized attempt to access restricted resource")
        image = self._own_image()
        if attribute == "launchPermission":
            return ActionResult({"ImageId": image.id, "LaunchPermissions": image.launch_permissions})
        if attribute == "productCodes":
            return ActionResult({"ImageId": image.id, "ProductCodes": []})
        if attribute not in _VALUES:
            raise Refused("InvalidParameterValue", f"Value ({attribute}) for parameter attribute is invalid.")
        member, place = _VALUES[attribute]
        value = getattr(image, place)
        return ActionResult({"ImageId": image.id, member: {} if value is None else {"Value": value}})

    def modify_image_attribute(self) -> EmptyResult | ActionResult:
        """Change launch permissions in both forms, or the description, of an image of this account."""
        image = self._own_image()
        description = self._get_param("Description", {})
        if "Value" in description:
            image.description = image.asked["Description"] = description["Value"]
        answer: ActionResult = super().modify_image_attribute()
        return answer

    def deregister_image(self) -> ActionResult:
        """Forget an image of this account; its snapshots stay."""
        self.error_on_dryrun()
        self.ec2_backend.deregister_image(self._own_image().id)
        return ActionResult({"Return": True})

    def _keep(self, image: LabAmi) -> ActionResult:
        tags = self._parse_tag_specification()
        image.add_tags(tags.get("image", {}))
        for mapping in image.mappings if tags.get("snapshot") else ():
            self.ec2_backend.get_snapshot(mapping["Ebs"]["SnapshotId"]).add_tags(tags["snapshot"])
        image.ready_at = time.monotonic() + self.settings.image_pending_s
        self.ec2_backend.amis[image.id] = image
        return ActionResult({"ImageId": image.id})

    def _free_name(self) -> str:
        name, account = str(self._get_param("Name")), self.current_account
        images = self.ec2_backend.amis.values()
        taken = next((image for image in images if (image.name, image.owner_id) == (name, account)), None)
        if taken is not None:
            raise Refused("InvalidAMIName.Duplicate", f"AMI name {name} is already in use by AMI {taken.id}")
        return name

    def _own_image(self) -> LabAmi:
        image = _image(self.ec2_backend, self._get_param("ImageId"))
        if image.owner_id != self.current_account:
            raise Refused("AuthFailure", f"Not authorized for image:{image.id}")
        return image


def _image(backend: Any, image_id: str) -> LabAmi:
    found = backend.amis.get(image_id)
    if found is None:
        raise Refused("InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist")
    return found  # type: ignore[no-any-return]


def _devices(instance: Any) -> Iterable[tuple[str, Any]]:
    return list(instance.block_device_mapping.items())
