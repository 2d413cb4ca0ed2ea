"""EC2: the instance, key pair and security group of a bake, so that nothing of a run that was cut off is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from bundler.adapters.aws.clients import Answer, Service
from bundler.domain.bake import BAKE_TAG, group_name, key_prefix
from bundler.domain.digest import Digest
from bundler.domain.leftover import ALIVE_TAG, OWNER_TAG, Leftover
from bundler.domain.node_template import tag_list
from bundler.errors import ConflictError, DefinitionError, RejectedError, TargetError
from bundler.retry import Patience

_SSH = 22
_RELEASED_S = 120.0
_PACKERS_OWN = "Temporary group for Packer"
_GONE = frozenset({"InvalidInstanceID.NotFound", "InvalidKeyPair.NotFound", "InvalidGroup.NotFound"})
_STILL_USED = frozenset({"DependencyViolation", "InvalidGroup.InUse"})
_ALIVE = ["pending", "running", "stopping", "stopped", "shutting-down"]


class Ec2Builders:
    """What Packer builds on, in one account and Region."""

    def __init__(
        self, service: Service, patience: Patience, *, owner: str = "", now: Callable[[], float] = time.time
    ) -> None:
        self._service = service
        self._patience = patience
        self._owner = owner
        self._now = now

    def group(self, run: Digest, subnet: str | None) -> str:
        """Return the security group of a run, made unless it is there: SSH in, with a key that only Packer has.

        Ours and not Packer's, whose name nobody can know beforehand: a run that is killed finds it again.

        Raises:
            DefinitionError: there is no such subnet.
            ConflictError: there is no default VPC, and no subnet was named.
        """
        name, vpc = group_name(run), self._vpc(subnet)
        found = self._groups([{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [vpc]}])
        group = found[0][0].id if found else self._create(name, run, vpc)
        self._admit(group)
        return group

    def leftovers(self, run: Digest) -> tuple[Leftover, ...]:
        """Return what bears the run's tag or name: instances first, for groups and keys are theirs.

        Newer Packers tag the key pair and security group that they make for a team's own template.
        """
        tagged: dict[str, object] = {"Name": f"tag:{BAKE_TAG}", "Values": [str(run)]}
        named: dict[str, object] = {"Name": "group-name", "Values": [group_name(run)]}
        instances = self._instances(run)
        names = {*self._keys({"Name": "key-name", "Values": [f"{key_prefix(run)}*"]}), *self._keys(tagged)}
        used = {group for _, theirs in instances for group in theirs}
        ours = [group for asked in (named, tagged) for group, _ in self._groups([asked])]
        packers = [group for group, what in self._of_instances(used) if what.startswith(_PACKERS_OWN)]
        groups = {group.id: group for group in (*ours, *packers)}
        return (
            *(instance for instance, _ in instances),
            *(Leftover(kind="key pair", id=name) for name in sorted(names)),
            *(groups[name] for name in sorted(groups)),
        )

    def beat(self, run: Digest) -> None:
        """Say on what a run has in EC2 that its owner is alive; key pairs come with an instance or a group."""
        groups = self._groups([{"Name": "group-name", "Values": [group_name(run)]}])
        found = (one for one, _ in (*self._instances(run), *groups))
        ids = sorted({one.id for one in found if one.owner in ("", self._owner)})
        if ids:
            self._service.call("CreateTags", about=", ".join(ids), Resources=ids, Tags=tag_list(self._signs()))

    def _signs(self) -> dict[str, str]:
        return {OWNER_TAG: self._owner, ALIVE_TAG: str(int(self._now()))} if self._owner else {}

    def remove(self, leftover: Leftover) -> None:
        """Take one away, and wait until it is gone.

        Raises:
            TargetError: an instance does not end.
            RejectedError: a security group is used by something else.
        """
        if leftover.kind == "instance":
            self._unless_gone("TerminateInstances", leftover, InstanceIds=[leftover.id])
            self._await_end(leftover.id)
        elif leftover.kind == "key pair":
            self._unless_gone("DeleteKeyPair", leftover, KeyName=leftover.id)
        else:
            self._delete_group(leftover)

    def _delete_group(self, leftover: Leftover) -> None:
        """For a moment EC2 holds a group for an instance that has ended."""

        def refused() -> RejectedError | None:
            try:
                self._unless_gone("DeleteSecurityGroup", leftover, GroupId=leftover.id)
            except RejectedError as error:
                if error.code not in _STILL_USED:
                    raise
                return error
            return None

        last = self._patience.until(
            refused, lambda one: [] if one is None else ["in use"], subject=str(leftover), limit_s=_RELEASED_S
        )
        if last is not None:
            raise last

    def _keys(self, asked: dict[str, object]) -> list[str]:
        return self._service.ask(
            "DescribeKeyPairs",
            lambda answer: [str(item["KeyName"]) for item in answer.get("KeyPairs", [])],
            Filters=[asked],
        )

    def _vpc(self, subnet: str | None) -> str:
        """The VPC of the subnet, or the account's default one."""
        if subnet is not None:
            theirs = self._service.ask(
                "DescribeSubnets",
                lambda answer: [str(item["VpcId"]) for item in answer.get("Subnets", [])],
                about=subnet,
                Filters=[{"Name": "subnet-id", "Values": [subnet]}],
            )
            if not theirs:
                cause = f"does not exist in {self._service.region}, or this account may not see it"
                raise DefinitionError(subnet, cause, hint="Correct builder.subnet in the definition.")
            return theirs[0]
        found = self._service.ask(
            "DescribeVpcs",
            lambda answer: [str(item["VpcId"]) for item in answer.get("Vpcs", [])],
            about="default VPC",
            Filters=[{"Name": "is-default", "Values": ["true"]}],
        )
        if not found:
            cause = "has no default VPC to build in"
            raise ConflictError(
                f"the account in {self._service.region}", cause, hint="Name builder.subnet in the definition."
            )
        return found[0]

    def _create(self, name: str, run: Digest, vpc: str) -> str:
        tags = {"Name": name, BAKE_TAG: str(run), **self._signs()}
        return self._service.ask(
            "CreateSecurityGroup",
            lambda answer: str(answer["GroupId"]),
            about=name,
            GroupName=name,
            Description=f"eks-bundler: SSH to the builder of {run}",
            VpcId=vpc,
            TagSpecifications=[{"ResourceType": "security-group", "Tags": tag_list(tags)}],
        )

    def _admit(self, group: str) -> None:
        everybody = [{"CidrIp": "0.0.0.0/0", "Description": "Packer; only it has the key"}]
        rule = {"IpProtocol": "tcp", "FromPort": _SSH, "ToPort": _SSH, "IpRanges": everybody}
        try:
            self._service.call("AuthorizeSecurityGroupIngress", about=group, GroupId=group, IpPermissions=[rule])
        except RejectedError as error:
            if error.code != "InvalidPermission.Duplicate":
                raise

    def _instances(self, run: Digest) -> list[tuple[Leftover, tuple[str, ...]]]:
        """The run's instances that still cost something, each with its security groups."""
        filters = [
            {"Name": f"tag:{BAKE_TAG}", "Values": [str(run)]},
            {"Name": "instance-state-name", "Values": _ALIVE},
        ]
        pages = self._service.list(
            "DescribeInstances", "Reservations", _reservation, about=f"{BAKE_TAG}={run}", Filters=filters
        )
        return [instance for page in pages for instance in page]

    def _groups(self, filters: list[dict[str, object]]) -> list[tuple[Leftover, str]]:
        return self._service.list("DescribeSecurityGroups", "SecurityGroups", _group, Filters=filters)

    def _of_instances(self, ids: set[str]) -> list[tuple[Leftover, str]]:
        return self._groups([{"Name": "group-id", "Values": sorted(ids)}]) if ids else []

    def _await_end(self, instance: str) -> None:
        subject = f"instance {instance}"
        last = self._patience.until(partial(self._state, instance), _lives, subject=subject)
        if _lives(last):
            hint = "Look at it in EC2, then run this again."
            raise TargetError(subject, f"is still {last} after {self._patience.deadline_s:.0f} s", hint=hint)

    def _state(self, instance: str) -> str:
        filters = [{"Name": "instance-id", "Values": [instance]}]
        states = self._service.list("DescribeInstances", "Reservations", _states, about=instance, Filters=filters)
        return next((state for page in states for state in page), "gone")

    def _unless_gone(self, operation: str, leftover: Leftover, **parameters: object) -> None:
        try:
            self._service.call(operation, about=leftover.id, **parameters)
        except RejectedError as error:
            if error.code not in _GONE:
                raise


