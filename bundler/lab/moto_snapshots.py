"""moto's snapshots corrected: they have blocks and owners, copies have the blocks of their source."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from moto.core.responses import ActionResult, EmptyResult
from moto.ebs.models import ebs_backends
from moto.ec2.responses import EC2Response

from bundler.lab.moto_ebs import SnapshotStore, default_key
from bundler.lab.moto_patch import Refused

if TYPE_CHECKING:
    from bundler.lab.machines import Machines, Network

Blocks = Iterable[tuple[int, bytes]]
AWS_MANAGED = "alias/aws/ebs"


def account_key(backend: Any) -> tuple[str, str]:
    """Return account and Region of a backend."""
    return backend.account_id, backend.region_name


class SnapshotCopies(EC2Response):
    """What images and snapshots both need.

    Attributes:
        store: the blocks of all snapshots.
        machines: the instances that are processes; None where there are none.
        network: where those instances have their addresses.
        started: what client tokens have started.
    """

    store: SnapshotStore
    machines: Machines | None
    network: Network | None
    started: dict[tuple[str, ...], str]

    def _home(self, region: str) -> Any:
        from moto.ec2.models import ec2_backends

        return ec2_backends[self.current_account][region]

    def _ebs(self, backend: Any) -> Any:
        return ebs_backends[backend.account_id][backend.region_name]

    def _new_snapshot(self, volume: Any, about: str, blocks: Blocks) -> Any:
        made = self.ec2_backend.create_snapshot(volume.id, about)
        made.kms_key_id = volume.kms_key_id
        self.store.adopt(self._ebs(self.ec2_backend), made.id, volume.size, blocks)
        return made

    def _volume_blocks(self, instance: Any | None, device: str | None, volume: Any) -> Blocks:
        """Return what is on a volume: the disk of a machine, else what it was made of."""
        if instance is not None and self._has_disk(instance, device) and self.machines is not None:
            return self.machines.blocks(instance.id)
        if volume.snapshot_id is None:
            return ()
        ebs = self._ebs(self.ec2_backend)
        return self.store.read(ebs, volume.snapshot_id) if self.store.has(ebs, volume.snapshot_id) else ()

    def _has_disk(self, instance: Any, device: str | None) -> bool:
        return device == instance.root_device_name and self.machines is not None and self.machines.has(instance.id)

    @contextmanager
    def _held_still(self, instance: Any) -> Iterator[None]:
        """Hold a machine still; where it runs it is restarted, as AWS does it for CreateImage."""
        running = self.machines is not None and self.machines.stop(instance.id)
        try:
            yield
        finally:
            if running and self.machines is not None:
                self.machines.restart(instance.id)

    def _copied_snapshot(self, home: Any, name: str, about: str, *, encrypted: bool, key: str | None) -> Any:
        source = self._need_snapshot(name, home)
        here = self.ec2_backend
        volume = here.create_volume(size=source.volume.size, zone_name=f"{here.region_name}a")
        made = here.create_snapshot(volume.id, about)
        here.delete_volume(volume.id)
        made.encrypted = bool(encrypted or key or source.encrypted or here.get_ebs_encryption_by_default())
        made.kms_key_id = self._key(key or source.kms_key_id) if made.encrypted else None
        self.store.copy((self._ebs(home), name), (self._ebs(here), made.id), gib=source.volume.size)
        return made

    def _key(self, key: str | None) -> str:
        """Return the ARN of a key; of the account's default where none is named."""
        if key is None:
            return self._default_key()
        if ":key/" in key:
            return key
        from moto.kms.models import kms_backends

        return str(kms_backends[self.current_account][self.region].describe_key(key).arn)

    def _default_key(self) -> str:
        return default_key(self.ec2_backend)

    def _need_snapshot(self, name: str | None, backend: Any | None = None) -> Any:
        if name is None:
            return None
        found = (backend or self.ec2_backend).snapshots.get(name)
        if found is None:
            raise Refused("InvalidSnapshot.NotFound", f"The snapshot '{name}' does not exist.")
        if found.status != "completed":
            raise Refused("IncorrectState", f"The snapshot '{name}' is {found.status}.")
        return found


