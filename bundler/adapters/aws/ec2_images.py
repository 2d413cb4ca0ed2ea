"""EC2: AMIs and snapshots, found, copied, registered, tagged and taken away."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from bundler.adapters.aws.clients import Answer, Service
from bundler.domain.machine_image import FoundDevice, FoundImage, ImageCopy, NewImage
from bundler.domain.node_template import tag_list
from bundler.domain.snapshot import FoundSnapshot
from bundler.errors import RejectedError
from bundler.retry import Patience

ARCHITECTURES = {"x86_64": "amd64", "arm64": "arm64"}
_NAMES = {ours: theirs for theirs, ours in ARCHITECTURES.items()}
_OPTIONAL = {
    "boot_mode": "BootMode",
    "sriov_net_support": "SriovNetSupport",
    "imds_support": "ImdsSupport",
    "tpm_support": "TpmSupport",
    "uefi_data": "UefiData",
}
_GONE = frozenset(("InvalidAMIID.Unavailable", "InvalidAMIID.NotFound", "InvalidSnapshot.NotFound"))
_IN_USE = "InvalidSnapshot.InUse"
_OWN: dict[str, object] = {"Owners": ["self"], "IncludeDisabled": True}  # whose names are taken all the same
_RELEASED_S = 60.0
"""For a moment EC2 holds a snapshot for an AMI that is deregistered."""


class Ec2Images:
    """AMIs of one account and Region, in our words."""

    def __init__(self, service: Service, patience: Patience = Patience()) -> None:
        self._service = service
        self._patience = patience

    def image(self, ami: str) -> FoundImage | None:
        """Return an AMI, None where this account does not see it."""
        found = self._images([{"Name": "image-id", "Values": [ami]}], about=ami, IncludeDeprecated=True)
        return next(iter(found), None)

    def own_named(self, name: str) -> FoundImage | None:
        """Return the account's own AMI of that name, None where there is none."""
        found = self._images([{"Name": "name", "Values": [name]}], about=name, **_OWN)
        return next(iter(found), None)

    def own_like(self, pattern: str) -> tuple[FoundImage, ...]:
        """Return the account's own AMIs of such names, `*` standing for anything, the oldest first."""
        found = self._images([{"Name": "name", "Values": [pattern]}], about=pattern, **_OWN)
        return tuple(sorted(found, key=lambda image: (image.created, image.id)))

    def own_tagged(self, key: str, value: str) -> tuple[FoundImage, ...]:
        """Return the account's own AMIs with that tag, the oldest first."""
        found = self._images([_tagged(key, value)], about=f"{key}={value}", Owners=["self"])
        return tuple(sorted(found, key=lambda image: (image.created, image.id)))

    def own_with_tag(self, key: str) -> tuple[FoundImage, ...]:
        """Return the account's own AMIs that have a tag, whatever its value, by id."""
        found = self._images([{"Name": "tag-key", "Values": [key]}], about=f"{key}=*", Owners=["self"])
        return tuple(sorted(found, key=lambda one: one.id))

    def uefi_data(self, ami: str) -> str | None:
        """Return the AMI's UEFI variables as EC2 encodes them, None where it has none."""
        return self._service.ask(
            "DescribeImageAttribute",
            lambda answer: str(answer["UefiData"]["Value"]) if answer.get("UefiData", {}).get("Value") else None,
            about=ami,
            ImageId=ami,
            Attribute="uefiData",
        )

    def launch_permissions(self, ami: str) -> tuple[str, ...]:
        """Return who else may launch an AMI: accounts, `all`, organizations; nobody where it is gone."""
        try:
            return self._service.ask(
                "DescribeImageAttribute",
                lambda answer: tuple(str(who) for one in answer.get("LaunchPermissions", []) for who in one.values()),
                about=ami,
                ImageId=ami,
                Attribute="launchPermission",
            )
        except RejectedError as error:
            if error.code not in _GONE:
                raise
            return ()

    def copy(self, wanted: ImageCopy) -> str:
        """Copy an AMI into this account and Region; return the new id.

        Raises:
            AccessError: it, or one of its snapshots, is not shared with this account.
        """
        more: dict[str, object] = {} if wanted.kms_key is None else {"Encrypted": True, "KmsKeyId": wanted.kms_key}
        if wanted.description:
            more["Description"] = wanted.description
        kinds = [{"ResourceType": kind, "Tags": tag_list(wanted.tags)} for kind in ("image", "snapshot")]
        return self._service.ask(
            "CopyImage",
            lambda answer: str(answer["ImageId"]),
            about=wanted.source,
            SourceImageId=wanted.source,
            SourceRegion=wanted.region,
            Name=wanted.name,
            ClientToken=wanted.token,
            TagSpecifications=kinds,
            **more,
        )

    def register(self, image: NewImage) -> str:
        """Register an AMI; return its id.

        Raises:
            RejectedError: the name is taken (`InvalidAMIName.Duplicate`), or a snapshot is not complete.
        """
        given = image.attributes
        more = {theirs: getattr(given, ours) for ours, theirs in _OPTIONAL.items() if getattr(given, ours) is not None}
        return self._service.ask(
            "RegisterImage",
            lambda answer: str(answer["ImageId"]),
            about=image.name,
            Name=image.name,
            Description=image.description,
            Architecture=_NAMES[image.architecture],
            RootDeviceName=given.root_device,
            VirtualizationType=given.virtualization,
            EnaSupport=given.ena_support,
            BlockDeviceMappings=_mappings(image),
            TagSpecifications=[{"ResourceType": "image", "Tags": tag_list(image.tags)}],
            **more,
        )

    def tag(self, ids: Iterable[str], tags: Mapping[str, str]) -> None:
        """Give tags to AMIs, snapshots or anything else with an id."""
        wanted = sorted(ids)
        self._service.call("CreateTags", about=", ".join(wanted), Resources=wanted, Tags=tag_list(tags))

    def remove(self, image: FoundImage, snapshots: Sequence[str]) -> tuple[str, ...]:
        """Deregister an AMI and delete these snapshots of it; return those that EC2 does not let go yet.

        What is gone already, or another AMI's too, is no error and is not returned.
        """
        self._unless_gone("DeregisterImage", about=image.id, ImageId=image.id)
        return tuple(one for one in snapshots if not self._released(one, image.id))

    def delete_snapshot(self, snapshot: str) -> bool:
        """Delete a snapshot; False where EC2 holds it for an AMI."""
        try:
            self._unless_gone("DeleteSnapshot", about=snapshot, SnapshotId=snapshot)
        except RejectedError as error:
            if error.code != _IN_USE:
                raise
            return False
        return True

    def orphans(self, key: str, value: str) -> tuple[str, ...]:
        """Return the account's own snapshots with that tag that EC2 made for AMIs, and that none of its AMIs has."""
        found = sorted(one.id for one in self.own_snapshots_tagged(key, value) if one.is_made_for_an_ami)
        used = {one.snapshot for image in self._having(found) for one in image.snapshots}
        return tuple(one for one in found if one not in used)

    def snapshots(self, ids: Collection[str]) -> dict[str, FoundSnapshot]:
        """Return snapshots by id; those that this account does not see are absent."""
        if not ids:
            return {}
        found = self._snapshots([{"Name": "snapshot-id", "Values": sorted(ids)}], about=", ".join(sorted(ids)))
        return {snapshot.id: snapshot for snapshot in found}

    def own_snapshots_tagged(self, key: str, value: str) -> tuple[FoundSnapshot, ...]:
        """Return the account's own snapshots with that tag."""
        return tuple(self._snapshots([_tagged(key, value)], about=f"{key}={value}", OwnerIds=["self"]))

    def encrypts_by_default(self) -> bool:
        """Whether the account encrypts every new snapshot (GetEbsEncryptionByDefault)."""
        return self._service.ask("GetEbsEncryptionByDefault", lambda answer: bool(answer["EbsEncryptionByDefault"]))

    def _released(self, snapshot: str, ami: str) -> bool:
        """Delete the snapshot of an AMI that is deregistered; whether it is gone, or other AMIs' as well."""

        def is_done() -> bool:
            return self.delete_snapshot(snapshot) or any(image.id != ami for image in self._having([snapshot]))

        return self._patience.until(
            is_done, lambda done: [] if done else ["in use"], subject=f"snapshot {snapshot}", limit_s=_RELEASED_S
        )

    def _having(self, snapshots: list[str]) -> list[FoundImage]:
        """The account's own AMIs that begin with one of these."""
        if not snapshots:
            return []
        filters = [{"Name": "block-device-mapping.snapshot-id", "Values": snapshots}]
        return self._images(filters, about=", ".join(snapshots), **_OWN)

    def _images(self, filters: list[dict[str, Any]], *, about: str, **more: object) -> list[FoundImage]:
        return self._service.list("DescribeImages", "Images", _image, about=about, Filters=filters, **more)

    def _snapshots(self, filters: list[dict[str, Any]], *, about: str, **more: object) -> list[FoundSnapshot]:
        return self._service.list("DescribeSnapshots", "Snapshots", _snapshot, about=about, Filters=filters, **more)

    def _unless_gone(self, operation: str, *, about: str, **parameters: object) -> None:
        try:
            self._service.call(operation, about=about, **parameters)
        except RejectedError as error:
            if error.code not in _GONE:
                raise


