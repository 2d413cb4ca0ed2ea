"""moto's Auto Scaling corrected: instances are launched from the group's template version, not from the default one.

They carry its user data, security groups, metadata options, instance profile and tags, and are spread over the subnets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moto.autoscaling.exceptions import AutoscalingClientError
from moto.autoscaling.models import FakeAutoScalingGroup, InstanceState
from moto.ec2.models.launch_templates import LaunchTemplateVersion

from bundler.lab.moto_patch import put_in_place

_GROUP_TAG = "aws:autoscaling:groupName"


class LabInstanceState(InstanceState):
    """An instance of a group that knows the template version it was launched from."""

    @property
    def launch_template(self) -> dict[str, Any] | None:
        """Id, name and version, as DescribeAutoScalingGroups tells them."""
        if self.auto_scaling_group is None or self.auto_scaling_group.ec2_launch_template is None:
            return None
        tags = {tag["key"]: tag["value"] for tag in self.instance.get_tags()}
        template = self.auto_scaling_group.ec2_launch_template
        version = tags["aws:ec2launchtemplate:version"]
        return {"LaunchTemplateId": template.id, "LaunchTemplateName": template.name, "Version": version}


def correct_autoscaling() -> None:
    """Put our launch in the place of moto's."""
    put_in_place(FakeAutoScalingGroup, "replace_autoscaling_group_instances", _launch)


def _launch(group: FakeAutoScalingGroup, count_needed: int, propagated_tags: dict[str, str]) -> None:
    """Launch `count_needed` instances of a group that has a launch template."""
    template = group.ec2_launch_template
    if template is None:
        raise NotImplementedError("the lab knows groups with a launch template only")
    version = template.get_version(group.launch_template_version)
    tags = {**version.instance_tags, **propagated_tags, _GROUP_TAG: group.name}
    for _ in range(count_needed):
        instance = _run(group, version, tags)
        instance.autoscaling_group = group
        protected = group.new_instances_protected_from_scale_in
        group.instance_states.append(LabInstanceState(instance, protected_from_scale_in=protected))


def _run(group: FakeAutoScalingGroup, version: LaunchTemplateVersion, tags: Mapping[str, str]) -> Any:
    data, interface = version.data, (version.data.get("NetworkInterfaces") or [{}])[0]
    subnet = _next_subnet(group)
    reservation = group.ec2_backend.run_instances(
        version.image_id,
        1,
        version.user_data,
        [],
        instance_type=version.instance_type,
        is_instance_type_default=False,
        tags={"instance": dict(tags), "volume": {}},
        launch_template={"LaunchTemplateId": version.template.id, "Version": version.number},
        security_group_ids=list(interface.get("Groups") or data.get("SecurityGroupIds") or []),
        metadata_options=data.get("MetadataOptions", {}),
        iam_instance_profile=_profile(group, data.get("IamInstanceProfile")),
        key_name=data.get("KeyName"),
        block_device_mappings=data.get("BlockDeviceMappings", []),
        associate_public_ip=bool(interface.get("AssociatePublicIpAddress", False)),
        region_name=group.region,
        subnet_id=subnet,
    )
    return reservation.instances[0]


def _next_subnet(group: FakeAutoScalingGroup) -> str | None:
    subnets = group.vpc_zone_identifier.split(",") if group.vpc_zone_identifier else []
    used = [state.instance.subnet_id for state in group.instance_states]
    return min(subnets, key=used.count, default=None)


def _profile(group: FakeAutoScalingGroup, wanted: Mapping[str, str] | None) -> dict[str, str] | None:
    """Return the profile as instances state it; DescribeInstances answers Arn and Id only."""
    if not wanted:
        return None
    from moto.iam.models import iam_backends
    from moto.utilities.utils import get_partition

    profiles = iam_backends[group.account_id][get_partition(group.region)].instance_profiles.values()
    for profile in profiles:
        if wanted.get("Arn") == profile.arn or wanted.get("Name") == profile.name:
            return {"Arn": profile.arn, "Id": profile.id}
    raise AutoscalingClientError("ValidationError", f"Invalid IamInstanceProfile: {dict(wanted)}")
