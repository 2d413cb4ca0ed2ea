"""What `bundle init` begins with: add-on registries per Region and the core set per Kubernetes version.

The data stands in manifests/presets, each value with its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field, RootModel

from bundler.domain.document import Document, validate
from bundler.domain.partition import DNS_SUFFIXES
from bundler.domain.schema import (
    Account,
    HexSha256,
    ImageReference,
    KubernetesVersion,
    Line,
    Region,
    SemanticVersion,
    Strict,
)
from bundler.errors import DefinitionError, UsageError


class PresetTool(Strict):
    """A program with the SHA-256 of what its publisher offers, per platform."""

    version: SemanticVersion
    amd64: HexSha256 = Field(alias="linux/amd64")
    arm64: HexSha256 = Field(alias="linux/arm64")


class PresetCharts(Strict):
    """Versions of the upstream charts."""

    aws_vpc_cni: SemanticVersion
    coredns: SemanticVersion
    metrics_server: SemanticVersion


class PresetVersion(Strict):
    """Tags (or the placeholder) and kubectl of one Kubernetes version."""

    kube_proxy: Line
    coredns: Line
    kubectl: PresetTool


class CorePreset(Strict):
    """The core set."""

    charts: PresetCharts
    pause: ImageReference
    helm: PresetTool
    versions: dict[KubernetesVersion, PresetVersion] = Field(min_length=1)


class _Accounts(RootModel[dict[str, dict[Region, Account]]]):
    """Partition -> Region -> account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddonRegistry:
    """The registry of one Region that holds the images of the EKS add-ons."""

    partition: str
    region: str
    account: str

    @property
    def domain(self) -> str:
        """The partition's DNS suffix."""
        return DNS_SUFFIXES[self.partition]

    @property
    def host(self) -> str:
        """The registry's name."""
        return f"{self.account}.dkr.ecr.{self.region}.{self.domain}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Presets:
    """All presets; `accounts` is partition -> Region -> account."""

    core: CorePreset
    accounts: Mapping[str, Mapping[str, str]]

    def registry(self, region: str, partition: str | None) -> AddonRegistry:
        """Return the add-on registry of a Region; without a partition, in whichever the Region is.

        Raises:
            UsageError: no such Region is known, or it is in another partition.
        """
        for name, accounts in self.accounts.items():
            if region in accounts and partition in (None, name):
                return AddonRegistry(partition=name, region=region, account=accounts[region])
        raise self._unknown(region, partition)

    def _unknown(self, region: str, partition: str | None) -> UsageError:
        home = next((name for name, accounts in self.accounts.items() if region in accounts), None)
        if home is not None:
            return UsageError(region, f"is in the partition {home}, not in {partition}")
        known = "; ".join(f"{name}: {', '.join(sorted(regions))}" for name, regions in self.accounts.items())
        return UsageError(
            region,
            f"is no Region whose add-on registry is known. Known are {known}",
            hint="Take one of these as the source: the bundle can be installed into any other Region.",
        )

    def version(self, kubernetes_version: str) -> PresetVersion:
        """Return the tags of one Kubernetes version.

        Raises:
            UsageError: there is no preset for it.
        """
        found = self.core.versions.get(kubernetes_version)
        if found is None:
            known = ", ".join(sorted(self.core.versions))
            raise UsageError(
                f"Kubernetes {kubernetes_version}",
                f"has no preset; there are presets for {known}",
                hint="Take the nearest one, then change versions and tags in the file.",
            )
        return found


def parse_presets(core: Document, registries: Document) -> Presets:
    """Return the presets in the two documents of manifests/presets.

    Raises:
        DefinitionError: with file:line:column.
    """
    accounts = validate(registries, _Accounts).root
    unknown = next((partition for partition in accounts if partition not in DNS_SUFFIXES), None)
    if unknown is not None:
        raise DefinitionError(registries.where((unknown,)), f"{unknown} is not a partition")
    return Presets(core=validate(core, CorePreset), accounts=accounts)
