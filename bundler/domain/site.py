"""`site.yaml`: where a bundle goes (docs/formats.md; `bundle schema site` prints its schema)."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from bundler.domain.core import DNS_ADDRESS
from bundler.domain.document import Document, validate
from bundler.domain.partition import DNS_SUFFIXES, refuse_other_partition
from bundler.domain.proxy import Proxy, is_plain_host
from bundler.domain.repository import MAX_PREFIX
from bundler.domain.schema import (
    Account,
    AmiId,
    Flag,
    InstanceType,
    KubernetesVersion,
    Line,
    Name,
    Partition,
    Region,
    SecurityGroupId,
    Strict,
    SubnetId,
    refuse_secrets,
    without_null,
)

Arn = Annotated[
    str,
    StringConstraints(pattern=r"^arn:aws[a-z-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]{0,12}:[^\s]+$", max_length=2048),
]
_LABEL_KEY = r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_RESERVED = ("kubernetes.io", "k8s.io")
_OURS_TO_SET = ("kubelet.kubernetes.io", "node.kubernetes.io")
LabelKey = Annotated[str, StringConstraints(pattern=rf"^{_LABEL_KEY}$")]
LabelValue = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$")]
_PEM = re.compile(rb"\A-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\r\n]+-----END CERTIFICATE-----\s*\Z")
MAX_CA_BYTES = 16 << 10
VpcId = Annotated[str, StringConstraints(pattern=r"^vpc-[0-9a-f]{8,17}$")]


def _endpoint(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("must be https://HOST[:PORT] and nothing more")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user name or password")
    if not is_plain_host(parts.hostname):
        raise ValueError("must name its host with letters, digits, dots and hyphens alone")
    if parts.port == 0:  # reading it also refuses what is no port
        raise ValueError("must have a port from 1 to 65535")
    if _is_link_local(parts.hostname):
        raise ValueError(f"{parts.hostname} is a link-local address, never a cluster")
    return url.rstrip("/")


def _is_link_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_link_local
    except ValueError:
        return False


def _authority(text: str) -> str:
    """Check that `text` is base64 of one PEM certificate, as EKS gives it."""
    try:
        pem = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64 of a PEM certificate, as eks:DescribeCluster gives it") from None
    if len(pem) > MAX_CA_BYTES or pem.count(b"-----BEGIN CERTIFICATE-----") != 1 or not _PEM.match(pem):
        raise ValueError("is not base64 of exactly one PEM certificate")
    return text


def _host_port(text: str) -> str:
    if not 0 < int(text.rpartition(":")[2]) < 1 << 16:
        raise ValueError("must have a port from 1 to 65535")
    return text


def _service_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be a URL such as https://vpce-0123-abcd.ec2.eu-central-1.vpce.amazonaws.com")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user name or password")
    if parts.port == 0:  # reading it also refuses what is no port
        raise ValueError("must have a port from 1 to 65535")
    return url


ServiceUrl = Annotated[str, StringConstraints(max_length=500, pattern=r"^\S+$"), AfterValidator(_service_url)]
HostPort = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]{1,253}:[0-9]{1,5}$"), AfterValidator(_host_port)]


def _network(text: str) -> str:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise ValueError("is not a network such as 10.100.0.0/16") from None
    if network.num_addresses <= DNS_ADDRESS:
        raise ValueError(f"is too small: cluster DNS has address {DNS_ADDRESS} of it")
    return str(network)


class Cluster(Strict):
    """Facts of the cluster, so that no node and no install asks the EKS API for them."""

    name: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z][A-Za-z0-9_-]{0,99}$")]
    endpoint: Annotated[str, StringConstraints(max_length=500, pattern=r"^\S+$"), AfterValidator(_endpoint)]
    certificate_authority: Annotated[str, AfterValidator(_authority)]
    service_cidr: Annotated[str, AfterValidator(_network)]
    version: KubernetesVersion | None = None

    @property
    def ca_pem(self) -> bytes:
        """The certificate authority as PEM."""
        return base64.b64decode(self.certificate_authority)

    @property
    def dns_address(self) -> str:
        """The address of cluster DNS."""
        return str(ipaddress.ip_network(self.service_cidr)[DNS_ADDRESS])


class RegistrySettings(Strict):
    """Private ECR: everything is pushed below `prefix`."""

    prefix: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+([._/-][a-z0-9]+)*$", max_length=MAX_PREFIX)]
    create_repositories: Flag = True
    immutable: Flag = True
    scan_on_push: Flag = False
    kms_key: Arn | None = None


class Volume(Strict):
    """Volume of a node, for its images and pods: gp3, encrypted."""

    size_gib: int = Field(default=40, ge=8, le=16384, alias="sizeGiB")
    kms_key: Arn | None = None


NodeOs = Literal["al2023", "bottlerocket", "al2"]


class Taint(Strict):
    """A Kubernetes taint."""

    key: LabelKey
    value: LabelValue = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class NodeGroup(Strict):
    """One Auto Scaling group and its launch template."""

    name: Name
    os: NodeOs = Field(default="al2023", description="of the AMI; decides what user data looks like")
    architecture: Literal["amd64", "arm64"] = "amd64"
    ami: AmiId | Name = Field(description="an AMI of the account by id, or one of the bundle by its name")
    instance_type: InstanceType
    min_size: int = Field(ge=0, le=5000)
    max_size: int = Field(ge=0, le=5000)
    desired_size: int = Field(ge=0, le=5000)
    subnets: tuple[SubnetId, ...] = Field(default=(), description="default: the site's subnets")
    security_groups: tuple[SecurityGroupId, ...] = Field(min_length=1)
    role: Arn
    instance_profile: Arn
    volume: Volume = Volume()
    hop_limit: int = Field(default=1, ge=1, le=64)
    key_pair: Line | None = None
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    max_pods: int | None = Field(default=None, ge=4, le=1000)
    instance_id_node_name: Flag = Field(
        default=False, description="nodes are called by their instance id; the role gets an access entry of type EC2"
    )

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if not self.min_size <= self.desired_size <= self.max_size:
            raise ValueError("minSize <= desiredSize <= maxSize does not hold")
        return self

    @model_validator(mode="after")
    def _naming(self) -> Self:
        if self.os == "al2" and self.instance_id_node_name:
            raise ValueError("instanceIdNodeName: bootstrap.sh of Amazon Linux 2 names nodes by their private DNS name")
        return self

    @model_validator(mode="after")
    def _labels(self) -> Self:
        refused = [key for key in self.labels if _is_reserved(key)]
        if refused:
            cause = f"the kubelet does not start with the labels {', '.join(refused)}; labels below kubernetes.io and"
            raise ValueError(f"{cause} k8s.io are the control plane's: use another prefix")
        return self


def _is_reserved(key: str) -> bool:
    namespace, slash, _ = key.rpartition("/")
    return bool(slash) and _is_below(namespace, _RESERVED) and not _is_below(namespace, _OURS_TO_SET)


def _is_below(namespace: str, tops: tuple[str, ...]) -> bool:
    return any(namespace == top or namespace.endswith(f".{top}") for top in tops)


class Endpoints(Strict):
    """Overrides for VPC endpoints without private DNS; a URL with botocore's meaning, but for `ecr.dkr`.

    `ecr.dkr` is host:port and changes the TCP address only: TLS, SNI, Host, tokens and every reference keep the
    registry's own name.
    """

    ec2: ServiceUrl | None = None
    sts: ServiceUrl | None = None
    s3: ServiceUrl | None = None
    eks: ServiceUrl | None = None
    autoscaling: ServiceUrl | None = None
    iam: ServiceUrl | None = Field(default=None, description="without it IAM is not asked: closed VPCs seldom reach it")
    ebs: ServiceUrl | None = None
    ecr_api: ServiceUrl | None = Field(default=None, alias="ecr.api")
    ecr_dkr: HostPort | None = Field(default=None, alias="ecr.dkr")


class StateSettings(Strict):
    """Where the journal is mirrored and the install lock is held: s3://bucket/prefix."""

    s3: Annotated[str, StringConstraints(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s]*)?$")]


