"""`bundle install` where EKS has made the core set already: adopted with the team's settings, kept, or stopped at."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.closed import Closed, Json, Site, Writes, containers, eventually, private, workloads

pytestmark = [pytest.mark.cluster, pytest.mark.loopback]
REGISTRY = "602401143452.dkr.ecr.eu-central-1.amazonaws.com"
OTHER = f"{REGISTRY}/eks/coredns:v1.11.4-eksbuild.2"
ADOPTED = ("DaemonSet/aws-node", "DaemonSet/kube-proxy", "Deployment/coredns")


def workload(kind: str, name: str, boxes: dict[str, str], *, init: dict[str, str] | None = None) -> Json:
    """A core object as EKS makes it, with public images."""
    labels = {"k8s-app": "kube-dns" if name == "coredns" else name}
    spec: Json = {"containers": [{"name": key, "image": image} for key, image in boxes.items()]}
    if kind == "DaemonSet":
        spec |= {"hostNetwork": True, "tolerations": [{"operator": "Exists"}]}
    if init:
        spec["initContainers"] = [{"name": key, "image": image} for key, image in init.items()]
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": "kube-system",
            "labels": {**labels, "eks.amazonaws.com/component": name},
        },
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
    }


def eks_objects(*, coredns: str = f"{REGISTRY}/eks/coredns:v1.0.0-lab.1") -> list[Json]:
    cni = workload(
        "DaemonSet",
        "aws-node",
        {
            "aws-node": f"{REGISTRY}/amazon-k8s-cni:v1.0.0-lab.1",
            "aws-eks-nodeagent": f"{REGISTRY}/amazon/aws-network-policy-agent:v1.0.0-lab.1",
        },
        init={"aws-vpc-cni-init": f"{REGISTRY}/amazon-k8s-cni-init:v1.0.0-lab.1"},
    )
    proxy = workload("DaemonSet", "kube-proxy", {"kube-proxy": f"{REGISTRY}/eks/kube-proxy:v1.36.3-lab.1"})
    return [cni, proxy, workload("Deployment", "coredns", {"coredns": coredns})]


def apply(closed: Closed, objects: list[Json], *, manager: str) -> None:
    items = {"apiVersion": "v1", "kind": "List", "items": objects}
    closed.kubectl("apply", "--server-side", f"--field-manager={manager}", "--filename=-", feed=items)


def patch(closed: Closed, kind: str, name: str, value: object) -> None:
    """Change something by hand, as the team."""
    patched = ("patch", kind, name, "--namespace=kube-system", "--field-manager=team", f"--patch={json.dumps(value)}")
    closed.kubectl(*patched)


def pod_patch(value: Json) -> Json:
    return {"spec": {"template": {"spec": value}}}


@pytest.fixture(scope="module")
def site(closed: Closed) -> Site:
    """A site whose cluster has EKS's core set, with what a team has changed of it."""
    made = closed.site("adopt", "closed-minimal-1.tar")
    apply(closed, eks_objects(), manager="eks")
    warm = {"name": "aws-node", "env": [{"name": "WARM_IP_TARGET", "value": "5"}]}
    patch(closed, "daemonset", "aws-node", pod_patch({"containers": [warm]}))
    patch(closed, "deployment", "coredns", {"spec": {"replicas": 3}} | {"metadata": {"annotations": {"team": "net"}}})
    return made


# --- stop and keep: nothing is installed


@contextmanager
def nothing_is_written(closed: Closed) -> Iterator[None]:
    writes = Writes(closed.facts)
    yield
    assert writes.seen() == []


