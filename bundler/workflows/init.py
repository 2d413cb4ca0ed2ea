"""`bundle init`: a preset -> the text of a commented bundle.yaml."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template

from bundler.domain.oci import Platform
from bundler.domain.preset import Presets
from bundler.errors import UsageError

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class InitRequest:
    """What a first definition is for; without a partition it is the one that the Region is in."""

    name: str
    kubernetes_version: str
    region: str
    partition: str | None
    platforms: Sequence[Platform]


def initial_definition(request: InitRequest, *, presets: Presets, template: str) -> str:
    """Return a bundle.yaml with the core set of a Kubernetes version and with comments.

    A tag that no source gives stands there as the placeholder that `parse_definition` refuses.

    Raises:
        UsageError: no such Kubernetes version or Region is known, no platform, or not a name.
    """
    if not _NAME.match(request.name):
        raise UsageError(repr(request.name), "is not a name: lower-case letters, digits and inner hyphens, at most 53")
    if not request.platforms:
        raise UsageError("platforms", "name at least one, such as linux/amd64")
    choice = {
        "name": request.name,
        "kubernetes_version": request.kubernetes_version,
        "platforms": ", ".join(str(platform) for platform in request.platforms),
    }
    versions = _versions(presets, request.kubernetes_version)
    return Template(template).substitute(choice | versions | _origin(presets, request.region, request.partition))


def _versions(presets: Presets, kubernetes_version: str) -> dict[str, str]:
    core, version = presets.core, presets.version(kubernetes_version)
    return {
        "kube_proxy": version.kube_proxy,
        "coredns": version.coredns,
        "coredns_chart": core.charts.coredns,
        "vpc_cni_chart": core.charts.aws_vpc_cni,
        "metrics_server_chart": core.charts.metrics_server,
        "pause": str(core.pause),
        "helm": core.helm.version,
        "helm_amd64": core.helm.amd64,
        "helm_arm64": core.helm.arm64,
        "kubectl": version.kubectl.version,
        "kubectl_amd64": version.kubectl.amd64,
        "kubectl_arm64": version.kubectl.arm64,
    }


def _origin(presets: Presets, region: str, partition: str | None) -> dict[str, str]:
    registry = presets.registry(region, partition)
    return {
        "region": region,
        "partition": registry.partition,
        "account": registry.account,
        "domain": registry.domain,
        "registry": registry.host,
    }
