"""`bundle.yaml`: what goes into the bundle (docs/formats.md; `bundle schema definition` prints its schema)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from bundler.domain.ami import Floors, Target
from bundler.domain.digest import Digest
from bundler.domain.document import Document, dotted, validate
from bundler.domain.partition import refuse_other_partition
from bundler.domain.reference import Reference
from bundler.domain.schema import (
    AmiId,
    Architecture,
    Flag,
    HexSha256,
    ImageReference,
    InstanceType,
    KubernetesVersion,
    Line,
    Name,
    Partition,
    PlatformName,
    Region,
    SecurityGroupId,
    SemanticVersion,
    Strict,
    SubnetId,
    Values,
    refuse_secrets,
    without_null,
)
from bundler.errors import DefinitionError

Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s@]+$", max_length=2000)]
OciUrl = Annotated[str, StringConstraints(pattern=r"^oci://[^\s@]+$", max_length=500)]
ChartName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$", max_length=128)]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,99}$")]
PLACEHOLDER = "REPLACE_ME"


class Source(Strict):
    """The AWS Region and partition that add-on images are taken from."""

    region: Region
    partition: Partition = "aws"

    @model_validator(mode="after")
    def _one_partition(self) -> Self:
        refuse_other_partition(self.region, self.partition)
        return self


class ChartSource(Strict):
    """Where a chart comes from: exactly one of `oci`, `repository` (with `name`) and `path` (folder or .tgz)."""

    oci: OciUrl | None = None
    repository: Url | None = None
    name: ChartName | None = None
    path: Line | None = None
    version: SemanticVersion | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in ("oci", "repository", "path") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of oci, repository and path")
        if (self.repository is None) != (self.name is None):
            raise ValueError("name goes with repository, and repository needs name")
        if self.path is None and self.version is None:
            raise ValueError("version is missing: a chart is pinned to one exact version")
        return self


class ReasonedImage(Strict):
    """An image that no tool can see in a chart, with the reason why the chart needs it."""

    image: ImageReference
    reason: Line


class LocalSource(Strict):
    """An image that no registry has: exactly one of an OCI layout, a `docker save` archive and the local daemon."""

    layout: Line | None = None
    docker_archive: Line | None = None
    docker_daemon: Flag | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [value for value in (self.layout, self.docker_archive, self.docker_daemon or None) if value is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of layout, dockerArchive and dockerDaemon: true")
        return self


class ExtraImage(ReasonedImage):
    """A further image of the bundle."""

    platforms: tuple[PlatformName, ...] | None = Field(default=None, min_length=1)
    from_: LocalSource | None = Field(default=None, alias="from")


class CoreChart(Strict):
    """One core component that its upstream chart installs."""

    chart: ChartSource
    values: Values = Field(default_factory=dict)
    images: tuple[ReasonedImage, ...] = ()


class KubeProxy(Strict):
    """kube-proxy: AWS publishes the image only, the chart is ours."""

    image: ImageReference
    values: Values = Field(default_factory=dict)


class Pause(Strict):
    """The sandbox image of every pod."""

    image: ImageReference


class Core(Strict):
    """What a cluster needs before any node becomes Ready."""

    kube_proxy: KubeProxy | None = None
    coredns: CoreChart | None = None
    vpc_cni: CoreChart | None = None
    pod_identity_agent: CoreChart | None = None
    pause: Pause | None = None


class Addon(Strict):
    """One Helm release, or one file of Kubernetes manifests installed as a release."""

    name: Name
    namespace: Name = "default"
    chart: ChartSource | None = None
    manifest: Line | None = None
    values: Values = Field(default_factory=dict)
    images: tuple[ReasonedImage, ...] = ()
    api_versions: tuple[Line, ...] = ()
    timeout_minutes: int = Field(default=10, ge=1, le=120)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.chart is None) == (self.manifest is None):
            raise ValueError("give exactly one of chart and manifest")
        if self.manifest is not None and self.values:
            raise ValueError("values go with a chart, not with a manifest")
        return self


class PinnedFile(Strict):
    """A file by `path` or `url`, and its SHA-256 (64 hex digits); `member` names one file inside a .tar.gz."""

    path: Line | None = None
    url: Url | None = None
    sha256: HexSha256
    member: Line | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.url is None):
            raise ValueError("give exactly one of path and url")
        return self

    @property
    def digest(self) -> Digest:
        """The pinned digest."""
        return Digest(f"sha256:{self.sha256}")


class Tool(Strict):
    """A program of the closed side, per operator platform."""

    version: SemanticVersion
    platforms: dict[PlatformName, PinnedFile] = Field(min_length=1)


class Tools(Strict):
    """Programs that the install runs on the operator's host."""

    helm: Tool
    kubectl: Tool


