"""The lab's node agent: turns instances into nodes of the cluster, as far as a node that boots would get.

Nodes and pods are kwok's: status only, no containers. What decides whether they come to life is real: user data, access
entry, the network plugin, and whether the registry holds the images.
"""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundler.domain.core import DNS_ADDRESS
from bundler.errors import AccessError, BundleError, FormatError
from bundler.lab.eks_tokens import AccessEntry, find_entry
from bundler.lab.instances import Instance
from bundler.lab.kube_api import KubeAnswerError
from bundler.lab.kubelet_flags import Taint, parse_flags
from bundler.lab.kubernetes import NETWORK_CONDITION, PULLED_CONDITION, STAND_IN, KubernetesFacts
from bundler.lab.node_facts import NodeFacts
from bundler.lab.user_data import parse_user_data

POLL_S = 0.5
NODE_ENTRY, NODE_BY_ID_ENTRY = "EC2_LINUX", "EC2"
STAND_IN_NOTE = ("lab.eks-bundler.io/stand-in", "status only, no containers")
NETWORK_PLUGIN = "aws-node"
_NODES = "/api/v1/nodes"
_NO_NETWORK = (
    "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady "
    "message:Network plugin returns error: cni plugin not initialized"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the agent looks at.

    Attributes:
        instances: returns the running instances of Auto Scaling groups.
        entries: returns the cluster's access entries.
        image_exists: whether the private registry holds what an image reference names.
    """

    instances: Callable[[], Iterable[Instance]]
    entries: Callable[[], Iterable[AccessEntry]]
    image_exists: Callable[[str], bool]


class NodeAgent:
    """Polls instances and pods in a thread of its own, and says in its log why an instance does not join."""

    def __init__(self, cluster_name: str, facts: KubernetesFacts, around: Surroundings, *, log: Path) -> None:
        """Prepare an agent for nodes of the cluster `cluster_name`; each reason goes into `log` once."""
        self._cluster_name = cluster_name
        self._facts = facts
        self._around = around
        self._log = log
        self._said: set[tuple[str, str]] = set()
        self._api = facts.admin_api()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="nodes", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; nodes stay as they are."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._api.close()

    def _poll(self) -> None:
        while not self._ended.wait(POLL_S):
            try:
                self.look()
            except KubeAnswerError as error:
                self._say("agent", str(error))

    def look(self) -> None:
        """Compare instances, nodes and pods once, and do what a node would do next."""
        instances = {instance.id: instance for instance in self._around.instances()}
        nodes = {_instance_id(node): node for node in self._stand_ins()}
        for instance in instances.values():
            if instance.id not in nodes:
                self._join(instance)
        for instance_id, node in nodes.items():
            if instance_id not in instances:
                self._remove(node)
        names = {node["metadata"]["name"] for node in nodes.values()}
        self._start_network([node for node in nodes.values() if _condition(node, NETWORK_CONDITION) != "True"])
        self._pull(names)

    def _stand_ins(self) -> list[dict[str, Any]]:
        key, _, value = STAND_IN.partition("=")
        nodes = self._api.get(_NODES)["items"]
        return [node for node in nodes if node["metadata"].get("annotations", {}).get(key) == value]

    def _join(self, instance: Instance) -> None:
        try:
            entries = self._around.entries()
            node = plan_node(instance, cluster_name=self._cluster_name, facts=self._facts, entries=entries)
            self._api.create(_NODES, node)
        except BundleError as error:
            self._say(instance.id, f"did not join: {error}")
        else:
            self._say(instance.id, f"joined as {node['metadata']['name']} ({STAND_IN_NOTE[1]})")

    def _remove(self, node: Mapping[str, Any]) -> None:
        """Do what the cloud's and the garbage collector's controllers do when an instance is gone."""
        name = node["metadata"]["name"]
        for pod in self._api.get("/api/v1/pods", fieldSelector=f"spec.nodeName={name}")["items"]:
            self._api.delete(_pod_path(pod))
        self._api.delete(f"{_NODES}/{name}")
        self._say(_instance_id(node), f"is gone; {name} deleted")

    def _start_network(self, waiting: list[dict[str, Any]]) -> None:
        """Let a node become Ready once the network plugin runs on it."""
        if not waiting:
            return
        pods = self._api.get("/api/v1/namespaces/kube-system/pods")["items"]
        served = {pod["spec"].get("nodeName") for pod in pods if _is_network_plugin(pod)}
        for node in waiting:
            name = node["metadata"]["name"]
            if name in served:
                condition = {"type": NETWORK_CONDITION, "status": "True", "reason": "NetworkPluginReady"}
                self._api.patch(f"{_NODES}/{name}/status", {"status": {"conditions": [condition]}})

    def _pull(self, nodes: set[str]) -> None:
        """Look up the images of pods that wait on our nodes; a registry that gets one later serves it then."""
        for pod in self._api.get("/api/v1/pods", fieldSelector="status.phase=Pending")["items"]:
            if pod["spec"].get("nodeName") not in nodes or "deletionTimestamp" in pod["metadata"]:
                continue
            missing = [image for image in _images(pod) if not self._around.image_exists(image)]
            status = "False" if missing else "True"
            if _condition(pod, PULLED_CONDITION) != status:
                self._tell_pulled(pod, status, missing)

    def _tell_pulled(self, pod: Mapping[str, Any], status: str, missing: list[str]) -> None:
        condition = {
            "type": PULLED_CONDITION,
            "status": status,
            "reason": "ImagePullBackOff" if missing else "Pulled",
            "message": f"not in the private registry: {', '.join(missing)}" if missing else "",
        }
        try:
            self._api.patch(f"{_pod_path(pod)}/status", {"status": {"conditions": [condition]}})
        except KubeAnswerError as error:
            if error.status != 404:  # it may have been deleted since we looked
                raise

    def _say(self, who: str, what: str) -> None:
        if (who, what) in self._said:
            return
        self._said.add((who, what))
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ} {who} {what}\n")


def plan_node(
    instance: Instance, *, cluster_name: str, facts: KubernetesFacts, entries: Iterable[AccessEntry]
) -> dict[str, Any]:
    """Return the node that an instance registers.

    Raises:
        FormatError: its user data is none that a node could use, or not this cluster's.
        AccessError: the cluster would not let it in.
    """
    config = parse_user_data(instance.user_data)
    _check_cluster(config, facts)
    _check_access(instance, config, cluster_name=cluster_name, entries=entries)
    return _node(instance, config, facts.version)


def _check_cluster(config: NodeFacts, facts: KubernetesFacts) -> None:
    if config.endpoint.rstrip("/") != facts.endpoint:
        raise FormatError(
            "user data", f"endpoint {config.endpoint[:200]!r} is not this cluster's: dial tcp: i/o timeout"
        )
    if _der(config.authority_pem) != _der(facts.ca_file.read_bytes()):
        raise FormatError("user data", "certificateAuthority: x509: certificate signed by unknown authority")
    if config.cidr is not None and config.cidr != facts.service_cidr:
        raise FormatError("user data", f"cidr {config.cidr[:50]!r} is not this cluster's {facts.service_cidr}")
    dns_address = str(ipaddress.ip_network(facts.service_cidr)[DNS_ADDRESS])
    if config.dns_address is not None and config.dns_address != dns_address:
        raise FormatError("user data", f"cluster DNS {config.dns_address[:50]!r} is not this cluster's {dns_address}")


def _check_access(instance: Instance, config: NodeFacts, *, cluster_name: str, entries: Iterable[AccessEntry]) -> None:
    if config.name != cluster_name:
        raise AccessError("kubelet", f"Unauthorized: token is signed for cluster {config.name[:100]!r}")
    if instance.role_arn is None:
        raise AccessError("kubelet", "no credentials: the instance has no instance profile with a role")
    entry = find_entry(instance.role_arn, entries)
    wanted = NODE_BY_ID_ENTRY if config.named_by_id else NODE_ENTRY
    if entry is None or entry.type != wanted:
        raise AccessError("kubelet", f"Unauthorized: no access entry of type {wanted} for {instance.role_arn}")


def _node(instance: Instance, config: NodeFacts, version: str) -> dict[str, Any]:
    registration = parse_flags(config.flags)
    name = instance.id if config.named_by_id else instance.private_dns_name
    key, _, value = STAND_IN.partition("=")
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {**registration.labels, **_labels(instance, name)},
            "annotations": {key: value, STAND_IN_NOTE[0]: STAND_IN_NOTE[1]},
        },
        "spec": {
            "providerID": f"aws:///{instance.zone}/{instance.id}",
            "taints": [_taint(taint) for taint in registration.taints],
        },
        "status": _status(instance, config, version),
    }


def _labels(instance: Instance, name: str) -> dict[str, str]:
    return {
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": instance.architecture,
        "kubernetes.io/hostname": name,
        "node.kubernetes.io/instance-type": instance.type,
        "topology.kubernetes.io/region": instance.region,
        "topology.kubernetes.io/zone": instance.zone,
    }


def _taint(taint: Taint) -> dict[str, str]:
    return {"key": taint.key, "value": taint.value, "effect": taint.effect}


def _status(instance: Instance, config: NodeFacts, version: str) -> dict[str, Any]:
    resources = {
        "cpu": str(instance.cpus),
        "memory": f"{instance.memory_mib}Mi",
        "pods": str(instance.pods if config.max_pods is None else config.max_pods),
    }
    not_ready = {"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": _NO_NETWORK}
    return {
        "capacity": resources,
        "allocatable": resources,
        "addresses": [
            {"type": "InternalIP", "address": instance.private_address},
            {"type": "InternalDNS", "address": instance.private_dns_name},
            {"type": "Hostname", "address": instance.private_dns_name},
        ],
        "conditions": [not_ready],
        "nodeInfo": {
            "architecture": instance.architecture,
            "operatingSystem": "linux",
            "osImage": f"lab stand-in ({STAND_IN_NOTE[1]})",
            "containerRuntimeVersion": "kwok://none",
            "kernelVersion": "none",
            "kubeletVersion": version,
            "kubeProxyVersion": version,
            "machineID": instance.id,
            "systemUUID": instance.id,
            "bootID": instance.id,
        },
    }


def _instance_id(node: Mapping[str, Any]) -> str:
    return str(node["spec"].get("providerID", "")).rpartition("/")[2]


def _condition(thing: Mapping[str, Any], kind: str) -> str | None:
    conditions = thing.get("status", {}).get("conditions", [])
    return next((condition["status"] for condition in conditions if condition["type"] == kind), None)


def _is_network_plugin(pod: Mapping[str, Any]) -> bool:
    owners = pod["metadata"].get("ownerReferences", [])
    owned = any(owner["kind"] == "DaemonSet" and owner["name"] == NETWORK_PLUGIN for owner in owners)
    return owned and _condition(pod, "Ready") == "True"


def _images(pod: Mapping[str, Any]) -> list[str]:
    spec = pod["spec"]
    return [container["image"] for container in (*spec.get("initContainers", ()), *spec["containers"])]


def _pod_path(pod: Mapping[str, Any]) -> str:
    metadata = pod["metadata"]
    return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"


def _der(pem: bytes) -> bytes:
    """Return what stands between a PEM's lines, so that line ends do not matter."""
    body = b"".join(line for line in pem.splitlines() if not line.startswith(b"-----"))
    try:
        return base64.b64decode(body)
    except ValueError:
        return pem