def _tagged(key: str, value: str) -> dict[str, Any]:
    return {"Name": f"tag:{key}", "Values": [value]}


def _tags(item: Answer) -> dict[str, str]:
    return {str(tag["Key"]): str(tag["Value"]) for tag in item.get("Tags", [])}


def _image(item: Answer) -> FoundImage:
    devices = [_device(one) for one in item.get("BlockDeviceMappings", []) if one.get("Ebs", {}).get("SnapshotId")]
    return FoundImage(
        id=str(item["ImageId"]),
        name=str(item.get("Name", "")),
        owner=str(item["OwnerId"]),
        alias=str(item.get("ImageOwnerAlias", "")),
        state=str(item.get("State", "unknown")),
        description=str(item.get("Description", "")),
        architecture=ARCHITECTURES.get(item["Architecture"], str(item["Architecture"])),
        is_public=bool(item.get("Public", False)),
        product_codes=tuple(str(code["ProductCodeId"]) for code in item.get("ProductCodes", [])),
        root_type=str(item.get("RootDeviceType", "")),
        root_device=str(item.get("RootDeviceName", "")),
        devices=tuple(devices),
        virtualization=str(item.get("VirtualizationType", "")),
        ena_support=bool(item.get("EnaSupport", False)),
        boot_mode=item.get("BootMode") or None,
        sriov_net_support=item.get("SriovNetSupport") or None,
        imds_support=item.get("ImdsSupport") or None,
        tpm_support=item.get("TpmSupport") or None,
        created=str(item.get("CreationDate", "")),
        why=str((item.get("StateReason") or {}).get("Message") or ""),
        tags=_tags(item),
    )


