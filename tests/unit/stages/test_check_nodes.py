"""Waiting for nodes, and saying why they do not come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from bundler.domain.cluster_node import ClusterNode
from bundler.domain.events import Event, Waiting
from bundler.domain.node_template import Activity, Instance, ScalingGroup
from bundler.errors import TargetError
from bundler.retry import Patience
from bundler.stages.check_nodes import check_nodes
from tests.fakes.node_cloud import NodeCloud
from tests.fakes.sites import make_site

ONE, TWO = (Instance(id=f"i-{number}", zone="ap-northeast-1a", state="InService") for number in (1, 2))


def group(*instances: Instance, desired: int = 2) -> ScalingGroup:
    return ScalingGroup(
        name="c1-main", min_size=1, max_size=4, desired=desired, template_id="lt", version="1", instances=instances
    )


def node(instance: Instance, *, ready: bool = True, message: str = "") -> ClusterNode:
    return ClusterNode(name=f"ip-{instance.id}", provider_id=instance.provider_id, ready=ready, message=message)


@dataclass
class World:
    """Time passes only when somebody sleeps; `later` changes the world then."""

    cloud: NodeCloud
    found: list[ClusterNode] = field(default_factory=list)
    later: Callable[[World], None] = lambda world: None
    now: float = 0.0
    events: list[Event] = field(default_factory=list)

    def nodes(self) -> Sequence[ClusterNode]:
        return self.found

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.later(self)

    @property
    def patience(self) -> Patience:
        return Patience(deadline_s=60.0, every_s=5.0, clock=lambda: self.now, sleep=self.sleep, emit=self.events.append)


def world(*instances: Instance, activities: Sequence[Activity] = (), desired: int = 2) -> World:
    there = group(*instances, desired=desired)
    return World(cloud=NodeCloud(groups={"c1-main": there}, scaling={"c1-main": list(activities)}))


def check(seen: World) -> int:
    return check_nodes(make_site(), groups=seen.cloud, cluster=seen, patience=seen.patience)


def test_nodes_that_work_are_counted_without_waiting() -> None:
    seen = world(ONE, TWO)
    seen.found = [node(ONE), node(TWO)]
    assert check(seen) == 2
    assert seen.now == 0


def test_nodes_are_known_by_provider_id_and_waited_for() -> None:
    seen = world(ONE, TWO)
    seen.found = [node(ONE)]

    def join(world: World) -> None:
        if world.now >= 20:
            world.found = [node(ONE), node(TWO)]

    seen.later = join
    assert check(seen) == 2
    waits = [event for event in seen.events if isinstance(event, Waiting)]
    assert len(waits) == 4
    assert "i-2" in waits[0].state


def test_a_group_of_none_needs_no_node() -> None:
    assert check(world(desired=0)) == 0


def test_an_instance_that_never_joins_is_named_with_where_to_look() -> None:
    seen = world(ONE, TWO)
    seen.found = [node(ONE)]
    with pytest.raises(TargetError) as caught:
        check(seen)
    assert "no node with provider id aws:///ap-northeast-1a/i-2 has joined" in caught.value.cause
    assert "get-console-output --latest --region ap-northeast-1 --instance-id i-2" in caught.value.hint
    assert seen.now == 60


def test_a_node_that_is_not_ready_is_shown_with_what_it_says() -> None:
    seen = world(ONE, desired=1)
    seen.found = [node(ONE, ready=False, message="container runtime network not ready: cni plugin not initialized")]
    with pytest.raises(TargetError, match="cni plugin not initialized") as caught:
        check(seen)
    assert "kubectl describe node ip-i-1" in caught.value.hint


@pytest.mark.parametrize(
    "message",
    [
        "The AMI 'ami-1' does not exist. Launching EC2 instance failed.",
        "Invalid IAM Instance Profile ARN. Launching EC2 instance failed.",
        "VcpuLimitExceeded: You have requested more vCPU capacity than your current limit",
        "Client.InternalError: Client error on launch",
        "You are not authorized to perform this operation. Encoded authorization failure message",
    ],
)
def test_a_reason_that_does_not_pass_ends_the_wait_at_once_word_for_word(message: str) -> None:
    failure = Activity(status="Failed", description="Launching a new EC2 instance.", message=message)
    seen = world(ONE, activities=[failure])
    with pytest.raises(TargetError) as caught:
        check(seen)
    assert message in caught.value.cause
    assert seen.now == 0


@pytest.mark.parametrize(
    "message", ["Insufficient capacity in ap-northeast-1a", "RequestLimitExceeded: Request limit exceeded."]
)
def test_a_reason_that_may_pass_is_waited_for_and_then_shown(message: str) -> None:
    failure = Activity(status="Failed", description="Launching a new EC2 instance.", message=message)
    seen = world(activities=[failure])
    with pytest.raises(TargetError) as caught:
        check(seen)
    assert message in caught.value.cause
    assert seen.now == 60


def test_an_old_failure_that_was_overcome_is_not_held_against_the_group() -> None:
    done = Activity(status="Successful", description="Launching", message="")
    old = Activity(status="Failed", description="Launching", message="The AMI 'ami-1' does not exist")
    seen = world(ONE, activities=[done, old])

    def arrive(world: World) -> None:
        world.cloud.groups["c1-main"] = group(ONE, TWO)
        world.found = [node(ONE), node(TWO)]

    seen.later = arrive
    assert check(seen) == 2


def test_a_group_that_is_gone_is_an_error() -> None:
    seen = world()
    seen.cloud.groups.clear()
    with pytest.raises(TargetError, match="c1-main"):
        check(seen)
