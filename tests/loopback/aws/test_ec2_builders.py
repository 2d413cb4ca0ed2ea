"""Instances, key pairs and security groups of a bake in the lab; boto3 says what is true."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from bundler.adapters.aws.clients import Service
from bundler.adapters.aws.ec2_builders import Ec2Builders
from bundler.domain.bake import BAKE_TAG, group_name, key_prefix
from bundler.domain.digest import Digest
from bundler.domain.leftover import DEAD_AFTER_S, Leftover, in_use
from bundler.errors import AccessError, ConflictError, DefinitionError, RejectedError, TargetError
from bundler.retry import Patience
from tests.loopback.aws.conftest import Closed, odd_service
from tests.peers import boto_client

pytestmark = pytest.mark.loopback


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def patience(self) -> Patience:
        return Patience(deadline_s=60, clock=lambda: self.now, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def builders(services: Callable[[str], Service]) -> Ec2Builders:
    return Ec2Builders(services("ec2"), Clock().patience())


@pytest.fixture
def ec2(closed: Closed) -> Any:
    return boto_client(closed.lab, "ec2")


@pytest.fixture
def run() -> Digest:
    return Digest.of(uuid.uuid4().bytes)


@pytest.fixture
def subnet(ec2: Any) -> str:
    return str(ec2.describe_subnets()["Subnets"][0]["SubnetId"])


def tags(kind: str, run: Digest) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": [{"Key": BAKE_TAG, "Value": str(run)}]}]


def instance(ec2: Any, run: Digest, group: str, subnet: str) -> str:
    wanted = {"MinCount": 1, "MaxCount": 1, "SubnetId": subnet, "SecurityGroupIds": [group]}
    image = ec2.register_image(
        Name=uuid.uuid4().hex,
        RootDeviceName="/dev/sda1",
        BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 1}}],
    )["ImageId"]
    made = ec2.run_instances(ImageId=image, TagSpecifications=tags("instance", run), **wanted)
    return str(made["Instances"][0]["InstanceId"])


def test_a_runs_group_lets_ssh_in_and_nothing_else_and_is_found_again(
    builders: Ec2Builders, ec2: Any, run: Digest, subnet: str
) -> None:
    group = builders.group(run, subnet)
    assert builders.group(run, subnet) == group
    (true,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    (vpc,) = {one["VpcId"] for one in ec2.describe_subnets(SubnetIds=[subnet])["Subnets"]}
    assert (true["GroupName"], true["VpcId"]) == (group_name(run), vpc)
    assert {tag["Key"]: tag["Value"] for tag in true["Tags"]} == {"Name": group_name(run), BAKE_TAG: str(run)}
    (rule,) = true["IpPermissions"]
    assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("tcp", 22, 22)


def test_a_run_says_whose_it_is_and_that_it_is_alive(
    services: Callable[[str], Service], ec2: Any, run: Digest, subnet: str
) -> None:
    now = [1_900_000_000.0]
    builders = Ec2Builders(services("ec2"), Clock().patience(), owner="0123 me@here", now=lambda: now[0])
    builders.beat(run)
    group = builders.group(run, subnet)
    (found,) = builders.leftovers(run)
    assert (found.id, found.owner, found.alive_at) == (group, "0123 me@here", now[0])
    machine = instance(ec2, run, group, subnet)
    by_id = {one.id: one for one in builders.leftovers(run)}
    assert by_id[machine].owner == ""
    assert abs(by_id[machine].alive_at - time.time()) < 3600, "when it was launched"
    now[0] += 60
    builders.beat(run)
    assert {(one.owner, one.alive_at) for one in builders.leftovers(run)} == {("0123 me@here", now[0])}
    assert in_use(builders.leftovers(run), owner="0123 me@here", now=now[0]) == ()
    assert {one.id for one in in_use(builders.leftovers(run), owner="4567 you@there", now=now[0])} == {group, machine}
    assert in_use(builders.leftovers(run), owner="4567 you@there", now=now[0] + DEAD_AFTER_S) == ()
    Ec2Builders(services("ec2"), Clock().patience(), owner="4567 you@there", now=lambda: now[0] + 60).beat(run)
    assert {one.owner for one in builders.leftovers(run)} == {"0123 me@here"}, "theirs is not taken over"
    for one in builders.leftovers(run):
        builders.remove(one)


def test_a_group_of_the_run_in_another_vpc_is_not_taken(
    builders: Ec2Builders, ec2: Any, run: Digest, subnet: str
) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.99.0.0/16")["Vpc"]["VpcId"]
    other = ec2.create_subnet(VpcId=vpc, CidrBlock="10.99.1.0/24")["Subnet"]["SubnetId"]
    first, second = builders.group(run, subnet), builders.group(run, other)
    assert first != second
    assert {one.id for one in builders.leftovers(run)} == {first, second}


def test_without_a_subnet_it_is_the_default_vpc(builders: Ec2Builders, ec2: Any, run: Digest) -> None:
    (vpc,) = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    (true,) = ec2.describe_security_groups(GroupIds=[builders.group(run, None)])["SecurityGroups"]
    assert true["VpcId"] == vpc["VpcId"]


def test_an_account_without_default_vpc_is_told_to_name_a_subnet(run: Digest) -> None:
    with pytest.raises(ConflictError, match="has no default VPC") as caught:
        Ec2Builders(odd_service({"Vpcs": []}), Patience()).group(run, None)
    assert "builder.subnet" in caught.value.hint


def test_a_subnet_that_does_not_exist_is_told(builders: Ec2Builders, run: Digest) -> None:
    with pytest.raises(DefinitionError, match="subnet-00000000000000000: does not exist in ") as caught:
        builders.group(run, "subnet-00000000000000000")
    assert "builder.subnet" in caught.value.hint


def test_what_a_run_left_is_found_by_tag_or_name_instances_first_and_removed(
    builders: Ec2Builders, ec2: Any, run: Digest, subnet: str
) -> None:
    group = builders.group(run, subnet)
    machine = instance(ec2, run, group, subnet)
    named, tagged = f"{key_prefix(run)}1234", f"packer_{uuid.uuid4().hex}"
    ec2.create_key_pair(KeyName=named)
    ec2.create_key_pair(KeyName=tagged, TagSpecifications=tags("key-pair", run))
    found = builders.leftovers(run)
    assert [str(one) for one in found] == [
        f"instance {machine}", *sorted((f"key pair {named}", f"key pair {tagged}")), f"security group {group}",
    ]  # fmt: skip
    for one in found:
        builders.remove(one)
    assert builders.leftovers(run) == ()
    (true,) = ec2.describe_instances(InstanceIds=[machine])["Reservations"][0]["Instances"]
    assert true["State"]["Name"] == "terminated"
    for one in found:
        builders.remove(one)


def test_packers_own_group_goes_with_its_instance_and_a_teams_group_stays(
    builders: Ec2Builders, ec2: Any, run: Digest, subnet: str
) -> None:
    vpc = ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["VpcId"]
    described = {"packer_1": "Temporary group for Packer", "theirs": "the team's"}
    packers, theirs = (
        ec2.create_security_group(GroupName=f"{name}-{run.hex}", Description=text, VpcId=vpc)["GroupId"]
        for name, text in described.items()
    )
    first, second = (instance(ec2, run, group, subnet) for group in (packers, theirs))
    found = builders.leftovers(run)
    assert {one.id for one in found} == {first, second, packers}
    for one in found:
        builders.remove(one)
    assert ec2.describe_security_groups(GroupIds=[theirs])["SecurityGroups"]


def test_nothing_of_another_run_is_found(builders: Ec2Builders, ec2: Any, run: Digest, subnet: str) -> None:
    other = Digest.of(b"other" + run.hex.encode())
    instance(ec2, other, builders.group(other, subnet), subnet)
    ec2.create_key_pair(KeyName=f"{key_prefix(other)}1")
    assert builders.leftovers(run) == ()
    assert len(builders.leftovers(other)) == 3


LEFT: Mapping[str, Leftover] = {
    "TerminateInstances": Leftover(kind="instance", id="i-00000000000000000"),
    "DeleteKeyPair": Leftover(kind="key pair", id="nobody's"),
    "DeleteSecurityGroup": Leftover(kind="security group", id="sg-00000000000000000"),
}
CALLS: Mapping[str, Callable[[Ec2Builders, Digest, str], object]] = {
    "DescribeInstances": lambda builders, run, subnet: builders.leftovers(run),
    "DescribeKeyPairs": lambda builders, run, subnet: builders.leftovers(run),
    "DescribeSecurityGroups": lambda builders, run, subnet: builders.leftovers(run),
    "DescribeSubnets": lambda builders, run, subnet: builders.group(run, subnet),
    "DescribeVpcs": lambda builders, run, subnet: builders.group(run, None),
    "CreateSecurityGroup": lambda builders, run, subnet: builders.group(run, subnet),
    "AuthorizeSecurityGroupIngress": lambda builders, run, subnet: builders.group(run, subnet),
    "TerminateInstances": lambda builders, run, subnet: builders.remove(LEFT["TerminateInstances"]),
    "DeleteKeyPair": lambda builders, run, subnet: builders.remove(LEFT["DeleteKeyPair"]),
    "DeleteSecurityGroup": lambda builders, run, subnet: builders.remove(LEFT["DeleteSecurityGroup"]),
}


@pytest.mark.parametrize("operation", CALLS)
def test_who_is_denied_is_told_the_permission(
    closed: Closed, builders: Ec2Builders, run: Digest, subnet: str, operation: str
) -> None:
    closed.fault("ec2", operation, "denied", times=100)
    with pytest.raises(AccessError, match=f"ec2:{operation}") as caught:
        CALLS[operation](builders, run, subnet)
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["throttled", "reset"])
@pytest.mark.parametrize("operation", CALLS)
def test_a_service_that_stumbles_is_asked_again(
    closed: Closed, builders: Ec2Builders, run: Digest, subnet: str, operation: str, kind: str
) -> None:
    closed.fault("ec2", operation, kind)
    CALLS[operation](builders, run, subnet)


class Scripted:
    """A service whose calls end as a test says, one after the other; the last end stays."""

    region = "eu-west-1"

    def __init__(self, *ends: str) -> None:
        self._ends = list(ends)
        self.calls = 0

    def call(self, operation: str, /, **_: object) -> object:
        self.calls += 1
        end = self._ends.pop(0) if len(self._ends) > 1 else self._ends[0]
        if end in ("", "running"):
            return {}
        error = RejectedError("sg-1", end)
        error.code = end
        raise error

    def list(self, operation: str, key: str, parse: Callable[[object], object], /, **_: object) -> list[object]:
        return [parse({"Instances": [{"State": {"Name": self._ends[0]}}]})]


GROUP, MACHINE = Leftover(kind="security group", id="sg-1"), Leftover(kind="instance", id="i-1")


def scripted(*ends: str) -> tuple[Ec2Builders, Scripted]:
    service = Scripted(*ends)
    return Ec2Builders(service, Clock().patience()), service  # type: ignore[arg-type]


def test_a_group_that_is_still_used_is_asked_for_again() -> None:
    builders, service = scripted("DependencyViolation", "DependencyViolation", "")
    builders.remove(GROUP)
    assert service.calls == 3


@pytest.mark.parametrize("code", ["DependencyViolation", "InvalidGroup.InUse", "CannotDelete"])
def test_a_group_that_stays_in_use_is_told(code: str) -> None:
    builders, service = scripted(code)
    with pytest.raises(RejectedError, match=code):
        builders.remove(GROUP)
    assert (service.calls > 1) == (code != "CannotDelete")


def test_an_instance_that_does_not_end_is_told() -> None:
    builders, _ = scripted("running")
    with pytest.raises(TargetError, match="instance i-1: is still running after 60 s") as caught:
        builders.remove(MACHINE)
    assert caught.value.hint
