"""moto's EC2 corrected: an AMI is what was registered, a launch template reads back as it was written."""

from __future__ import annotations

import copy
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2 import urls
from moto.ec2.models.amis import Ami
from moto.ec2.models.launch_templates import LaunchTemplate, LaunchTemplateVersion
from moto.ec2.responses import EC2Response
from moto.ec2.utils import parse_user_data, random_ami_id

from bundler.lab.moto_patch import Refused, put_in_place, route_all

_MAX_VERSIONS = 200


def correct_ec2() -> None:
    """Put the corrected responses and the corrected template in moto's place."""
    route_all(urls.url_paths, LabEc2Response.dispatch)
    put_in_place(LaunchTemplate, "create_version", _create_version)


def _create_version(self: LaunchTemplate, data: dict[str, Any], description: str) -> LaunchTemplateVersion:
    """Keep a copy, with user data in the type that instances need (moto keeps text in a second version, then fails)."""
    kept = {key: value for key, value in copy.deepcopy(data).items() if value is not None}
    if "UserData" in kept:
        kept["UserData"] = parse_user_data(str(kept["UserData"]))
    version = LaunchTemplateVersion(self, len(self.versions) + 1, kept, description)
    self.versions.append(version)
    return version


class LabAmi(Ami):
    """An AMI with everything that RegisterImage was told."""

    def __init__(self, backend: Any, name: str, asked: dict[str, Any]) -> None:
        super().__init__(
            backend, random_ami_id(), name=name, description=asked.get("Description"),
            architecture=asked.get("Architecture", "i386"), virtualization_type=asked.get("VirtualizationType", "hvm"),
            root_device_name=asked.get("RootDeviceName", "/dev/sda1"), root_device_type="ebs",
            region_name=f"{backend.region_name}a", boot_mode=asked.get("BootMode", "uefi"),
        )  # fmt: skip
        self.mappings = copy.deepcopy(asked.get("BlockDeviceMappings", []))
        self.ena_support = bool(asked.get("EnaSupport", False))
        self.imds_support = asked.get("ImdsSupport")
        self.tpm_support = asked.get("TpmSupport")
        self.sriov_net_support = asked.get("SriovNetSupport")
        self.platform_details = "Linux/UNIX"

    @property
    def block_device_mappings(self) -> list[dict[str, Any]]:
        """The mappings as registered, with what AWS fills in from the snapshot."""
        return [self._filled(mapping) for mapping in self.mappings]

    def _filled(self, mapping: dict[str, Any]) -> dict[str, Any]:
        if "Ebs" not in mapping:
            return mapping
        ebs = mapping["Ebs"]
        snapshot = self.ec2_backend.snapshots.get(ebs.get("SnapshotId"))
        defaults = {"DeleteOnTermination": True, "VolumeType": "gp2", "Encrypted": False}
        if snapshot is not None:
            defaults.update(VolumeSize=snapshot.volume.size, Encrypted=snapshot.encrypted)
        return {**mapping, "Ebs": {**defaults, **ebs}}