class File(PinnedFile):
    """Any other file that must cross the gap."""

    name: Name
    purpose: Line


class Template(Strict):
    """A team's own Packer template: a folder, the file in it, and its variables (never secrets)."""

    folder: Line
    file: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*$", max_length=200)
    ] = "template.json"
    variables: dict[VariableName, Annotated[str, StringConstraints(max_length=2000)]] = Field(default_factory=dict)
    builder_user: Name = Field(default="ec2-user", description="who logs in to what the template makes")


class Bottlerocket(Strict):
    """Bottlerocket for EKS: carried as it is; `version` such as 1.50.0, else the latest when it is locked."""

    variant: Literal["standard", "nvidia", "fips"] = "standard"
    version: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}$")] | None = None


class AmiOrigin(Strict):
    """Where an AMI comes from; at most one of `variant` (baked on AWS's own), `id`, `template` and `bottlerocket`.

    With none of them it is baked on AWS's EKS-optimized AL2023 AMI, variant standard.
    """

    variant: Literal["standard", "nvidia", "neuron"] | None = None
    release: Annotated[str, StringConstraints(pattern=r"^v[0-9]{8}$")] | None = Field(
        default=None, description="of AWS's EKS-optimized AMI; default: the one AWS recommends when it is locked"
    )
    id: AmiId | None = None
    template: Template | None = None
    bottlerocket: Bottlerocket | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        given = [key for key in ("variant", "id", "template", "bottlerocket") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"give only one of {', '.join(given)}")
        if self.release is not None and given not in ([], ["variant"]):
            raise ValueError("release goes with AWS's EKS-optimized AMI, not with " + given[0])
        return self


class Ami(Strict):
    """An AMI that node groups of a site name; what is not baked cannot preload, or trust certificates of yours."""

    name: Name
    architectures: tuple[Architecture, ...] | None = Field(
        default=None, min_length=1, description="default: those of `platforms`"
    )
    ami: AmiOrigin = AmiOrigin()
    preload: tuple[ImageReference, ...] = Field(default=(), description="besides the core images")
    certificates: Line | None = Field(default=None, description="a file of PEM certificates that nodes trust")
    registry_hosts: Line | None = Field(default=None, description="a folder HOST/hosts.toml for containerd")
    floors: Floors = Floors()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.name.startswith("ami-"):
            raise ValueError("name: must not look like the id of an AMI")
        carried = self.ami.id is not None or self.ami.bottlerocket is not None
        if carried and (self.preload or self.certificates is not None or self.registry_hosts is not None):
            raise ValueError("preload, certificates and registryHosts go with an AMI that is baked")
        if carried and self.floors != Floors():
            raise ValueError("floors go with an AMI that is baked: nobody looks into another one")
        if len({*(self.architectures or ())}) != len(self.architectures or ()):
            raise ValueError("architectures: one stands twice")
        if (self.ami.id is not None or self.ami.template is not None) and len(self.architectures or ()) != 1:
            raise ValueError("architectures: an AMI by id, or of a template of yours, has exactly one")
        return self


class Builder(Strict):
    """The instance that Packer builds on; it needs no internet."""

    region: Region | None = Field(default=None, description="default: the source's Region")
    instance_types: dict[Architecture, InstanceType] = Field(default={"amd64": "m6i.large", "arm64": "m6g.large"})
    subnet: SubnetId | None = None
    security_group: SecurityGroupId | None = None
    instance_profile: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+=,.@_-]{1,128}$")] | None = None
    kms_key: Line | None = None
    ssh_interface: Literal["public_ip", "private_ip"] = "private_ip"
    volume_size_gib: int = Field(default=20, ge=8, le=16384, alias="volumeSizeGiB")


