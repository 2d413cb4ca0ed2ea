"""moto's instances corrected: they have the volumes of their AMI, and where the lab has machines, they are processes.

That is an instance which RunInstances starts with a key pair, of an AMI whose root volume holds an ext4 file system.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

from moto.core.responses import ActionResult

from bundler.errors import BundleError
from bundler.lab.machines import Machine, host_name, public_key
from bundler.lab.moto_images import DeviceMapping, LabAmi
from bundler.lab.moto_patch import Refused
from bundler.lab.moto_snapshots import SnapshotCopies

_EXT4 = slice(1024 + 56, 1024 + 58)
_EXT4_MAGIC = b"\x53\xef"
_ARCHITECTURE = "x86_64"


class InstanceResponses(SnapshotCopies):
    """Instances."""

    def run_instances(self) -> ActionResult:
        """Start instances; machines are up when this returns."""
        self.error_on_dryrun()
        self._check_launch()
        answer: ActionResult = super().run_instances()
        reservation: Any = answer.result
        for instance in reservation.instances:
            with _told():
                self._boot(instance)
        return answer

    def _check_launch(self) -> None:
        image, key = self._get_param("ImageId"), self._get_param("KeyName")
        if image is not None and image not in self.ec2_backend.amis:
            raise Refused("InvalidAMIID.NotFound", f"The image id '[{image}]' does not exist")
        if image is not None and self.ec2_backend.amis[image].state != "available":
            raise Refused("InvalidAMIID.Unavailable", f"The image ID '{image}' is not available")
        if key is not None and key not in self.ec2_backend.key_pairs:
            raise Refused("InvalidKeyPair.NotFound", f"The key pair '{key}' does not exist")

    def _parse_block_device_mapping(self) -> list[DeviceMapping]:
        """Return the devices of the AMI with what the request says of them, then those of the request alone."""
        image = self.ec2_backend.amis.get(self._get_param("ImageId"))
        asked = {mapping["DeviceName"]: mapping for mapping in self._get_param("BlockDeviceMappings", [])}
        given = {mapping["DeviceName"]: mapping for mapping in getattr(image, "block_device_mappings", ())}
        if not isinstance(image, LabAmi):
            found: list[DeviceMapping] = super()._parse_block_device_mapping()
            return found
        return [self._merged(name, given.get(name, {}), asked.get(name, {})) for name in {**given, **asked}]

    def _merged(self, device: str, given: DeviceMapping, asked: DeviceMapping) -> DeviceMapping:
        ebs = {**given.get("Ebs", {}), **asked.get("Ebs", {})}
        snapshot = self._need_snapshot(ebs.get("SnapshotId"))
        if snapshot is not None and int(ebs.get("VolumeSize", 0)) < snapshot.volume.size:
            message = f"Volume of size {ebs.get('VolumeSize')}GB is smaller than snapshot '{snapshot.id}'"
            raise Refused("InvalidBlockDeviceMapping", f"{message}, expect size >= {snapshot.volume.size}GB")
        if ebs.get("KmsKeyId"):
            ebs["Encrypted"] = True
        return {"DeviceName": device, "Ebs": ebs, "NoDevice": asked.get("NoDevice")}

    def _boot(self, instance: Any) -> None:
        """Make a machine of an instance, where it is one."""
        machines, key = self.machines, self.ec2_backend.key_pairs.get(instance.key_name)
        root = instance.block_device_mapping.get(instance.root_device_name)
        if machines is None or key is None or root is None:
            return
        volume = self.ec2_backend.get_volume(root.volume_id)
        blocks = iter(self._volume_blocks(None, None, volume))
        first = next(blocks, (1, b""))
        if first[0] != 0 or first[1][_EXT4] != _EXT4_MAGIC:
            return
        if instance.architecture != _ARCHITECTURE:
            raise Refused("Unsupported", f"The lab runs instances of {_ARCHITECTURE} only.")
        self._give_address(instance)
        machines.create(instance.id, chain((first,), blocks), gib=volume.size)
        if volume.size > self.ec2_backend.get_snapshot(volume.snapshot_id).volume.size:
            machines.grow(instance.id, volume.size)
        address = instance.private_ip
        key_line = public_key(key.public_key)
        machines.start(
            Machine(id=instance.id, address=address, host_name=host_name(address, self.region), key=key_line)
        )

    def _give_address(self, instance: Any) -> None:
        """Put an instance whose subnet has no addresses of this host on one that has."""
        if self.network is None or instance.private_ip.startswith("127."):
            return
        others = [other for one in self.ec2_backend.reservations.values() for other in one.instances]
        used = {other.private_ip for other in others if other.state != "terminated"}
        free = (address for address in self.network.strays if address not in used)
        for address in islice(free, 1):
            nic = instance.nics[0]
            nic.private_ip_address = address
            nic.private_ip_addresses = [{"Primary": True, "PrivateIpAddress": address}]

    def stop_instances(self) -> ActionResult:
        """Stop instances; of machines, every process has ended and the disk is complete when this returns."""
        self.error_on_dryrun()
        for name in self._named():
            if self.machines is not None:
                with _told():
                    self.machines.stop(name)
        answer: ActionResult = super().stop_instances()
        return answer

    def start_instances(self) -> ActionResult:
        """Start stopped instances."""
        self.error_on_dryrun()
        for name in self._named():
            if self.machines is not None:
                with _told():
                    self.machines.restart(name)
        answer: ActionResult = super().start_instances()
        return answer

    def terminate_instances(self) -> ActionResult:
        """End instances; the disks of machines are gone."""
        self.error_on_dryrun()
        for name in self._named():
            if self.machines is not None:
                self.machines.remove(name)
        answer: ActionResult = super().terminate_instances()
        return answer

    def get_instance_uefi_data(self) -> ActionResult:
        """Tell the variables that the image came with; nothing in the lab changes them."""
        instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
        data = getattr(self.ec2_backend.amis.get(instance.image_id), "uefi_data", None)
        return ActionResult({"InstanceId": instance.id, "UefiData": data or ""})

    def _named(self) -> list[str]:
        return [self.ec2_backend.get_instance(name).id for name in self._get_param("InstanceIds", [])]


@contextmanager
def _told() -> Iterator[None]:
    """Say what went wrong with a machine in the answer; without it moto says nothing."""
    try:
        yield
    except BundleError as error:
        raise Refused("InternalError", f"the lab's machine: {error}") from error
