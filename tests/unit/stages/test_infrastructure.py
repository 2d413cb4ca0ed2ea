"""Adopted infrastructure: everything that does not fit is named at once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import pytest

from bundler.domain.infrastructure import MachineImage, Profile, Subnet
from bundler.errors import FindingsError
from bundler.stages.infrastructure import infrastructure
from tests.fakes.sites import PROFILE, ROLE, group_document, make_site

VPC, AMI, GROUP = "vpc-0123456789abcdef0", "ami-0123456789abcdef0", "sg-0123456789abcdef0"
SUBNETS = ("subnet-0000000000000000a", "subnet-0000000000000000b")


def image(state: str = "available", architecture: str = "amd64", root_gib: int | None = 20) -> MachineImage:
    return MachineImage(id=AMI, state=state, architecture=architecture, root_device="/dev/xvda", root_gib=root_gib)


@dataclass
class Network:
    """EC2 and IAM in memory."""

    vpc_ids: set[str] = field(default_factory=lambda: {VPC})
    subnet_vpcs: dict[str, str] = field(default_factory=lambda: dict.fromkeys(SUBNETS, VPC))
    group_vpcs: dict[str, str] = field(default_factory=lambda: {GROUP: VPC})
    amis: dict[str, MachineImage] = field(default_factory=lambda: {AMI: image()})
    types: dict[str, frozenset[str]] = field(default_factory=lambda: {"m6i.large": frozenset({"amd64"})})
    found_profile: Profile | None = field(default_factory=lambda: Profile(arn=PROFILE, roles=(ROLE,)))

    def vpcs(self, ids: Collection[str]) -> set[str]:
        return self.vpc_ids & set(ids)

    def subnets(self, ids: Collection[str]) -> dict[str, Subnet]:
        there = {name: vpc for name, vpc in self.subnet_vpcs.items() if name in ids}
        return {name: Subnet(vpc=vpc) for name, vpc in there.items()}

    def security_groups(self, ids: Collection[str]) -> dict[str, str]:
        return {name: vpc for name, vpc in self.group_vpcs.items() if name in ids}

    def images(self, ids: Collection[str]) -> dict[str, MachineImage]:
        return {name: ami for name, ami in self.amis.items() if name in ids}

    def architectures(self, instance_types: Collection[str]) -> dict[str, frozenset[str]]:
        return {name: kinds for name, kinds in self.types.items() if name in instance_types}

    def profile(self, arn: str) -> Profile | None:
        return self.found_profile


def test_facts_of_what_fits_are_returned() -> None:
    network = Network()
    facts = infrastructure(make_site(), network=network, profiles=network)
    assert facts.images["main"].root_device == "/dev/xvda"


@pytest.mark.parametrize(
    ("network", "text"),
    [
        (Network(vpc_ids=set()), f"vpc: {VPC}: does not exist"),
        (Network(subnet_vpcs={SUBNETS[0]: VPC}), f"subnet: {SUBNETS[1]}: does not exist"),
        (Network(subnet_vpcs={SUBNETS[0]: VPC, SUBNETS[1]: "vpc-other"}), "belongs to vpc-other"),
        (Network(group_vpcs={}), f"security group: {GROUP}: does not exist"),
        (Network(group_vpcs={GROUP: "vpc-other"}), "belongs to vpc-other"),
        (Network(amis={}), f"{AMI}: does not exist"),
        (Network(amis={AMI: image(state="pending")}), "is pending"),
        (Network(amis={AMI: image(architecture="arm64")}), "is for arm64"),
        (Network(amis={AMI: image(root_gib=80)}), "needs a root volume of 80 GiB"),
        (Network(types={}), "m6i.large: is no instance type"),
        (Network(types={"m6i.large": frozenset({"arm64"})}), "runs arm64"),
        (Network(found_profile=None), f"{PROFILE}: does not exist"),
        (Network(found_profile=Profile(arn=PROFILE, roles=("arn:x",))), "holds the role arn:x"),
    ],
)
def test_what_does_not_fit_is_named(network: Network, text: str) -> None:
    with pytest.raises(FindingsError) as caught:
        infrastructure(make_site(), network=network, profiles=network)
    assert text in caught.value.cause
    assert caught.value.exit_code == 2


def test_everything_wrong_is_named_at_once() -> None:
    network = Network(vpc_ids=set(), group_vpcs={}, amis={}, types={})
    with pytest.raises(FindingsError, match="4 checks failed"):
        infrastructure(make_site(), network=network, profiles=network)


def test_without_iam_the_profile_is_taken_as_the_site_says() -> None:
    infrastructure(make_site(), network=Network(found_profile=None))


@pytest.mark.parametrize(
    "role", ["arn:aws-cn:iam::111122223333:role/node", "arn:aws:iam::999999999999:role/node", PROFILE]
)
def test_a_role_of_another_account_or_partition_is_refused(role: str) -> None:
    with pytest.raises(FindingsError, match="is no role of account 111122223333"):
        infrastructure(make_site(nodeGroups=[group_document(role=role)]), network=Network())
