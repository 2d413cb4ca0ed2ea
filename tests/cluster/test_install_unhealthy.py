"""`bundle install` with Helm 3, and where something does not become healthy: exit 8, object and cause; then mended.

One site: nodes are refused, then let in; later there is no room for pods.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.closed import Closed, Site, Tail, Writes, eventually, private, workloads, write_definition
from tests.peers import lab_control

pytestmark = [pytest.mark.cluster, pytest.mark.loopback]


@pytest.fixture(scope="module")
def site(closed: Closed) -> Site:
    """An empty site for a bundle that carries Helm 3; nobody makes an access entry for its nodes."""
    folder = closed.place.folder / "helm3"
    folder.mkdir()
    (folder / "bundle.yaml").write_text(write_definition(closed.tools, helm="helm3", name="third"))
    archive = closed.place.build("helm3/bundle.yaml")
    return closed.site("third", str(archive), accessEntries="existing")


def flat(text: str) -> str:
    return " ".join(text.split())


@dataclass(frozen=True, kw_only=True)
class Refused:
    """An install whose registry tokens ended in the middle of the push, and whose nodes never joined."""

    code: int
    stderr: str
    expired: int
    seconds: float


@pytest.fixture(scope="module")
def refused(site: Site) -> Refused:
    requests = Tail(site.closed.facts.requests_file)
    started, uploads, refusals, is_expired = time.monotonic(), 0, 0, False
    output = site.file.with_name("refused")
    process = site.start(output, "--timeout", "8s", "--progress", "plain")
    while process.poll() is None:
        for line in requests.lines():
            uploads += line["service"] == "ecr.dkr" and line.get("method") == "PUT"
            refusals += line["service"] == "ecr.dkr" and line["status"] == 403
        if uploads >= 10 and not is_expired:
            lab_control(site.closed.facts, "POST", "tokens/expire")
            is_expired = True
        time.sleep(0.01)
    seconds = time.monotonic() - started
    stderr = output.with_suffix(".err").read_text()
    return Refused(code=process.returncode, stderr=stderr, expired=refusals, seconds=seconds)


def test_token_that_ends_in_the_middle_of_a_push_is_survived(refused: Refused) -> None:
    assert refused.expired > 0, "the registry refused none: the token did not end in the middle"
    assert "11 pushed, 0 were there; all digests read back" in flat(refused.stderr)


def test_node_that_does_not_join_ends_with_8_and_names_instance_and_cause(refused: Refused, site: Site) -> None:
    assert refused.code == 8, refused.stderr
    (group,) = site.closed.aws("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    said = flat(refused.stderr)
    for instance in group["Instances"]:
        assert f"{instance['InstanceId']}: runs, but no node with provider id" in said
    assert "aws ec2 get-console-output --latest --region eu-central-1 --instance-id i-" in said
    assert "What was pushed and created stays" in said


@pytest.fixture(scope="module")
def mended(site: Site, refused: Refused) -> Site:
    """The same with access entries made by us; the first run has left the rest to be gone on with."""
    assert refused.code == 8
    ours = site.with_changes("mended.yaml", accessEntries="ensure")
    assert "Done: " in ours.install().stdout
    return ours


def test_a_later_run_finishes_with_helm_3(mended: Site) -> None:
    found = workloads(mended.closed)
    assert len(found) == 4
    assert all(private(thing, mended) for thing in (*found.values(), *mended.closed.get("pods")))
    assert mended.closed.histories() == {
        name: [(1, "deployed")] for name in ("aws-vpc-cni", "coredns", "kube-proxy", "metrics-server")
    }
    (helm,) = (path for path in mended.state.glob("eks-bundler/sites/*/tools/**/helm") if path.is_file())
    version = subprocess.run([helm, "version"], capture_output=True, check=True).stdout
    assert b'Version:"v3.' in version


def test_second_install_with_helm_3_writes_nothing(mended: Site) -> None:
    writes = Writes(mended.closed.facts)
    assert "Nothing to do" in mended.install().stdout
    assert writes.seen() == []


@pytest.fixture
def without_room(mended: Site) -> Iterator[Site]:
    """The pods of coredns are gone, and no node takes new ones."""
    closed = mended.closed
    for node in closed.get("nodes"):
        closed.kubectl("cordon", node["metadata"]["name"])
    closed.kubectl("delete", "pods", "--namespace=kube-system", "--selector=k8s-app=kube-dns", "--wait=true")
    yield mended
    for node in closed.get("nodes"):
        closed.kubectl("uncordon", node["metadata"]["name"])


def test_workload_that_is_not_ready_in_time_ends_with_8_and_names_object_and_cause(without_room: Site) -> None:
    writes = Writes(without_room.closed.facts)
    done = without_room.install("--timeout", "4s", expect=8)
    said = flat(done.stderr)
    assert "Deployment kube-system/coredns (release coredns): 0 of 2 pods are ready" in said
    assert "0/2 nodes are available: 2 node(s) were unschedulable" in said
    assert "Everything is installed; nothing was taken back." in said
    assert writes.seen() == [], "check only looks"


def test_site_is_healthy_again_once_the_cause_is_mended(mended: Site) -> None:
    eventually(lambda: all(node["spec"].get("unschedulable") is None for node in mended.closed.get("nodes")))
    assert "Nothing to do" in mended.install().stdout
