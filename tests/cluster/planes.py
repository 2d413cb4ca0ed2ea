"""A control plane with one node, without AWS: the test says which images its registry holds.

Nodes and pods are kwok's: status only, no containers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundler.adapters.helm import Helm, HelmSettings
from bundler.adapters.kubernetes import Kubectl, KubectlSettings
from bundler.domain.user_data import user_data
from bundler.lab.instances import Instance
from bundler.lab.kube_api import KubeApi
from bundler.lab.kubernetes import ControlPlane, KubernetesFacts
from bundler.lab.nodes import NodeAgent, Surroundings
from bundler.lab.tools import Tools
from bundler.retry import RetryPolicy
from tests.fakes.sites import group_document, make_site

ROLE = "arn:aws:iam::111122223333:role/node"
ONE_TRY = RetryPolicy(tries=1)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The access entry of the node's role."""

    principal: str = ROLE
    type: str = "EC2_LINUX"
    username: str = "system:node:{{EC2PrivateDNSName}}"
    groups: list[str] = field(default_factory=list)
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plane:
    """A running control plane.

    Attributes:
        images: what the registry holds; others are never pulled.
        work: a folder for helm and kubectl.
    """

    facts: KubernetesFacts
    api: KubeApi
    kubectl: Kubectl
    images: set[str]
    work: Path

    def helm(self, binary: Path, *, kind: type[Helm] = Helm, environ: Mapping[str, str] | None = None) -> Helm:
        kubeconfig = self.facts.admin_kubeconfig
        return kind(HelmSettings(binary=binary, work=self.work, kubeconfig=kubeconfig, environ=environ or {}))

    def kubectl_with(self, kubeconfig: Path, tools: Tools) -> Kubectl:
        settings = KubectlSettings(binary=tools.kubectl.path, kubeconfig=kubeconfig, work=self.work, policy=ONE_TRY)
        return Kubectl(settings)


@contextmanager
def running_plane(folder: Path, assets: Path, tools: Tools) -> Iterator[Plane]:
    """A control plane whose node becomes Ready once a DaemonSet aws-node runs on it."""
    control = ControlPlane(state=folder / "state", assets=assets)
    facts = control.start()
    images: set[str] = set()
    (folder / "work").mkdir()
    around = Surroundings(
        instances=lambda: [_instance(facts)], entries=lambda: [Entry()], image_exists=images.__contains__
    )
    agent = NodeAgent("c1", facts, around, log=folder / "nodes.log")
    settings = KubectlSettings(
        binary=tools.kubectl.path, kubeconfig=facts.admin_kubeconfig, work=folder / "work", policy=ONE_TRY
    )
    api = facts.admin_api()
    agent.start()
    try:
        yield Plane(facts=facts, api=api, kubectl=Kubectl(settings), images=images, work=folder / "work")
    finally:
        agent.stop()
        api.close()
        control.stop()


def start_network(plane: Plane) -> None:
    """Run something that counts as the network plugin, so that the node becomes Ready."""
    image = "quay.io/test/aws-node:1"
    plane.images.add(image)
    labels = {"k8s-app": "aws-node"}
    pod = {
        "hostNetwork": True,
        "tolerations": [{"operator": "Exists"}],
        "containers": [{"name": "aws-node", "image": image}],
    }
    plane.api.create(
        "/apis/apps/v1/namespaces/kube-system/daemonsets",
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "aws-node"},
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
        },
    )
    eventually(lambda: any(node.ready for node in plane.kubectl.nodes()))


def eventually(what: Callable[[], bool], *, limit_s: float = 60) -> None:
    """Wait until it is so."""
    ends = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < ends, "did not come to pass"
        time.sleep(0.3)


def _instance(facts: KubernetesFacts) -> Instance:
    cluster = {
        "name": "c1",
        "endpoint": facts.endpoint,
        "certificateAuthority": facts.certificate_authority,
        "serviceCidr": facts.service_cidr,
    }
    site = make_site(cluster=cluster, nodeGroups=[group_document(role=ROLE)])
    return Instance(
        id="i-00000001",
        zone="eu-central-1a",
        region="eu-central-1",
        private_dns_name="ip-10-0-0-1.eu-central-1.compute.internal",
        private_address="10.0.0.1",
        type="m6i.large",
        architecture="amd64",
        user_data=user_data(site, site.node_groups[0]),
        role_arn=ROLE,
        cpus=2,
        memory_mib=8192,
        pods=29,
    )
