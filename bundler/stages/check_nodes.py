"""Node groups -> nodes that work: instances in service, a Ready node for each of them, or the causes why not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bundler.domain.cluster_node import ClusterNode
from bundler.domain.node_template import Activity, Instance, ScalingGroup, group_name
from bundler.domain.site import Site
from bundler.errors import TargetError
from bundler.retry import Patience

MOST_CAUSES = 20
_HOPELESS = re.compile(
    r"InvalidAMIID|AMI .{0,80}(?:does not exist|not authorized)|[Ii]nvalid IAM [Ii]nstance [Pp]rofile"
    r"|InstanceProfile|KMS|Kms|InvalidKMSKey|(?<!Request)LimitExceeded|quota|not authorized|UnauthorizedOperation"
    r"|Invalid[A-Z][A-Za-z]*(?:NotFound|Value|Combination)|Client\.InternalError|InvalidSubnet|InvalidGroup"
    r"|not supported|Unsupported|OptInRequired|InvalidKeyPair"
)


class GroupWatch(Protocol):
    """Auto Scaling groups, read."""

    def group(self, name: str) -> ScalingGroup | None:
        """Return a group with its instances."""
        ...

    def activities(self, name: str) -> Sequence[Activity]:
        """Return what Auto Scaling did last for it, the newest first."""
        ...


class NodeWatch(Protocol):
    """The nodes of the cluster, read."""

    def nodes(self) -> Sequence[ClusterNode]:
        """Return every node."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One look at groups and nodes.

    Attributes:
        groups: in the order of the site.
        nodes: by provider id.
        failures: group -> the newest activity, where that failed.
    """

    groups: tuple[ScalingGroup, ...]
    nodes: Mapping[str, ClusterNode]
    failures: Mapping[str, Activity]


def check_nodes(site: Site, *, groups: GroupWatch, cluster: NodeWatch, patience: Patience = Patience()) -> int:
    """Return how many nodes work, once all that the groups want do.

    Raises:
        TargetError: not within the deadline, or Auto Scaling failed for a reason that does not pass; all causes.
    """
    names = [group_name(site, group) for group in site.node_groups]
    started = patience.clock()
    while True:
        seen = look(names, groups=groups, cluster=cluster)
        missing = list(lacking(seen))
        if not missing:
            return sum(group.desired for group in seen.groups)
        elapsed_s = patience.clock() - started
        hopeless = [name for name, failure in seen.failures.items() if _HOPELESS.search(failure.message)]
        if hopeless or elapsed_s >= patience.deadline_s:
            raise _failed(site, seen, missing, elapsed_s, hopeless=bool(hopeless))
        patience.pause("nodes", missing, elapsed_s=elapsed_s)


def look(names: Sequence[str], *, groups: GroupWatch, cluster: NodeWatch) -> Seen:
    """Return what groups and nodes look like now.

    Raises:
        TargetError: a group is gone.
    """
    found = [groups.group(name) for name in names]
    there = tuple(group for group in found if group is not None)
    if len(there) < len(names):
        gone = ", ".join(name for name, group in zip(names, found, strict=True) if group is None)
        raise TargetError(f"Auto Scaling group {gone}", "does not exist", hint="Run bundle install again.")
    short = [group for group in there if _in_service(group) < group.desired]
    newest = {group.name: next(iter(groups.activities(group.name)), None) for group in short}
    return Seen(
        groups=there,
        nodes={node.provider_id: node for node in cluster.nodes()},
        failures={name: activity for name, activity in newest.items() if activity is not None and activity.failed},
    )


def lacking(seen: Seen) -> Iterator[str]:
    """Yield one line for each thing that is not as it should be."""
    for group in seen.groups:
        running = _in_service(group)
        if running < group.desired:
            failure = seen.failures.get(group.name)
            said = f"; Auto Scaling says: {failure.description} {failure.message}".rstrip() if failure else ""
            yield f"{group.name}: {running} of {group.desired} instances are in service{said}"
        for instance in group.instances:
            if instance.state == "InService":
                yield from _node(instance, seen.nodes.get(instance.provider_id))


def _node(instance: Instance, node: ClusterNode | None) -> Iterator[str]:
    if not instance.healthy:
        yield f"{instance.id}: Auto Scaling holds it for unhealthy"
    elif node is None:
        yield f"{instance.id}: runs, but no node with provider id {instance.provider_id} has joined"
    elif not node.ready:
        yield f"{instance.id}: node {node.name} is not Ready: {node.message or 'no status yet'}"


def _in_service(group: ScalingGroup) -> int:
    return sum(instance.state == "InService" for instance in group.instances)


def _failed(site: Site, seen: Seen, missing: list[str], elapsed_s: float, *, hopeless: bool) -> TargetError:
    when = f"after {elapsed_s:.0f} s, for a reason that does not pass" if hopeless else f"after {elapsed_s:.0f} s"
    lines = missing[:MOST_CAUSES]
    if len(missing) > MOST_CAUSES:
        lines.append(f"and {len(missing) - MOST_CAUSES} more")
    return TargetError(
        f"nodes of cluster {site.cluster.name}",
        f"do not all work {when}\n" + "\n".join(f"- {line}" for line in lines),
        hint=_hint(site, seen),
    )


def _hint(site: Site, seen: Seen) -> str:
    """Name where the cause shows: the console of the first instance that has no Ready node."""
    for group in seen.groups:
        for instance in group.instances:
            node = seen.nodes.get(instance.provider_id)
            if node is None:
                return (
                    "Its console says how far it came (no endpoint, wrong CA, Unauthorized): aws ec2 get-console-output"
                    f" --latest --region {site.region} --instance-id {instance.id} --output text"
                )
            if not node.ready:
                return f"Look at it: kubectl describe node {node.name}"
    return "Mend what Auto Scaling reports, then run the same command again."
