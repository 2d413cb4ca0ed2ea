"""Site -> facts of the infrastructure it adopts: everything named exists and fits, or all that does not is named."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from bundler.domain.finding import Finding, raise_findings
from bundler.domain.infrastructure import Infrastructure, MachineImage, Profile, Subnet
from bundler.domain.restored import is_from_bundle
from bundler.domain.site import NodeGroup, Site

DEFINITION_EXIT = 2


class Network(Protocol):
    """The EC2 API, describing; what does not exist is absent from the answer."""

    def vpcs(self, ids: Collection[str]) -> set[str]:
        """Return those of `ids` that exist."""
        ...

    def subnets(self, ids: Collection[str]) -> dict[str, Subnet]:
        """Return subnets by id."""
        ...

    def security_groups(self, ids: Collection[str]) -> dict[str, str]:
        """Return the VPC of each security group."""
        ...

    def images(self, ids: Collection[str]) -> dict[str, MachineImage]:
        """Return AMIs by id."""
        ...

    def architectures(self, instance_types: Collection[str]) -> dict[str, frozenset[str]]:
        """Return the architectures (amd64, arm64) of each instance type that the Region has."""
        ...


class Profiles(Protocol):
    """The IAM API, describing."""

    def profile(self, arn: str) -> Profile | None:
        """Return an instance profile, None where there is none of that name."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What the APIs say of everything that the site names.

    Attributes:
        profiles: by ARN, None where absent; empty where IAM is not asked.
    """

    vpcs: Collection[str] = ()
    subnets: Mapping[str, Subnet] = field(default_factory=dict)
    security_groups: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, MachineImage] = field(default_factory=dict)
    architectures: Mapping[str, frozenset[str]] = field(default_factory=dict)
    profiles: Mapping[str, Profile | None] = field(default_factory=dict)


def infrastructure(site: Site, *, network: Network, profiles: Profiles | None = None) -> Infrastructure:
    """Return the facts of what the site adopts.

    Args:
        site: what it names.
        network: EC2.
        profiles: IAM, where it can be reached from here; else instance profiles are checked by Auto Scaling.

    Raises:
        FindingsError: something does not exist or does not fit; all of it is named.
    """
    described = describe(site, network=network, profiles=profiles)
    raise_findings("infrastructure", check_infrastructure(site, described))
    return Infrastructure(
        images={group.name: described.images[group.ami] for group in site.node_groups if not is_from_bundle(group)}
    )


def describe(site: Site, *, network: Network, profiles: Profiles | None) -> Described:
    """Ask for everything that the site names, once each."""
    groups = site.node_groups
    arns = {group.instance_profile for group in groups}
    return Described(
        vpcs=network.vpcs([site.vpc]),
        subnets=network.subnets({*site.subnets, *(name for group in groups for name in group.subnets)}),
        security_groups=network.security_groups({name for group in groups for name in group.security_groups}),
        images=network.images({group.ami for group in groups if not is_from_bundle(group)}),
        architectures=network.architectures({group.instance_type for group in groups}),
        profiles={arn: profiles.profile(arn) for arn in sorted(arns)} if profiles is not None else {},
    )


def check_infrastructure(site: Site, described: Described) -> tuple[Finding, ...]:
    """Return what is missing or does not fit."""
    found = [*_network(site, described)]
    for group in site.node_groups:
        found += _group(site, group, described)
    return tuple(dict.fromkeys(found))


def _network(site: Site, described: Described) -> Iterator[Finding]:
    if site.vpc not in described.vpcs:
        yield _finding("vpc", site.vpc, f"does not exist in account {site.account}, {site.region}")
    named = dict.fromkeys((*site.subnets, *(name for group in site.node_groups for name in group.subnets)))
    for name in named:
        subnet = described.subnets.get(name)
        yield from _member("subnet", name, None if subnet is None else subnet.vpc, site)


def _group(site: Site, group: NodeGroup, described: Described) -> Iterator[Finding]:
    for name in group.security_groups:
        yield from _member("security group", name, described.security_groups.get(name), site)
    if not is_from_bundle(group):
        yield from _image(group, described.images.get(group.ami))
    yield from _instance_type(group, described.architectures.get(group.instance_type))
    for kind, arn in (("role", group.role), ("instance-profile", group.instance_profile)):
        if not arn.startswith(f"arn:{site.partition}:iam::{site.account}:{kind}/"):
            cause = f"is no {kind} of account {site.account} in partition {site.partition}"
            yield _finding(f"node group {group.name}", arn, cause)
    yield from _profile(group, described.profiles)


def _member(kind: str, name: str, vpc: str | None, site: Site) -> Iterator[Finding]:
    if vpc is None:
        yield _finding(kind, name, f"does not exist in account {site.account}, {site.region}")
    elif vpc != site.vpc:
        yield _finding(kind, name, f"belongs to {vpc}, not to {site.vpc}")


def _image(group: NodeGroup, image: MachineImage | None) -> Iterator[Finding]:
    check = f"node group {group.name}"
    if image is None:
        yield _finding(check, group.ami, "does not exist, or this account may not use it")
        return
    if image.state != "available":
        yield _finding(check, group.ami, f"is {image.state}, not available")
    if image.architecture != group.architecture:
        yield _finding(check, group.ami, f"is for {image.architecture}, the group says {group.architecture}")
    if image.root_gib is not None and image.root_gib > group.volume.size_gib:
        cause = f"needs a root volume of {image.root_gib} GiB, the group says {group.volume.size_gib}"
        yield _finding(check, group.ami, cause)


def _instance_type(group: NodeGroup, architectures: frozenset[str] | None) -> Iterator[Finding]:
    check = f"node group {group.name}"
    if architectures is None:
        yield _finding(check, group.instance_type, "is no instance type of this Region")
    elif group.architecture not in architectures:
        kinds = " or ".join(sorted(architectures))
        yield _finding(check, group.instance_type, f"runs {kinds}, the group says {group.architecture}")


def _profile(group: NodeGroup, profiles: Mapping[str, Profile | None]) -> Iterator[Finding]:
    if group.instance_profile not in profiles:
        return
    profile = profiles[group.instance_profile]
    if profile is None or profile.arn != group.instance_profile:
        yield _finding(f"node group {group.name}", group.instance_profile, "does not exist")
    elif group.role not in profile.roles:
        roles = ", ".join(profile.roles) or "none"
        cause = f"holds the role {roles}, the group says {group.role}: its nodes would be refused"
        yield _finding(f"node group {group.name}", group.instance_profile, cause)


def _finding(check: str, subject: str, cause: str) -> Finding:
    return Finding(check=check, subject=subject, cause=cause, hint="Correct the site file.", exit_code=DEFINITION_EXIT)