def _device(mapping: Answer) -> FoundDevice:
    ebs = mapping["Ebs"]
    return FoundDevice(
        device=str(mapping["DeviceName"]),
        snapshot=str(ebs["SnapshotId"]),
        gib=int(ebs["VolumeSize"]),
        volume_type=str(ebs.get("VolumeType", "gp3")),
        iops=ebs.get("Iops"),
        throughput=ebs.get("Throughput"),
    )


def _snapshot(item: Answer) -> FoundSnapshot:
    return FoundSnapshot(
        id=str(item["SnapshotId"]),
        state=str(item["State"]),
        tags=_tags(item),
        owner=str(item.get("OwnerId", "")),
        is_encrypted=bool(item.get("Encrypted", False)),
        kms_key=str(item.get("KmsKeyId") or ""),
        why=str(item.get("StateMessage") or ""),
        description=str(item.get("Description") or ""),
    )


def _mappings(image: NewImage) -> list[dict[str, object]]:
    return [
        {
            "DeviceName": one.device,
            "Ebs": {
                "SnapshotId": image.snapshots[one.device],
                "VolumeSize": one.size,
                "VolumeType": one.volume_type,
                "DeleteOnTermination": True,
                **({} if one.iops is None else {"Iops": one.iops}),
                **({} if one.throughput is None else {"Throughput": one.throughput}),
            },
        }
        for one in image.attributes.devices
    ]