def _reservation(item: Answer) -> list[tuple[Leftover, tuple[str, ...]]]:
    return [
        (_instance(one), tuple(str(group["GroupId"]) for group in one.get("SecurityGroups", [])))
        for one in item["Instances"]
    ]


def _instance(item: Answer) -> Leftover:
    owner, alive_at = _owned(item)
    launched_at = item["LaunchTime"].timestamp() if "LaunchTime" in item else 0.0
    return Leftover(kind="instance", id=str(item["InstanceId"]), owner=owner, alive_at=max(alive_at, launched_at))


def _owned(item: Answer) -> tuple[str, float]:
    """Whose it is, and when that was last heard of; a tag is free text."""
    tags = {str(tag["Key"]): str(tag["Value"]) for tag in item.get("Tags", [])}
    said = tags.get(ALIVE_TAG, "")
    return tags.get(OWNER_TAG, ""), float(said) if said.isascii() and said.isdigit() else 0.0


def _lives(state: str) -> list[str]:
    return [] if state in ("terminated", "gone") else [state]


def _states(item: Answer) -> Iterator[str]:
    return (str(one["State"]["Name"]) for one in item["Instances"])


def _group(item: Answer) -> tuple[Leftover, str]:
    owner, alive_at = _owned(item)
    found = Leftover(kind="security group", id=str(item["GroupId"]), owner=owner, alive_at=alive_at)
    return found, str(item.get("Description", ""))
