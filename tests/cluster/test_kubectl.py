"""kubectl against a real API server: what it reads, what it writes, and how refusals come out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bundler.adapters.process import run
from bundler.domain.adoption import FIELD_MANAGER, adoption_patch
from bundler.domain.workload import ContainerImage, WorkloadRef
from bundler.errors import AccessError, BundleError, NetworkError, ProgramError
from bundler.lab.tools import Tools
from tests.cluster.planes import Plane, eventually, running_plane, start_network

pytestmark = pytest.mark.cluster
AGENT = WorkloadRef(kind="DaemonSet", namespace="kube-system", name="eks-agent")


@pytest.fixture(scope="module")
def plane(assets: Path, tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with running_plane(tmp_path_factory.mktemp("plane"), assets, tools) as running:
        yield running


def test_the_cluster_is_ready_and_says_its_version(plane: Plane) -> None:
    assert plane.kubectl.is_ready()
    assert plane.kubectl.version().startswith("v1.")


def test_what_does_not_exist_is_none(plane: Plane) -> None:
    assert plane.kubectl.workload(WorkloadRef(kind="Deployment", namespace="nowhere", name="nothing")) is None
    assert plane.kubectl.pods("nowhere") == ()


def test_nodes_and_pods_become_ready(plane: Plane) -> None:
    start_network(plane)
    (node,) = plane.kubectl.nodes()
    assert (node.ready, node.provider_id) == (True, "aws:///eu-central-1a/i-00000001")
    ref = WorkloadRef(kind="DaemonSet", namespace="kube-system", name="aws-node")
    eventually(lambda: (found := plane.kubectl.workload(ref)) is not None and found.ready == 1)
    live = plane.kubectl.workload(ref)
    assert live is not None
    assert (live.is_rolled_out, live.desired, live.release, live.is_eks) == (True, 1, "", False)
    assert [pod.is_ready for pod in plane.kubectl.pods("kube-system")] == [True]


def agent_object(**env: str) -> dict[str, object]:
    labels = {"k8s-app": AGENT.name}
    container = {
        "name": "agent",
        "image": "602.example.com/agent:v1",
        "env": [{"name": key, "value": value} for key, value in env.items()],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": AGENT.name, "namespace": AGENT.namespace},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def test_adopting_keeps_what_the_team_has_set_and_eks_cannot_take_it_back_unnoticed(
    plane: Plane, tools: Tools, tmp_path: Path
) -> None:
    def kubectl(*argv: str, given: object = None) -> str:
        (tmp_path / "object.json").write_text(json.dumps(given))
        done = run(
            [str(tools.kubectl.path), f"--kubeconfig={plane.facts.admin_kubeconfig}", *argv],
            timeout_s=30,
            env={"HOME": str(tmp_path)},
        )
        return done.stderr.decode() if done.returncode else ""

    file = f"--filename={tmp_path / 'object.json'}"
    eks = ("apply", "--server-side", "--field-manager=eks", file)
    assert kubectl(*eks, given=agent_object(A="eks")) == ""
    assert kubectl("apply", file, given=agent_object(A="eks", TEAM="3")) == ""
    assert kubectl("set", "env", "daemonset/eks-agent", "--namespace=kube-system", "SET=4") == ""
    live = plane.kubectl.workload(AGENT)
    assert live is not None
    assert live.is_eks
    private = ContainerImage(name="agent", image="r.example.com/agent:v2@sha256:" + "a" * 64)
    plane.kubectl.patch(AGENT, adoption_patch([private]), field_manager=FIELD_MANAGER)
    after = plane.kubectl.get("daemonsets.apps", namespace=AGENT.namespace, name=AGENT.name)
    (container,) = after["spec"]["template"]["spec"]["containers"]  # type: ignore[index]
    assert container["image"] == private.image
    assert container["env"] == [
        {"name": "A", "value": "eks"},
        {"name": "TEAM", "value": "3"},
        {"name": "SET", "value": "4"},
    ]
    assert 'conflict with "eks-bundler"' in kubectl(*eks, given=agent_object(A="eks"))


def changed(plane: Plane, folder: Path, **user: object) -> Path:
    """The administrator's kubeconfig with another user."""
    config = yaml.safe_load(plane.facts.admin_kubeconfig.read_text())
    config["users"][0]["user"] = user
    (folder / "kubeconfig").write_text(json.dumps(config))
    return folder / "kubeconfig"


def failing_plugin(folder: Path) -> dict[str, object]:
    (folder / "plugin").write_text("#!/bin/sh\necho 'no AWS credentials found' >&2\nexit 4\n")
    (folder / "plugin").chmod(0o755)
    api = "client.authentication.k8s.io/v1"
    return {"apiVersion": api, "command": str(folder / "plugin"), "interactiveMode": "Never"}


@pytest.mark.parametrize("case", ["wrong token", "no plugin", "failing plugin"])
def test_a_caller_that_the_cluster_does_not_know_is_told_about_access_entries(
    plane: Plane, tools: Tools, tmp_path: Path, case: str
) -> None:
    users: dict[str, dict[str, object]] = {
        "wrong token": {"token": "none"},
        "no plugin": {"exec": {**failing_plugin(tmp_path), "command": "/nowhere/bundle"}},
        "failing plugin": {"exec": failing_plugin(tmp_path)},
    }
    stranger = plane.kubectl_with(changed(plane, tmp_path, **users[case]), tools)
    with pytest.raises(AccessError) as caught:
        stranger.nodes()
    assert "access entry" in caught.value.hint
    assert caught.value.exit_code == 4


def test_a_caller_who_may_not_is_told_the_same(plane: Plane, tools: Tools, tmp_path: Path) -> None:
    account = plane.kubectl.get_all("serviceaccounts", namespace="default")
    assert account
    certificate = {"client-certificate": str(plane.facts.admin_certificate), "client-key": str(plane.facts.admin_key)}
    nobody = plane.kubectl_with(changed(plane, tmp_path, **certificate, **{"as": "nobody"}), tools)
    with pytest.raises(AccessError, match="cannot list resource"):
        nobody.nodes()


@pytest.mark.parametrize(
    ("server", "error", "cause"),
    [
        ("https://127.0.0.1:1", NetworkError, "was refused"),
        ("https://no-such-host.invalid", NetworkError, "no such host"),
    ],
)
def test_an_endpoint_that_does_not_answer_is_a_network_error(
    plane: Plane, tools: Tools, tmp_path: Path, server: str, error: type[BundleError], cause: str
) -> None:
    config = yaml.safe_load(plane.facts.admin_kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = server
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    with pytest.raises(error, match=cause):
        plane.kubectl_with(tmp_path / "kubeconfig", tools).is_ready()


def test_an_endpoint_with_another_ca_is_not_trusted(plane: Plane, tools: Tools, tmp_path: Path) -> None:
    config = yaml.safe_load(plane.facts.admin_kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    cluster.pop("certificate-authority-data", None)
    cluster.pop("certificate-authority", None)
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    with pytest.raises(NetworkError, match="x509") as caught:
        plane.kubectl_with(tmp_path / "kubeconfig", tools).is_ready()
    assert "certificateAuthority" in caught.value.hint


def test_what_kubectl_says_of_anything_else_is_shown(plane: Plane) -> None:
    with pytest.raises(ProgramError, match="the server doesn't have a resource type"):
        plane.kubectl.get_all("nonsense")