class Restore(Strict):
    """How the AMIs of the bundle come into the account.

    `ebs-direct` writes their blocks, and asks nothing outside. `copy` copies the AMI that was built, `share` uses it
    where it is: both need its account and Region to be reachable and to have shared it with this one.
    """

    route: Literal["ebs-direct", "copy", "share"] = "ebs-direct"
    kms_key: Arn | None = Field(default=None, description="encrypts the snapshots; default: the account's own rule")

    @model_validator(mode="after")
    def _own(self) -> Self:
        if self.route == "share" and self.kms_key is not None:
            raise ValueError(
                "kmsKey: the route share uses the AMI as it was built; take copy or ebs-direct to encrypt it"
            )
        return self


class Site(Strict):
    """One closed VPC with its cluster, registry and node groups."""

    api_version: Literal["eks-bundler/v1"]
    kind: Literal["Site"]
    account: Account
    region: Region
    partition: Partition = "aws"
    vpc: VpcId
    subnets: tuple[SubnetId, ...] = Field(min_length=1)
    cluster: Cluster
    registry: RegistrySettings
    endpoints: Endpoints = Endpoints()
    core: Literal["adopt", "keep", "stop"] = "adopt"
    access_entries: Literal["ensure", "existing"] = Field(
        default="ensure", description="existing: made outside, the EKS API is not asked"
    )
    state: StateSettings | None = None
    restore: Restore = Restore()
    proxy: Proxy | None = Field(default=None, description="the network profile proxy; without it the VPC is closed")
    node_groups: tuple[NodeGroup, ...] = ()

    @model_validator(mode="after")
    def _names(self) -> Self:
        if self.partition not in DNS_SUFFIXES:
            raise ValueError(f"partition: must be one of {', '.join(DNS_SUFFIXES)}")
        refuse_other_partition(self.region, self.partition)
        names = [group.name for group in self.node_groups]
        if len(names) != len(set(names)):
            raise ValueError("nodeGroups: a name stands twice")
        return self

    @model_validator(mode="after")
    def _legacy(self) -> Self:
        """Refuse for Amazon Linux 2 what only a shell script of our own could do there: it is legacy."""
        old = [group.name for group in self.node_groups if group.os == "al2"]
        if old and self.proxy is not None:
            cause = "bootstrap.sh takes no proxy, only a shell script of our own could set one"
            raise ValueError(f"nodeGroups: {', '.join(old)}: os al2 and proxy exclude each other: {cause}")
        if old and ipaddress.ip_network(self.cluster.service_cidr).version == 6:
            raise ValueError(f"nodeGroups: {', '.join(old)}: os al2 is for Services with IPv4 addresses only")
        return self

    @model_validator(mode="after")
    def _entries(self) -> Self:
        """A role has one access entry, and its type decides what its nodes may be called."""
        by_id = {group.role for group in self.node_groups if group.instance_id_node_name}
        by_name = {group.role for group in self.node_groups if not group.instance_id_node_name}
        if by_id & by_name:
            raise ValueError(
                f"nodeGroups: {', '.join(sorted(by_id & by_name))}: groups with and without instanceIdNodeName need "
                "roles of their own, because the type of the role's access entry decides how its nodes are called"
            )
        return self

    @property
    def registry_host(self) -> str:
        """The private registry's own name; EKS credential providers match nothing else."""
        return f"{self.account}.dkr.ecr.{self.region}.{DNS_SUFFIXES[self.partition]}"


def parse_site(document: Document) -> Site:
    """Return the site in `document`.

    Raises:
        DefinitionError: with file:line:column.
        PolicyError: a literal credential stands in it.
    """
    refuse_secrets(document)  # first, because other errors repeat what they refuse
    return validate(document, Site)


def site_schema() -> dict[str, Any]:
    """Return the JSON Schema of `site.yaml`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **without_null(Site.model_json_schema(by_alias=True)),
    }
