"""The core set: which object each component is in the cluster, and which of its values only the site knows."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

DNS_ADDRESS = 10
"""Which address of the Service network is cluster DNS (EKS user guide, "Amazon EKS networking requirements")."""
CORE_NAMESPACE = "kube-system"
CORE_OBJECTS: Mapping[str, tuple[str, str]] = {
    "aws-vpc-cni": ("DaemonSet", "aws-node"),
    "kube-proxy": ("DaemonSet", "kube-proxy"),
    "coredns": ("Deployment", "coredns"),
    "eks-pod-identity-agent": ("DaemonSet", "eks-pod-identity-agent"),
}
"""Release -> kind and name of the object that EKS itself makes for this component in kube-system."""

UNKNOWN_ENDPOINT = "https://cluster.invalid"
UNKNOWN_SERVICE_CIDR = "10.100.0.0/16"
"""What stands for the site's facts where only images are looked for."""


def site_values(release: str, *, endpoint: str, service_cidr: str) -> dict[str, object]:
    """Return the values of a core release that follow from the cluster; the definition's own go over them.

    kube-proxy needs the API server's own address, because it makes the Service addresses; CoreDNS needs the one
    that kubelets tell pods.
    """
    if release == "kube-proxy":
        return {"clusterEndpoint": endpoint}
    if release == "coredns":
        return {"service": {"clusterIP": str(ipaddress.ip_network(service_cidr)[DNS_ADDRESS])}}
    return {}