class LabEc2Response(EC2Response):
    """Images and launch templates."""

    def register_image(self) -> ActionResult:
        """Keep block devices, root device, architecture and the rest; a name is taken once."""
        self.error_on_dryrun()
        name = self._get_param("Name")
        if any(ami.name == name and ami.owner_id == self.current_account for ami in self.ec2_backend.amis.values()):
            message = f"AMI name {name} is already in use by AMI"
            raise Refused("InvalidAMIName.Duplicate", message)
        for mapping in self._get_param("BlockDeviceMappings", []):
            self._need_snapshot(mapping.get("Ebs", {}).get("SnapshotId"))
        image = LabAmi(self.ec2_backend, name, self.params)
        image.add_tags(self._parse_tag_specification().get("image", {}))
        self.ec2_backend.amis[image.id] = image
        return ActionResult({"ImageId": image.id})

    def _need_snapshot(self, snapshot: str | None) -> None:
        if snapshot is None:
            return
        found = self.ec2_backend.snapshots.get(snapshot)
        if found is None:
            raise Refused("InvalidSnapshot.NotFound", f"The snapshot '{snapshot}' does not exist.")
        if found.status != "completed":
            raise Refused("IncorrectState", f"The snapshot '{snapshot}' is {found.status}.")

    def create_launch_template(self) -> ActionResult:
        """Keep the data as it came: tags of the template itself are not part of it."""
        self.error_on_dryrun()
        template = self.ec2_backend.create_launch_template(
            self._get_param("LaunchTemplateName"),
            self._get_param("VersionDescription"),
            self._get_param("LaunchTemplateData", {}),
            self._parse_tag_specification(),
        )
        return ActionResult({"LaunchTemplate": self._template(template)})

    def create_launch_template_version(self) -> ActionResult:
        """Merge into `SourceVersion` when it is given."""
        self.error_on_dryrun()
        template, source = self._find_template(), self._get_param("SourceVersion")
        base = template.get_version(source).data if source is not None else {}
        data = {**base, **self._get_param("LaunchTemplateData", {})}
        version = template.create_version(data, self._get_param("VersionDescription"))
        return ActionResult({"LaunchTemplateVersion": self._version(template, version)})

    def describe_launch_template_versions(self) -> ActionResult:
        """Every version asked for, once, up to AWS's page of 200."""
        self.error_on_dryrun()
        found = self.ec2_backend.describe_launch_template_versions(
            template_name=self._get_param("LaunchTemplateName"),
            template_id=self._get_param("LaunchTemplateId"),
            versions=self._get_param("Versions", []),
            min_version=self._get_int_param("MinVersion"),
            max_version=self._get_int_param("MaxVersion"),
            max_results=_MAX_VERSIONS,
        )
        once = {(template.id, version.number): (template, version) for template, version in found}
        return ActionResult({"LaunchTemplateVersions": [self._version(*pair) for pair in once.values()]})

    def describe_launch_templates(self) -> ActionResult:
        """All of them; moto stops after 15."""
        self.error_on_dryrun()
        found = self.ec2_backend.describe_launch_templates(
            template_names=self._get_param("LaunchTemplateNames", []),
            template_ids=self._get_param("LaunchTemplateIds", []),
            filters=self._filters_from_querystring(),
        )
        return ActionResult({"LaunchTemplates": [self._template(template) for template in found]})

    def delete_launch_template_versions(self) -> ActionResult:
        """Report success; the numbers of a template are never used again, so the versions may stay."""
        template = self._find_template()
        done = [
            {"LaunchTemplateId": template.id, "LaunchTemplateName": template.name, "VersionNumber": int(number)}
            for number in self._get_param("Versions", [])
        ]
        return ActionResult({"SuccessfullyDeletedLaunchTemplateVersions": done})

    def _find_template(self) -> LaunchTemplate:
        name, template_id = self._get_param("LaunchTemplateName"), self._get_param("LaunchTemplateId")
        found: LaunchTemplate = (
            self.ec2_backend.get_launch_template_by_name(name) if name
            else self.ec2_backend.get_launch_template(template_id)
        )  # fmt: skip
        return found

    def _template(self, template: LaunchTemplate) -> dict[str, Any]:
        return {
            "CreateTime": template.create_time,
            "CreatedBy": f"arn:{self.partition}:iam::{self.current_account}:root",
            "DefaultVersionNumber": template.default_version_number,
            "LatestVersionNumber": template.latest_version_number,
            "LaunchTemplateId": template.id,
            "LaunchTemplateName": template.name,
            "Tags": template.get_tags(),
        }

    def _version(self, template: LaunchTemplate, version: LaunchTemplateVersion) -> dict[str, Any]:
        return {
            "CreateTime": version.create_time,
            "CreatedBy": f"arn:{self.partition}:iam::{self.current_account}:root",
            "DefaultVersion": template.is_default(version),
            "LaunchTemplateData": version.data,
            "LaunchTemplateId": template.id,
            "LaunchTemplateName": template.name,
            "VersionDescription": version.description,
            "VersionNumber": version.number,
        }
