"""EC2: what a site adopts, and launch templates."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from bundler.adapters.aws.clients import Answer, Service
from bundler.domain.infrastructure import MachineImage, Subnet
from bundler.domain.node_template import LaunchTemplate, NodeTemplate, TemplateVersion, content_digest, tag_list
from bundler.errors import RejectedError

Value = TypeVar("Value")
_ARCHITECTURES = {"x86_64": "amd64", "arm64": "arm64"}
_NO_TEMPLATE = frozenset({"InvalidLaunchTemplateName.NotFoundException", "InvalidLaunchTemplateId.NotFound"})


class Ec2:
    """The EC2 API in our words."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def vpcs(self, ids: Collection[str]) -> set[str]:
        """Return those of `ids` that exist."""
        return set(self._find("DescribeVpcs", "Vpcs", "vpc-id", ids, lambda item: (item["VpcId"], True)))

    def subnets(self, ids: Collection[str]) -> dict[str, Subnet]:
        """Return subnets by id."""
        return self._find("DescribeSubnets", "Subnets", "subnet-id", ids, _subnet)

    def security_groups(self, ids: Collection[str]) -> dict[str, str]:
        """Return the VPC of each security group."""
        return self._find("DescribeSecurityGroups", "SecurityGroups", "group-id", ids, _security_group)

    def images(self, ids: Collection[str]) -> dict[str, MachineImage]:
        """Return AMIs by id."""
        return self._find("DescribeImages", "Images", "image-id", ids, _image)

    def architectures(self, instance_types: Collection[str]) -> dict[str, frozenset[str]]:
        """Return the architectures (amd64, arm64) of each instance type that the Region has."""
        return self._find("DescribeInstanceTypes", "InstanceTypes", "instance-type", instance_types, _instance_type)

    def template(self, name: str) -> LaunchTemplate | None:
        """Return a launch template with its versions, None where there is none of that name."""
        about = f"launch template {name}"
        try:
            head = self._service.ask("DescribeLaunchTemplates", _only_template, about=about, LaunchTemplateNames=[name])
        except RejectedError as error:
            if error.code in _NO_TEMPLATE:
                return None
            raise
        versions = self._service.list(
            "DescribeLaunchTemplateVersions",
            "LaunchTemplateVersions",
            _version,
            about=about,
            LaunchTemplateId=head.id,
        )
        return LaunchTemplate(id=head.id, name=name, tags=head.tags, versions=tuple(versions))

    def create_template(self, template: NodeTemplate, *, token: str) -> tuple[str, int]:
        """Create a launch template; return its id and its first version."""
        return self._service.ask(
            "CreateLaunchTemplate",
            lambda answer: (str(answer["LaunchTemplate"]["LaunchTemplateId"]), 1),
            about=f"launch template {template.name}",
            LaunchTemplateName=template.name,
            VersionDescription=template.description,
            LaunchTemplateData=template.data,
            TagSpecifications=[{"ResourceType": "launch-template", "Tags": tag_list(template.tags)}],
            ClientToken=token,
        )

    def add_version(self, template_id: str, template: NodeTemplate, *, token: str) -> int:
        """Add a version, complete in itself; return its number."""
        return self._service.ask(
            "CreateLaunchTemplateVersion",
            lambda answer: int(answer["LaunchTemplateVersion"]["VersionNumber"]),
            about=f"launch template {template.name}",
            LaunchTemplateId=template_id,
            VersionDescription=template.description,
            LaunchTemplateData=template.data,
            ClientToken=token,
        )

    def _find(
        self, operation: str, key: str, name: str, ids: Collection[str], parse: Callable[[Answer], tuple[str, Value]]
    ) -> dict[str, Value]:
        """Ask by filter: by id, EC2 would refuse the whole list for one that does not exist."""
        if not ids:
            return {}
        wanted = sorted(ids)
        filters = [{"Name": name, "Values": wanted}]
        return dict(self._service.list(operation, key, parse, about=", ".join(wanted), Filters=filters))


def _subnet(item: Answer) -> tuple[str, Subnet]:
    return item["SubnetId"], Subnet(vpc=item["VpcId"])


def _security_group(item: Answer) -> tuple[str, str]:
    return item["GroupId"], item["VpcId"]


def _image(item: Answer) -> tuple[str, MachineImage]:
    root = item.get("RootDeviceName", "")
    devices = {device.get("DeviceName"): device.get("Ebs", {}) for device in item.get("BlockDeviceMappings", [])}
    image = MachineImage(
        id=item["ImageId"],
        state=item.get("State", "unknown"),
        architecture=_ARCHITECTURES.get(item["Architecture"], str(item["Architecture"])),
        root_device=root,
        root_gib=devices.get(root, {}).get("VolumeSize"),
    )
    return image.id, image


def _instance_type(item: Answer) -> tuple[str, frozenset[str]]:
    names = item["ProcessorInfo"]["SupportedArchitectures"]
    return item["InstanceType"], frozenset(_ARCHITECTURES.get(name, name) for name in names)


def _only_template(answer: Answer) -> LaunchTemplate:
    item = answer["LaunchTemplates"][0]
    tags = {tag["Key"]: tag["Value"] for tag in item.get("Tags", [])}
    return LaunchTemplate(id=item["LaunchTemplateId"], name=item["LaunchTemplateName"], tags=tags)


def _version(item: Answer) -> TemplateVersion:
    return TemplateVersion(
        number=int(item["VersionNumber"]), digest=content_digest(item.get("VersionDescription") or "")
    )
