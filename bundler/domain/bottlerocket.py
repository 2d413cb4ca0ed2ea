"""User data of a Bottlerocket node: its settings as TOML.

With `cluster-dns-ip` given, pluto asks the EKS API for nothing; with names by instance id, EC2 for nothing either
(bottlerocket-core-kit, sources/api/pluto). The pause image is part of the operating system. The control container is
off, because it would be pulled from an ECR of AWS's at the first boot, and metrics are off, because they go to the
internet. A proxy for plain HTTP is not among the settings.
"""

from __future__ import annotations

from bundler.domain.node_settings import NodeSettings, ProxyFacts
from bundler.domain.site import Taint
from bundler.domain.toml import toml


def bottlerocket_settings(facts: NodeSettings) -> bytes:
    """Return the user data of a node, as the instance sees it (not base64)."""
    settings: dict[str, object] = {
        "kubernetes": _kubernetes(facts),
        "metrics": {"send-metrics": False},
        "host-containers": {"control": {"enabled": False}},
    }
    if facts.proxy is not None:
        settings["network"] = _network(facts.proxy)
    return toml({"settings": settings}).encode()


def _kubernetes(facts: NodeSettings) -> dict[str, object]:
    kubernetes: dict[str, object] = {
        "cluster-name": facts.cluster,
        "api-server": facts.endpoint,
        "cluster-certificate": facts.authority,
        "cluster-dns-ip": facts.dns_address,
    }
    if facts.named_by_id:
        kubernetes["hostname-override-source"] = "instance-id"
    if facts.max_pods is not None:
        kubernetes["max-pods"] = facts.max_pods
    kubernetes["node-labels"] = facts.labels
    if facts.taints:
        kubernetes["node-taints"] = _taints(facts.taints)
    return kubernetes


def _taints(taints: tuple[Taint, ...]) -> dict[str, list[str]]:
    keys = sorted({taint.key for taint in taints})
    return {key: [f"{taint.value}:{taint.effect}" for taint in taints if taint.key == key] for key in keys}


def _network(proxy: ProxyFacts) -> dict[str, object]:
    return {"https-proxy": proxy.https, "no-proxy": list(proxy.bypass)}