class Definition(Strict):
    """Everything that goes into one bundle."""

    api_version: Literal["eks-bundler/v1"]
    kind: Literal["Bundle"]
    name: Name
    kubernetes_version: KubernetesVersion
    source: Source
    platforms: tuple[PlatformName, ...] = Field(min_length=1)
    operator_platforms: tuple[PlatformName, ...] = Field(min_length=1)
    core: Core = Core()
    addons: tuple[Addon, ...] = ()
    images: tuple[ExtraImage, ...] = ()
    tools: Tools
    files: tuple[File, ...] = ()
    amis: tuple[Ami, ...] = ()
    builder: Builder = Builder()
    targets: tuple[Target, ...] = Field(default=(), description="the sites whose references preloads are tagged with")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _unique("addons", [addon.name for addon in self.addons] + list(CORE_RELEASES))
        _unique("files", [file.name for file in self.files])
        _unique("images", [str(image.image) for image in self.images])
        _unique("amis", [ami.name for ami in self.amis])
        for name, tool in (("helm", self.tools.helm), ("kubectl", self.tools.kubectl)):
            absent = [str(p) for p in self.operator_platforms if p not in tool.platforms]
            if absent:
                raise ValueError(f"tools.{name} has no entry for the operator platform {', '.join(absent)}")
        return self

    @property
    def digest(self) -> Digest:
        """SHA-256 of the definition's meaning: comments, layout and keys that say what holds without them do not count.

        So a key that a later version of this tool adds leaves the digests, and the locks, of older definitions alone.
        """
        meaning = self.model_dump(mode="json", exclude_defaults=True)
        text = json.dumps(meaning, sort_keys=True, separators=(",", ":"))
        return Digest(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}")

    @property
    def local_sources(self) -> Mapping[Reference, LocalSource]:
        """Where each image comes from that no registry has."""
        return {extra.image: extra.from_ for extra in self.images if extra.from_ is not None}


CORE_RELEASES = {
    "aws-vpc-cni": "vpc_cni",
    "kube-proxy": "kube_proxy",
    "coredns": "coredns",
    "eks-pod-identity-agent": "pod_identity_agent",
}
"""Release name of each core component, in the order of installation, and its key in `core`."""


def parse_definition(document: Document) -> Definition:
    """Return the definition in `document`.

    Raises:
        DefinitionError: with file:line:column.
        PolicyError: a literal credential stands in it.
    """
    _refuse_placeholders(document)
    refuse_secrets(document)  # first, because other errors repeat what they refuse
    return validate(document, Definition)


def definition_schema() -> dict[str, Any]:
    """Return the JSON Schema of `bundle.yaml`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **without_null(Definition.model_json_schema(by_alias=True)),
    }


def _refuse_placeholders(document: Document) -> None:
    for path, _ in sorted(document.positions.items(), key=lambda item: item[1]):
        value = document.at(path)
        if isinstance(value, str) and PLACEHOLDER in value:
            raise DefinitionError(
                document.where(path),
                f"{dotted(path)} still holds the placeholder {PLACEHOLDER}",
                hint=_placeholder_hint(document, path),
            )


def _placeholder_hint(document: Document, path: tuple[str | int, ...]) -> str:
    addon = {"kubeProxy": "kube-proxy", "vpcCni": "vpc-cni", "podIdentityAgent": "eks-pod-identity-agent"}
    key = str(path[1]) if len(path) > 1 and path[0] == "core" else ""
    if not key:
        return "Write the value that belongs here."
    version = document.value.get("kubernetesVersion", "VERSION") if isinstance(document.value, dict) else "VERSION"
    return (
        "List the published versions with: aws eks describe-addon-versions"
        f" --kubernetes-version {version} --addon-name {addon.get(key, key)}"
    )


def _unique(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what}: the name {twice[0]!r} stands twice")
