"""Auto Scaling groups: found, created once, followed by size limits and template version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bundler.adapters.aws.clients import Answer, Service
from bundler.domain.node_template import Activity, Instance, ScalingGroup
from bundler.errors import RejectedError

MOST_ACTIVITIES = 20


class AutoScaling:
    """The Auto Scaling API in our words."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def group(self, name: str) -> ScalingGroup | None:
        """Return a group with its instances, None where there is none of that name."""
        found = self._service.list(
            "DescribeAutoScalingGroups",
            "AutoScalingGroups",
            _group,
            about=f"Auto Scaling group {name}",
            AutoScalingGroupNames=[name],
        )
        return found[0] if found else None

    def create(self, group: ScalingGroup) -> None:
        """Create a group; `desired` is written here and never again.

        One of that name that somebody made meanwhile is left: the next look compares it.
        """
        try:
            self._service.call(
                "CreateAutoScalingGroup",
                about=f"Auto Scaling group {group.name}",
                AutoScalingGroupName=group.name,
                LaunchTemplate={"LaunchTemplateId": group.template_id, "Version": group.version},
                MinSize=group.min_size,
                MaxSize=group.max_size,
                DesiredCapacity=group.desired,
                VPCZoneIdentifier=",".join(sorted(group.subnets)),
                HealthCheckType="EC2",
                Tags=_tag_list(group.name, group.tags),
            )
        except RejectedError as error:
            if error.code not in ("AlreadyExists", "AlreadyExistsFault"):
                raise

    def update(self, group: ScalingGroup) -> None:
        """Give a group size limits and template version; `desired` stays what it is."""
        self._service.call(
            "UpdateAutoScalingGroup",
            about=f"Auto Scaling group {group.name}",
            AutoScalingGroupName=group.name,
            LaunchTemplate={"LaunchTemplateId": group.template_id, "Version": group.version},
            MinSize=group.min_size,
            MaxSize=group.max_size,
        )

    def tag(self, name: str, tags: Mapping[str, str]) -> None:
        """Add or change tags."""
        self._service.call("CreateOrUpdateTags", about=f"Auto Scaling group {name}", Tags=_tag_list(name, tags))

    def activities(self, name: str) -> Sequence[Activity]:
        """Return what Auto Scaling did last for a group, the newest first."""
        return self._service.ask(
            "DescribeScalingActivities",
            lambda answer: [_activity(item) for item in answer["Activities"]],
            about=f"Auto Scaling group {name}",
            AutoScalingGroupName=name,
            MaxRecords=MOST_ACTIVITIES,
        )


def _group(item: Answer) -> ScalingGroup:
    template = item.get("LaunchTemplate") or {}
    return ScalingGroup(
        name=item["AutoScalingGroupName"],
        min_size=int(item["MinSize"]),
        max_size=int(item["MaxSize"]),
        desired=int(item["DesiredCapacity"]),
        template_id=template.get("LaunchTemplateId"),
        version=str(template.get("Version", "")),
        subnets=frozenset(filter(None, item.get("VPCZoneIdentifier", "").split(","))),
        tags={tag["Key"]: tag["Value"] for tag in item.get("Tags", [])},
        instances=tuple(_instance(instance) for instance in item.get("Instances", [])),
    )


def _instance(item: Answer) -> Instance:
    return Instance(
        id=item["InstanceId"],
        zone=item["AvailabilityZone"],
        state=item["LifecycleState"],
        healthy=str(item.get("HealthStatus", "")).lower() == "healthy",
    )


def _activity(item: Answer) -> Activity:
    return Activity(
        status=item["StatusCode"],
        description=item.get("Description", ""),
        message=item.get("StatusMessage", "") or item.get("Cause", ""),
    )


def _tag_list(name: str, tags: Mapping[str, str]) -> list[dict[str, object]]:
    """Instances get theirs from the template, which also tags their volumes."""
    return [
        {
            "ResourceId": name,
            "ResourceType": "auto-scaling-group",
            "Key": key,
            "Value": value,
            "PropagateAtLaunch": False,
        }
        for key, value in sorted(tags.items())
    ]
