"""What a node is told, whatever its operating system: complete, and without a character that a shell reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from bundler.domain.partition import DNS_SUFFIXES
from bundler.domain.site import NodeGroup, Site, Taint
from bundler.errors import DefinitionError

GROUP_LABEL = "bundle.node-group"
_PLAIN = re.compile(r"[A-Za-z0-9@%+=:,./_\[\]-]*")
_ALWAYS_DIRECT = (
    "localhost",
    "127.0.0.1",
    "::1",
    "169.254.169.254",
    "fd00:ec2::254",
    ".internal",
    ".svc",
    ".cluster.local",
)
_NODE_SERVICES = ("ec2", "sts", "eks", "eks-auth", "api.ecr", "dkr.ecr", ".dkr.ecr", "s3", ".s3")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyFacts:
    """How a node reaches what has no VPC endpoint.

    Attributes:
        http: for plain HTTP, None where only TLS goes through a proxy.
        bypass: what is never asked through it, in the words of NO_PROXY.
    """

    https: str
    http: str | None = None
    bypass: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """Everything that user data says. Nothing in it is empty, so that no node asks the EKS API.

    Attributes:
        cluster: its name, which is signed into every token of the node.
        authority: base64 of PEM, as EKS gives it.
        dns_address: of cluster DNS, an address of `service_cidr`.
        labels: with the one that names the node group.
        named_by_id: whether the node is called by its instance id, else by its private DNS name.
    """

    cluster: str
    endpoint: str
    authority: str
    service_cidr: str
    dns_address: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    max_pods: int | None = None
    named_by_id: bool = False
    proxy: ProxyFacts | None = None


def node_settings(site: Site, group: NodeGroup) -> NodeSettings:
    """Return what the nodes of a group are told.

    Raises:
        DefinitionError: a fact is missing, or is not made of plain characters. No site file comes so far with either;
            sites that are made otherwise could.
    """
    _refuse_missing(site)
    cluster = site.cluster
    facts = NodeSettings(
        cluster=cluster.name,
        endpoint=cluster.endpoint.rstrip("/"),
        authority=cluster.certificate_authority,
        service_cidr=cluster.service_cidr,
        dns_address=cluster.dns_address,
        labels=dict(sorted({**group.labels, GROUP_LABEL: group.name}.items())),
        taints=group.taints,
        max_pods=group.max_pods,
        named_by_id=group.instance_id_node_name,
        proxy=_proxy(site),
    )
    _refuse_shell(group, facts)
    return facts


def taint_flag(taint: Taint) -> str:
    """Return a taint as the kubelet takes it."""
    return f"{taint.key}={taint.value}:{taint.effect}"


def kubelet_flags(facts: NodeSettings) -> list[str]:
    """Return the flags by which a kubelet registers with labels and taints."""
    flags = ["--node-labels=" + ",".join(f"{key}={value}" for key, value in facts.labels.items())]
    if facts.taints:
        flags.append("--register-with-taints=" + ",".join(map(taint_flag, facts.taints)))
    return flags


def _proxy(site: Site) -> ProxyFacts | None:
    if site.proxy is None:
        return None
    bypass = dict.fromkeys((*_direct(site), *site.proxy.no_proxy))
    return ProxyFacts(https=site.proxy.https_proxy, http=site.proxy.http_proxy, bypass=tuple(bypass))


def _direct(site: Site) -> Iterator[str]:
    """Yield what a node must reach without the proxy: the cluster, IMDS, and what the guide wants VPC endpoints for."""
    suffix = DNS_SUFFIXES[site.partition]
    yield from _ALWAYS_DIRECT
    yield urlsplit(site.cluster.endpoint).hostname or ""
    yield site.cluster.service_cidr
    yield f".eks.{suffix}"
    for service in _NODE_SERVICES:
        yield f"{service}.{site.region}.{suffix}"


def _refuse_missing(site: Site) -> None:
    cluster = site.cluster
    facts = {
        "name": cluster.name,
        "endpoint": cluster.endpoint,
        "certificateAuthority": cluster.certificate_authority,
        "serviceCidr": cluster.service_cidr,
    }
    missing = [name for name, value in facts.items() if not value]
    if missing:
        raise DefinitionError(
            "site: cluster",
            f"lacks {', '.join(missing)}; without it a node would ask the EKS API, or never start",
            hint=f"Take it from: aws eks describe-cluster --name {cluster.name}",
        )


def _refuse_shell(group: NodeGroup, facts: NodeSettings) -> None:
    for name, value in _texts(facts):
        if not _PLAIN.fullmatch(value):
            raise DefinitionError(
                f"node group {group.name}",
                f"{name} has a character that a shell or a document could read: {value[:80]!r}",
                hint="Use letters, digits and @ % + = : , . / _ - alone.",
            )


def _texts(facts: NodeSettings) -> Iterator[tuple[str, str]]:
    yield "cluster.name", facts.cluster
    yield "cluster.endpoint", facts.endpoint
    yield "cluster.certificateAuthority", facts.authority
    yield "cluster.serviceCidr", facts.service_cidr
    for key, value in facts.labels.items():
        yield "labels", f"{key}={value}"
    for taint in facts.taints:
        yield "taints", taint_flag(taint)
    if facts.proxy is not None:
        for text in (facts.proxy.https, facts.proxy.http or "", *facts.proxy.bypass):
            yield "proxy", text