def flat(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join(done.stderr.split())


def test_stop_names_the_object_and_both_ways_on(site: Site) -> None:
    with nothing_is_written(site.closed):
        done = site.with_changes("stop.yaml", core="stop").install(expect=7)
    assert "DaemonSet kube-system/aws-node" in flat(done)
    assert "core: adopt" in flat(done)
    assert "core: keep" in flat(done)


def test_keep_leaves_core_objects_of_the_right_version_alone(site: Site) -> None:
    done = site.with_changes("keep.yaml", core="keep").plan("-o", "json")
    assert {one["phase"] for one in json.loads(done.stdout)["actions"]} == {"push", "identity", "nodes", "add-ons"}


def test_keep_refuses_another_version(site: Site) -> None:
    other = {"containers": [{"name": "coredns", "image": OTHER}]}
    patch(site.closed, "deployment", "coredns", pod_patch(other))
    try:
        with nothing_is_written(site.closed):
            done = site.with_changes("keep.yaml", core="keep").install(expect=7)
    finally:
        apply_again(site.closed)
    assert f"its container coredns runs {OTHER}; the bundle has version v1.0.0-lab.1" in flat(done)


def apply_again(closed: Closed) -> None:
    """EKS takes its image back from whoever changed it."""
    items = {"apiVersion": "v1", "kind": "List", "items": eks_objects()}
    forced = ("apply", "--server-side", "--force-conflicts", "--field-manager=eks", "--filename=-")
    closed.kubectl(*forced, feed=items)


def test_container_of_the_team_with_an_image_from_outside_is_named(site: Site) -> None:
    """Adopting would leave it without its image; the bundle must hold it, too."""
    patch(site.closed, "deployment", "coredns", pod_patch({"containers": [{"name": "side", "image": "quay.io/a/b:1"}]}))
    try:
        with nothing_is_written(site.closed):
            done = site.install(expect=7)
    finally:
        gone = {"$patch": "delete", "name": "side"}
        patch(site.closed, "deployment", "coredns", pod_patch({"containers": [gone]}))
    assert "Deployment kube-system/coredns" in flat(done)
    assert "has the container side with quay.io/a/b:1, which is not in the bundle" in flat(done)


# --- adopt


@pytest.fixture(scope="module")
def adopted(site: Site) -> Site:
    done = site.install()
    assert "Done: " in done.stdout
    return site


def test_images_of_adopted_objects_are_private_digests_and_all_is_ready(adopted: Site) -> None:
    found = workloads(adopted.closed)
    assert set(found) == {*ADOPTED, "Deployment/metrics-server"}
    assert all(private(thing, adopted) for thing in (*found.values(), *adopted.closed.get("pods")))
    assert found["Deployment/coredns"]["status"]["readyReplicas"] == 3
    assert found["DaemonSet/aws-node"]["status"]["numberReady"] == 2
    assert set(adopted.closed.histories()) == {"metrics-server"}, "core objects stay EKS's own"


def test_settings_of_the_team_are_kept(adopted: Site) -> None:
    found = workloads(adopted.closed)
    (main,) = [box for box in containers(found["DaemonSet/aws-node"]) if box["name"] == "aws-node"]
    assert main["env"] == [{"name": "WARM_IP_TARGET", "value": "5"}]
    assert found["Deployment/coredns"]["spec"]["replicas"] == 3
    assert found["Deployment/coredns"]["metadata"]["annotations"]["team"] == "net"


def test_only_image_fields_are_ours(adopted: Site) -> None:
    for name in ADOPTED:
        managers = workloads(adopted.closed)[name]["metadata"]["managedFields"]
        (ours,) = [entry for entry in managers if entry["manager"] == "eks-bundler"]
        assert set(leaves(ours["fieldsV1"])) == {"f:image"}


def leaves(fields: Any) -> Iterator[str]:
    """The names of the fields at the ends of a tree of managed fields."""
    for key, value in fields.items():
        if value:
            yield from leaves(value)
        elif key != ".":
            yield key


def test_eks_finds_a_conflict_when_it_applies_again_and_changes_nothing(adopted: Site) -> None:
    before = workloads(adopted.closed)
    with pytest.raises(AssertionError, match=r'conflicts? with "eks-bundler"'):
        apply(adopted.closed, eks_objects(), manager="eks")
    after = workloads(adopted.closed)
    assert [containers(after[name]) for name in ADOPTED] == [containers(before[name]) for name in ADOPTED]


def test_second_install_of_an_adopted_site_writes_nothing(adopted: Site) -> None:
    with nothing_is_written(adopted.closed):
        assert "Nothing to do" in adopted.install().stdout


def test_image_that_was_moved_back_by_hand_is_adopted_again(adopted: Site) -> None:
    apply_again(adopted.closed)
    writes = Writes(adopted.closed.facts)
    adopted.install()
    assert len([one for one in writes.seen() if one.startswith("patch /apis/apps/v1/")]) == 3
    eventually(lambda: all(private(thing, adopted) for thing in adopted.closed.get("pods")))
