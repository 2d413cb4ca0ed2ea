"""Workloads and pods as the API server describes them."""

from __future__ import annotations

from typing import Any

import pytest

from bundler.domain.workload import (
    ContainerImage,
    WorkloadRef,
    parse_node,
    parse_pod,
    parse_workload,
    pods_of,
    rendered_containers,
    workload_refs,
)
from tests.fakes.kubernetes_objects import pod, workload

WEB = WorkloadRef(kind="Deployment", namespace="shop", name="web")
ENDED = {"exitCode": 1, "reason": "E"}
AGENT = WorkloadRef(kind="DaemonSet", namespace="kube-system", name="aws-node")


def test_a_rolled_out_workload() -> None:
    for ref in (WEB, AGENT, WorkloadRef(kind="StatefulSet", namespace="shop", name="db")):
        live = parse_workload(workload(ref, {"app": "a:1"}, init={"pre": "b:1"}))
        assert live.ref == ref
        assert live.is_rolled_out
        assert live.containers == (
            ContainerImage(name="pre", image="b:1", is_init=True),
            ContainerImage(name="app", image="a:1"),
        )


@pytest.mark.parametrize(
    ("ref", "status"),
    [
        (WEB, {"observedGeneration": 0}),
        (WEB, {"updatedReplicas": 0}),
        (WEB, {"availableReplicas": 0}),
        (WEB, {"replicas": 2}),
        (AGENT, {"updatedNumberScheduled": 0}),
        (AGENT, {"numberAvailable": 0}),
    ],
)
def test_a_workload_that_is_not_yet_rolled_out(ref: WorkloadRef, status: dict[str, int]) -> None:
    item = workload(ref, {"app": "a:1"})
    item["status"].update(status)
    assert not parse_workload(item).is_rolled_out


def test_owners_are_read() -> None:
    annotations = {"meta.helm.sh/release-name": "web", "meta.helm.sh/release-namespace": "shop"}
    managers = [{"manager": "helm"}, {"manager": "kubectl-edit"}, {"manager": "helm"}]
    live = parse_workload(workload(WEB, {}, annotations=annotations, managedFields=managers))
    assert (live.release, live.managers, live.is_eks) == ("shop/web", ("helm", "kubectl-edit"), False)
    assert parse_workload(workload(AGENT, {}, managedFields=[{"manager": "eks"}])).is_eks
    assert parse_workload(workload(AGENT, {}, labels={"eks.amazonaws.com/component": "x"})).is_eks


def test_an_empty_object_is_no_crash() -> None:
    assert parse_workload({"spec": [], "status": 3, "metadata": {"labels": "x"}}).containers == ()
    assert parse_pod({}) is not None
    assert parse_node({}).ready is False


def with_status(**status: Any) -> dict[str, Any]:
    item = pod(WEB, {"app": "a:1"}, waiting="x")
    item["status"] = {"phase": "Pending", **status}
    return item


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (pod(WEB, {"app": "a:1"}), ""),
        (pod(WEB, {"app": "a:1"}, waiting="ImagePullBackOff"), "app: ImagePullBackOff it says ImagePullBackOff"),
        (pod(WEB, {"app": "a:1"}, waiting="ContainerCreating"), "Pending"),
        (
            with_status(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                                     "message": "0/0 nodes\nare available"}]),
            "not scheduled: Unschedulable 0/0 nodes are available",
        ),
        (
            with_status(initContainerStatuses=[{"name": "pre", "state": {"terminated": ENDED}}]),
            "pre: E",
        ),
        (with_status(), "Pending"),
    ],
)  # fmt: skip
def test_a_pod_says_why_it_is_not_ready(item: dict[str, Any], problem: str) -> None:
    found = parse_pod(item)
    assert found is not None
    assert found.problem == problem


def test_pods_that_go_or_are_done_do_not_count() -> None:
    going = pod(WEB, {})
    going["metadata"]["deletionTimestamp"] = "now"
    assert parse_pod(going) is None
    assert parse_pod({"status": {"phase": "Succeeded"}}) is None


def test_pods_of_a_workload_are_found_by_its_selector() -> None:
    live = parse_workload(workload(WEB, {}))
    pods = [parsed for item in (pod(WEB, {}), pod(AGENT, {})) if (parsed := parse_pod(item)) is not None]
    assert [found.name for found in pods_of(live, pods)] == ["web-x"]
    empty = parse_workload({**workload(WEB, {}), "spec": {}})
    assert pods_of(empty, pods) == ()


MANIFESTS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {template: {spec: {initContainers: [{name: i, image: "a:1"}], containers: [{name: c, image: "b:1"}]}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: kube-system}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: hook, annotations: {helm.sh/hook: pre-install}}
---
apiVersion: example.com/v1
kind: Deployment
metadata: {name: other}
---
apiVersion: v1
kind: Service
metadata: {name: web}
"""


def test_workloads_of_rendered_manifests() -> None:
    assert workload_refs(MANIFESTS, namespace="shop", subject="x") == (
        WEB,
        WorkloadRef(kind="DaemonSet", namespace="kube-system", name="agent"),
    )
    assert rendered_containers(MANIFESTS, WEB, subject="x") == (
        ContainerImage(name="i", image="a:1", is_init=True),
        ContainerImage(name="c", image="b:1"),
    )
    assert rendered_containers(MANIFESTS, AGENT, subject="x") == ()
