"""check waits for a cluster in which all is well, and names what is not."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from bundler.domain.cluster_node import ClusterNode
from bundler.domain.events import Event, Waiting
from bundler.domain.report import ExpectedWorkload, Report
from bundler.domain.workload import ContainerImage, Pod, Workload, WorkloadRef
from bundler.errors import TargetError
from bundler.retry import Patience
from bundler.stages.check import check
from tests.fakes.charts import image_map, private
from tests.fakes.memory_cluster import MemoryCluster

WEB = WorkloadRef(kind="Deployment", namespace="shop", name="web")
IMAGES = image_map("quay.io/shop/app:v1")
APP = str(private("quay.io/shop/app:v1").target)
EXPECTED = (ExpectedWorkload(ref=WEB, owner="release web"),)
NODE = ClusterNode(name="node-1", provider_id="aws:///a/i-1", ready=True)


@dataclass(kw_only=True)
class Clock:
    """Time that passes only by sleeping; `then` happens after the first sleep."""

    now: float = 0.0
    events: list[Event] = field(default_factory=list)
    then: object = None

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if callable(self.then):
            self.then()

    @property
    def patience(self) -> Patience:
        return Patience(deadline_s=30, every_s=10, clock=lambda: self.now, sleep=self.sleep, emit=self.events.append)


def live(image: str = APP, **fields: object) -> Workload:
    box = ContainerImage(name="app", image=image)
    given: dict[str, object] = {"desired": 1, "ready": 1, **fields}
    return Workload(ref=WEB, containers=(box,), selector={"app": "web"}, **given)  # type: ignore[arg-type]


def pod(image: str = APP, **fields: object) -> Pod:
    given: dict[str, object] = {"is_ready": True, **fields}
    return Pod(namespace="shop", name="web-x", labels={"app": "web"}, images=(image,), **given)  # type: ignore[arg-type]


def checked(cluster: MemoryCluster, clock: Clock, *, wanted_nodes: int = 1) -> Report:
    return check(EXPECTED, images=IMAGES, wanted_nodes=wanted_nodes, cluster=cluster, patience=clock.patience)


def healthy() -> MemoryCluster:
    return MemoryCluster(workloads={WEB: live()}, all_pods=[pod()], all_nodes=[NODE])


def test_a_healthy_cluster_is_reported_at_once() -> None:
    clock = Clock()
    report = checked(healthy(), clock)
    assert (report.ready_nodes, report.workloads[0].images, clock.now) == (1, (APP,), 0)


def test_what_may_come_is_waited_for_and_told() -> None:
    cluster = healthy()
    cluster.workloads[WEB] = live(ready=0)
    clock = Clock(then=lambda: cluster.workloads.update({WEB: live()}))
    assert checked(cluster, clock).is_healthy
    (event,) = clock.events
    assert isinstance(event, Waiting)
    assert event.state == "1 to go: Deployment shop/web (release web): 0 of 1 pods are ready"


@pytest.mark.parametrize(
    ("cluster", "cause", "waited_s"),
    [
        (MemoryCluster(workloads={WEB: live(ready=0)}, all_nodes=[NODE],
                       all_pods=[pod(is_ready=False, problem="app: ImagePullBackOff no such image")]),
         "Deployment shop/web (release web): 0 of 1 pods are ready; web-x: app: ImagePullBackOff no such image", 30),
        (MemoryCluster(workloads={WEB: live(is_current=False)}, all_nodes=[NODE]), "is being rolled out", 30),
        (MemoryCluster(workloads={WEB: live()}, all_nodes=[NODE], all_pods=[pod("quay.io/shop/app:v1")]),
         "runs quay.io/shop/app:v1: not an image of the bundle", 30),
        (MemoryCluster(workloads={WEB: live("quay.io/shop/app:v1")}, all_nodes=[NODE]),
         "runs quay.io/shop/app:v1: not an image of the bundle", 0),
        (MemoryCluster(workloads={WEB: live(APP.partition("@")[0])}, all_nodes=[NODE]), "pinned by digest", 0),
        (MemoryCluster(all_nodes=[NODE]), "Deployment shop/web (release web): does not exist", 0),
        (MemoryCluster(workloads={WEB: live()}), "0 of 1 nodes are Ready", 30),
        (MemoryCluster(workloads={WEB: live()}, all_nodes=[
            NODE, ClusterNode(name="node-2", provider_id="x", ready=False, message="cni plugin not initialized")]),
         "node node-2: cni plugin not initialized", 30),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_only_waited_for_where_waiting_helps(
    cluster: MemoryCluster, cause: str, waited_s: float
) -> None:
    clock = Clock()
    with pytest.raises(TargetError) as caught:
        checked(cluster, clock)
    assert cause in caught.value.cause
    assert caught.value.exit_code == 8
    assert clock.now == waited_s


def test_a_kept_object_may_run_its_own_images() -> None:
    cluster = MemoryCluster(workloads={WEB: live("602.example.com/x:1")}, all_nodes=[NODE])
    kept = [ExpectedWorkload(ref=WEB, owner="release web", own_images=False)]
    assert check(kept, images=IMAGES, wanted_nodes=0, cluster=cluster).is_healthy


def test_many_problems_are_counted_not_listed() -> None:
    nodes = [ClusterNode(name=f"node-{at:02}", provider_id="x", ready=False) for at in range(40)]
    with pytest.raises(TargetError, match="and 21 more"):
        checked(MemoryCluster(workloads={WEB: live()}, all_nodes=nodes), Clock())
