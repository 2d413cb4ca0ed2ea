"""`bundle init`: a preset -> the text of a commented bundle.yaml."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import Template

from bundler.adapters.documents import read_document
from bundler.data import data_folder
from bundler.domain.oci import Platform
from bundler.domain.preset import Presets, parse_presets
from bundler.errors import UsageError

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?\Z")


def initial_definition(
    *, kubernetes_version: str, region: str, partition: str | None, platforms: Sequence[Platform], name: str
) -> str:
    """Return a bundle.yaml with the core set of a Kubernetes version and with comments.

    A tag that no source gives stands there as the placeholder that `parse_definition` refuses. Without a partition,
    it is the one that the Region is in.

    Raises:
        UsageError: no such Kubernetes version or Region is known, no platform, or not a name.
    """
    if not _NAME.match(name):
        raise UsageError(repr(name), "is not a name: lower-case letters, digits and inner hyphens, at most 53")
    if not platforms:
        raise UsageError("platforms", "name at least one, such as linux/amd64")
    presets = read_presets()
    template = Template((data_folder("manifests") / "presets" / "bundle.yaml.template").read_text("utf-8"))
    choice = {
        "name": name,
        "kubernetes_version": kubernetes_version,
        "platforms": ", ".join(str(platform) for platform in platforms),
    }
    return template.substitute(choice | _versions(presets, kubernetes_version) | _origin(presets, region, partition))


def read_presets() -> Presets:
    """Return the presets of this installation."""
    folder = data_folder("manifests") / "presets"
    return parse_presets(read_document(folder / "core.yaml"), read_document(folder / "registries.yaml"))


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
