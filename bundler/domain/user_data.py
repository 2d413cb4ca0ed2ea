"""User data of an AL2023 node: one NodeConfig in MIME, written by a JSON emitter and never by a text template.

With name, endpoint, CA and service CIDR given, no node asks the EKS API (amazon-eks-ami, nodeadm: all four are
required). JSON is YAML, and escapes what could end a line or a MIME part.
"""

from __future__ import annotations

import json

from bundler.domain.site import Cluster, NodeGroup, Taint
from bundler.errors import DefinitionError

MAX_USER_DATA_BYTES = 16 << 10  # EC2 takes no more, counted before base64
API_VERSION = "node.eks.aws/v1alpha1"
MEDIA_TYPE = "application/node.eks.aws"
GROUP_LABEL = "bundle.node-group"
_BOUNDARY = "BUNDLE"


def node_config(cluster: Cluster, group: NodeGroup) -> bytes:
    """Return the user data of the nodes of a group, as the instance sees it (not base64).

    Raises:
        DefinitionError: a fact of the cluster is missing, or labels and taints make it more than 16 KiB.
    """
    document = {
        "apiVersion": API_VERSION,
        "kind": "NodeConfig",
        "spec": {"cluster": _cluster(cluster), "kubelet": _kubelet(group)},
    }
    config = json.dumps(document, indent=2)
    text = (
        "MIME-Version: 1.0\n"
        f'Content-Type: multipart/mixed; boundary="{_BOUNDARY}"\n\n'
        f"--{_BOUNDARY}\nContent-Type: {MEDIA_TYPE}\n\n{config}\n--{_BOUNDARY}--\n"
    )
    raw = text.encode("ascii")
    if len(raw) > MAX_USER_DATA_BYTES:
        cause = f"its user data has {len(raw)} bytes, EC2 takes {MAX_USER_DATA_BYTES}"
        raise DefinitionError(f"node group {group.name}", cause, hint="Give it fewer labels and taints.")
    return raw


def _cluster(cluster: Cluster) -> dict[str, str]:
    facts = {
        "name": cluster.name,
        "apiServerEndpoint": cluster.endpoint.rstrip("/"),
        "certificateAuthority": cluster.certificate_authority,
        "cidr": cluster.service_cidr,
    }
    missing = [name for name, value in facts.items() if not value]
    if missing:
        raise DefinitionError(
            "site: cluster",
            f"lacks {', '.join(missing)}; without it a node would ask the EKS API, or never start",
            hint=f"Take it from: aws eks describe-cluster --name {cluster.name}",
        )
    return facts


def _kubelet(group: NodeGroup) -> dict[str, object]:
    labels = {**group.labels, GROUP_LABEL: group.name}
    flags = ["--node-labels=" + ",".join(f"{key}={value}" for key, value in sorted(labels.items()))]
    if group.taints:
        flags.append("--register-with-taints=" + ",".join(_taint(taint) for taint in group.taints))
    kubelet: dict[str, object] = {"flags": flags}
    if group.max_pods is not None:
        kubelet["config"] = {"maxPods": group.max_pods}
    return kubelet


def _taint(taint: Taint) -> str:
    return f"{taint.key}={taint.value}:{taint.effect}"
