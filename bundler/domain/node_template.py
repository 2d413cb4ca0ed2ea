"""What a node is launched from, and the group that launches it: wanted and found."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from bundler.domain.infrastructure import MachineImage
from bundler.domain.names import (
    GROUP_TAG,
    LAUNCH_TEMPLATE_NAME_MAX,
    derived_name,
    owner_tags,
)
from bundler.domain.site import NodeGroup, Site
from bundler.domain.user_data import user_data

_DESCRIPTION = "eks-bundler sha256:"
_AUTOSCALER = "k8s.io/cluster-autoscaler"
BOTTLEROCKET_DATA = "/dev/xvdb"
"""The device that every Bottlerocket AMI maps its data volume to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTemplate:
    """A launch template as we write it.

    Attributes:
        name: of the template, and of the Auto Scaling group.
        data: LaunchTemplateData of the EC2 API: a document that is emitted as it stands.
        tags: of the template itself.
    """

    name: str
    data: Mapping[str, object]
    tags: Mapping[str, str]

    @property
    def digest(self) -> str:
        """64 hex digits that name the content; versions are immutable, so this tells whether one is ours."""
        return hashlib.sha256(json.dumps(self.data, sort_keys=True).encode()).hexdigest()

    @property
    def description(self) -> str:
        """The description of the version, which says its content."""
        return _DESCRIPTION + self.digest


def content_digest(description: str) -> str | None:
    """Return the digest in a version's description, None where somebody else wrote the version."""
    return description.removeprefix(_DESCRIPTION) if description.startswith(_DESCRIPTION) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateVersion:
    """One version that exists; `digest` of its content is None where we did not write it."""

    number: int
    digest: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchTemplate:
    """A launch template that exists."""

    id: str
    name: str
    tags: Mapping[str, str] = field(default_factory=dict)
    versions: tuple[TemplateVersion, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """An instance of a group; `state` is the group's word for it, `InService` when it should work."""

    id: str
    zone: str
    state: str
    healthy: bool = True

    @property
    def provider_id(self) -> str:
        """What the instance's Node object carries."""
        return f"aws:///{self.zone}/{self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingGroup:
    """An Auto Scaling group that exists.

    Attributes:
        template_id: None where it launches from something else than one launch template.
        version: as the group has it: a number, `$Latest` or `$Default`.
        desired: written when the group is created, then only read: Auto Scaling and people move it.
    """

    name: str
    min_size: int
    max_size: int
    desired: int
    template_id: str | None
    version: str
    subnets: frozenset[str] = frozenset()
    tags: Mapping[str, str] = field(default_factory=dict)
    instances: tuple[Instance, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Something that Auto Scaling did or tried."""

    status: str
    description: str
    message: str

    @property
    def failed(self) -> bool:
        """Whether it gave up."""
        return self.status == "Failed"


def group_name(site: Site, group: NodeGroup) -> str:
    """Return the name of a node group's launch template and Auto Scaling group."""
    return derived_name(site.cluster.name, group.name, limit=LAUNCH_TEMPLATE_NAME_MAX)


def node_template(site: Site, group: NodeGroup, image: MachineImage) -> NodeTemplate:
    """Return the template that a node group's instances are launched from.

    Raises:
        DefinitionError: its user data cannot be made.
    """
    tags = {**owner_tags(site.cluster.name), GROUP_TAG: group.name}
    instance_tags = {
        **tags,
        "Name": group_name(site, group),
        f"kubernetes.io/cluster/{site.cluster.name}": "owned",
    }
    data: dict[str, object] = {
        "ImageId": image.id,
        "InstanceType": group.instance_type,
        "IamInstanceProfile": {"Arn": group.instance_profile},
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "AssociatePublicIpAddress": False,
                "DeleteOnTermination": True,
                "Groups": list(group.security_groups),
            }
        ],
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": group.hop_limit,
        },
        "BlockDeviceMappings": _volumes(group, image),
        "UserData": base64.b64encode(user_data(site, group)).decode(),
        "TagSpecifications": [
            {"ResourceType": kind, "Tags": tag_list(instance_tags)} for kind in ("instance", "volume")
        ],
    }
    if group.key_pair is not None:
        data["KeyName"] = group.key_pair
    return NodeTemplate(name=group_name(site, group), data=data, tags=tags)


def _volumes(group: NodeGroup, image: MachineImage) -> list[dict[str, object]]:
    """Return the volumes: on Bottlerocket images and pods have one of their own, and the system keeps its size."""
    if group.os != "bottlerocket":
        return [{"DeviceName": image.root_device, "Ebs": _volume(group, size_gib=group.volume.size_gib)}]
    return [
        {"DeviceName": image.root_device, "Ebs": _volume(group)},
        {"DeviceName": BOTTLEROCKET_DATA, "Ebs": _volume(group, size_gib=group.volume.size_gib)},
    ]


def _volume(group: NodeGroup, *, size_gib: int | None = None) -> dict[str, object]:
    volume: dict[str, object] = {"VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}
    if size_gib is not None:
        volume["VolumeSize"] = size_gib
    if group.volume.kms_key is not None:
        volume["KmsKeyId"] = group.volume.kms_key
    return volume


def scaling_group_tags(site: Site, group: NodeGroup) -> dict[str, str]:
    """Return the tags of a node group's Auto Scaling group: ours, and those by which the autoscaler finds it.

    A group that may shrink to nothing also says what its nodes would be like (cluster-autoscaler, AWS provider).
    """
    tags = {
        **owner_tags(site.cluster.name),
        GROUP_TAG: group.name,
        f"{_AUTOSCALER}/enabled": "true",
        f"{_AUTOSCALER}/{site.cluster.name}": "owned",
    }
    if group.min_size == 0:
        for key, value in group.labels.items():
            tags[f"{_AUTOSCALER}/node-template/label/{key}"] = value
        for taint in group.taints:
            tags[f"{_AUTOSCALER}/node-template/taint/{taint.key}"] = f"{taint.value}:{taint.effect}"
    return tags


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as EC2 spells them, sorted."""
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]