class SnapshotResponses(SnapshotCopies):
    """Snapshots."""

    def create_snapshot(self) -> ActionResult:
        """Keep what is on the volume."""
        self.error_on_dryrun()
        volume = self.ec2_backend.get_volume(self._get_param("VolumeId"))
        instance = volume.attachment.instance if volume.attachment else None
        device = volume.attachment.device if volume.attachment else None
        os.sync()  # what a running machine has written is on its disk then
        blocks = self._volume_blocks(instance, device, volume)
        made = self._new_snapshot(volume, self._get_param("Description") or "", blocks)
        made.add_tags(self._parse_tag_specification().get("snapshot", {}))
        return ActionResult(made)

    def copy_snapshot(self) -> ActionResult:
        """Copy all blocks; the copy is this account's, encrypted where that is asked for or set for the Region."""
        self.error_on_dryrun()
        made = self._copied_snapshot(
            self._home(self._get_param("SourceRegion")),
            self._get_param("SourceSnapshotId"),
            self._get_param("Description") or "",
            encrypted=self._get_bool_param("Encrypted", False),
            key=self._get_param("KmsKeyId"),
        )
        made.add_tags(self._parse_tag_specification().get("snapshot", {}))
        return ActionResult({"SnapshotId": made.id, "Tags": made.tag_set})

    def describe_snapshots(self) -> ActionResult:
        """Name the snapshots that this account may see, of the owners that are asked for."""
        account, names = self.current_account, self._get_param("SnapshotIds", [])
        for name in names:
            if name not in self.ec2_backend.snapshots:
                raise Refused("InvalidSnapshot.NotFound", f"The snapshot '{name}' does not exist.")
        owners = {account if owner == "self" else owner for owner in self._get_param("OwnerIds", [])}
        users = {account if user == "self" else user for user in self._get_param("RestorableByUserIds", [])}
        found = self.ec2_backend.describe_snapshots(snapshot_ids=names, filters=self._filters_from_querystring())
        kept = [one for one in found if not owners or {one.owner_id, _alias(one)} & owners]
        return ActionResult({"Snapshots": [one for one in kept if not users or _is_open(one, users)]})

    def modify_snapshot_attribute(self) -> EmptyResult:
        """Change who may use a snapshot, in both forms that the API has."""
        self.error_on_dryrun()
        name, asked = self._get_param("SnapshotId"), self._get_param("CreateVolumePermission", {})
        self._own_snapshot(name)
        changes = {verb: list(asked.get(verb.capitalize(), [])) for verb in ("add", "remove")}
        listed = [{"UserId": user} for user in self._get_param("UserIds", [])]
        listed += [{"Group": group} for group in self._get_param("GroupNames", [])]
        verb = self._get_param("OperationType")
        if verb is not None:
            changes[verb] += listed
        elif listed and not asked:  # Packer gives both forms and no OperationType
            raise Refused("MissingParameter", "The request must contain the parameter operationType")
        change = {
            "add": self.ec2_backend.add_create_volume_permission,
            "remove": self.ec2_backend.remove_create_volume_permission,
        }
        for verb, items in changes.items():
            users, groups = ([item[kind] for item in items if kind in item] for kind in ("UserId", "Group"))
            if items:
                change[verb](name, user_ids=users, groups=groups)
        return EmptyResult()

    def delete_snapshot(self) -> EmptyResult:
        """Refuse to delete what an image is made of, and what is somebody else's."""
        self.error_on_dryrun()
        name = self._get_param("SnapshotId")
        self._own_snapshot(name)
        for image in self.ec2_backend.amis.values():
            used = [mapping.get("Ebs", {}).get("SnapshotId") for mapping in image.block_device_mappings]
            if name in used:
                message = f"The snapshot {name} is currently in use by {image.id}"
                raise Refused("InvalidSnapshot.InUse", message)
        self.ec2_backend.delete_snapshot(name)
        return EmptyResult()

    def get_ebs_default_kms_key_id(self) -> ActionResult:
        """Tell the key of volumes for which none is named: AWS's own, unless another was set."""
        return ActionResult({"KmsKeyId": self.ec2_backend.default_kms_key_id or AWS_MANAGED})

    def _own_snapshot(self, name: str) -> None:
        if self._need_snapshot_any_state(name).owner_id != self.current_account:
            raise Refused("AuthFailure", f"Not authorized for snapshot:{name}")

    def _need_snapshot_any_state(self, name: str) -> Any:
        found = self.ec2_backend.snapshots.get(name)
        if found is None:
            raise Refused("InvalidSnapshot.NotFound", f"The snapshot '{name}' does not exist.")
        return found


def _alias(snapshot: Any) -> str | None:
    return getattr(snapshot, "owner_alias", None)


def _is_open(snapshot: Any, users: set[str]) -> bool:
    open_to = snapshot.create_volume_permission_userids | {snapshot.owner_id}
    return bool(open_to & users) or ("all" in users and "all" in snapshot.create_volume_permission_groups)
