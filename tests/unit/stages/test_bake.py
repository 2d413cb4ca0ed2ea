"""A bake against an EC2 in memory: whatever an earlier run left, one AMI comes of it, and nothing else stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest

from bundler.domain.ami import LockedAmi, NodeFacts
from bundler.domain.bake import BAKE_TAG, ami_description, ami_name
from bundler.domain.digest import Digest
from bundler.domain.events import Event, Noted
from bundler.domain.leftover import Leftover
from bundler.domain.machine_image import FoundImage
from bundler.domain.packer_job import NotedAmi, PackerJob
from bundler.domain.team_template import TeamNetwork
from bundler.errors import (
    AccessError,
    BundleError,
    ConflictError,
    FindingsError,
    LocalResourceError,
    LockChangedError,
    MissingToolError,
    NetworkError,
    PackerError,
    PolicyError,
    TargetError,
)
from bundler.retry import Patience
from bundler.stages.bake import TEMPLATE_TAG, Baked, BakeRequest, Bakery, bake, forget_superseded, superseded
from tests.fakes.bakes import FACTS, SOURCE, bake_of
from tests.fakes.memory_ec2 import ACCOUNT, AWS, OTHERS, MemoryEc2, MemoryPacker
from tests.fakes.preloads import ami_of, lock_of

INPUTS, TEMPLATE = Digest.of(b"inputs"), Digest.of(b"the team's template")
DESCRIPTION = ami_description(INPUTS)
OWNER, NOW = "0123 me@here", 1_800_000_000.0
INSTANCE, KEY = Leftover(kind="instance", id="i-1"), Leftover(kind="key pair", id="bundle-bake-1")


@dataclass
class World:
    """An account with AWS's AMI, a folder for facts, and a clock that runs while we sleep."""

    folder: Path
    ec2: MemoryEc2 = field(default_factory=MemoryEc2)
    heard: list[Event] = field(default_factory=list)
    clock: float = 0.0
    payloads: int = 0

    def __post_init__(self) -> None:
        self.packer = MemoryPacker(ec2=self.ec2)
        self.source = self.ec2.add("aws", owner=AWS, alias="amazon", is_public=True)

    @property
    def facts(self) -> Path:
        return self.folder / "facts"

    @property
    def own(self) -> list[FoundImage]:
        return [one for one in self.ec2.images.values() if one.owner == ACCOUNT]

    @property
    def said(self) -> str:
        return "\n".join(event.text for event in self.heard if isinstance(event, Noted))

    def ami(self, **more: object) -> LockedAmi:
        source = SOURCE.model_copy(update={"id": self.source.id})
        return ami_of(lock_of(), **{"source": source, "volume_size": 20, **more})

    def request(self, ami: LockedAmi | None = None, **more: object) -> BakeRequest:
        given = {
            "ami": ami or self.ami(),
            "inputs": INPUTS,
            "account": ACCOUNT,
            "region": "eu-west-1",
            "template": Path("/template"),
            "variables": {"subnet_id": "subnet-1", "volume_size": "20"},
            "team": None,
            "payload": self._payload,
            "facts_file": self.facts,
            "check": lambda raw: FACTS,
            **more,
        }
        return BakeRequest(**given)  # type: ignore[arg-type]

    def bake(self, ami: LockedAmi | None = None, **more: object) -> Baked:
        patience = Patience(deadline_s=60, clock=lambda: self.clock, sleep=self._sleep)
        bakery = Bakery(
            images=self.ec2,
            builders=self.ec2,
            packer=self.packer,
            patience=patience,
            owner=OWNER,
            now=lambda: NOW,
            emit=self.heard.append,
        )
        return bake(self.request(ami, **more), bakery=bakery)

    def there(self, ami: LockedAmi | None = None, **more: object) -> FoundImage:
        """An AMI that an earlier run baked, and its facts."""
        self.facts.write_bytes(b"facts of before")
        return self.ec2.add(ami_name(ami or self.ami(), INPUTS), **{"description": DESCRIPTION, **more})

    def _payload(self) -> Path:
        self.payloads += 1
        return self.folder / "payload"

    def _sleep(self, seconds: float) -> None:
        self.clock += seconds


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def refused(action: Callable[[], object], kind: type[BundleError]) -> BundleError:
    """The error; it says what is safe, and what to do."""
    with pytest.raises(kind) as caught:
        action()
    assert type(caught.value) is kind
    assert caught.value.hint
    assert caught.value.safe
    return caught.value


def test_an_ami_is_baked_on_its_source_and_bears_the_tag_of_its_inputs(world: World) -> None:
    baked = world.bake()
    (job,) = world.packer.jobs
    assert (job.name, job.run, job.folder, job.file, job.tags) == (
        "workers amd64", INPUTS, Path("/template"), "template.json", None,
    )  # fmt: skip
    assert job.variables == {
        "subnet_id": "subnet-1",
        "volume_size": "20",
        "security_group_id": "sg-of-subnet-1",
        "source_ami": world.source.id,
        "root_device": "/dev/xvda",
        "ami_name": ami_name(world.ami(), INPUTS),
        "ami_description": DESCRIPTION,
        "run_tag": str(INPUTS),
        "owner": OWNER,
        "payload_dir": str(world.folder / "payload"),
        "facts_file": str(world.facts),
    }
    assert [image.id for image in world.own] == [baked.image.id]
    assert baked.image.tags == {BAKE_TAG: str(INPUTS)}
    assert (baked.facts, baked.attributes.devices[0].size) == (FACTS, 20)
    snapshot = baked.image.snapshots[0].snapshot
    assert world.ec2.done == [
        "make security group sg-of-subnet-1",
        "packer workers amd64",
        "remove security group sg-of-subnet-1",
        f"tag {baked.image.id} {snapshot}",
        f"tag {baked.image.id}",
    ]
    assert world.packer.held == []


def test_a_security_group_that_is_named_is_used_and_left_alone(world: World) -> None:
    world.bake(variables={"security_group_id": "sg-own"})
    assert world.packer.jobs[0].variables["security_group_id"] == "sg-own"
    assert not any("security group" in line for line in world.ec2.done)


def test_the_same_inputs_bake_once(world: World) -> None:
    first = world.bake()
    assert world.bake().image.id == first.image.id
    assert len(world.packer.jobs) == 1
    assert world.payloads == 1
    assert f"{first.image.subject} is baked already" in world.said


def test_an_ami_that_packer_could_not_tag_any_more_is_adopted_and_tagged(world: World) -> None:
    there = world.there()
    baked = world.bake()
    assert (baked.image.id, baked.facts) == (there.id, FACTS)
    assert world.own[0].tags[BAKE_TAG] == str(INPUTS)
    assert world.packer.jobs == []


def test_an_ami_that_is_still_pending_is_waited_for(world: World) -> None:
    there = world.there(state="pending")
    world.ec2.later[there.id] = ["pending", "pending", "available"]
    assert world.bake().image.id == there.id
    assert world.clock == 6.0
    assert world.packer.jobs == []


def test_an_ami_that_never_becomes_available_is_told(world: World) -> None:
    world.there(state="pending")
    assert "is still pending after" in refused(world.bake, TargetError).cause
    assert len(world.own) == 1, "it may become available yet"


@pytest.mark.parametrize("states", [["failed"], ["pending", "failed"], ["pending", "error"]])
def test_an_ami_that_failed_is_removed_and_baked_again(world: World, states: list[str]) -> None:
    there = world.there(state=states[0])
    world.ec2.later[there.id] = states[1:]
    baked = world.bake()
    assert [image.id for image in world.own] == [baked.image.id]
    assert baked.image.id != there.id
    assert "it never became available" in world.said


def test_an_ami_that_another_host_baked_brings_its_facts_in_tags(world: World) -> None:
    first = world.bake()
    said = world.facts.read_bytes()
    world.facts.unlink()
    again = world.bake()
    assert (again.image.id, again.facts) == (first.image.id, first.facts)
    assert world.facts.read_bytes() == said


def test_an_ami_that_was_cut_off_before_its_description_is_adopted(world: World) -> None:
    there = world.there(description="")
    assert world.bake().image.id == there.id
    assert world.own[0].tags[BAKE_TAG] == str(INPUTS)


def test_an_ami_whose_facts_are_lost_is_baked_again(world: World) -> None:
    there = world.there()
    world.facts.unlink()
    baked = world.bake()
    assert {image.id for image in world.own} == {there.id, baked.image.id}
    assert "is not on this host: another one is baked, and it stays" in world.said
    assert f"aws ec2 deregister-image --image-id {there.id}" in world.said
    assert world.bake().image.id == baked.image.id


def test_an_ami_that_one_look_does_not_see_is_looked_for_again(world: World) -> None:
    there = world.there()
    world.ec2.hidden[there.id] = 1
    assert world.bake().image.id == there.id


@pytest.mark.parametrize("state", ["disabled", "gone"])
def test_an_ami_that_cannot_be_used_is_left_alone_and_its_name_not_taken_again(world: World, state: str) -> None:
    there = world.there(state=state)
    baked = world.bake()
    assert {image.id for image in world.own} == {there.id, baked.image.id}
    assert baked.image.name == f"{there.name}-2"
    assert f"is {state}: it does not count" in world.said


def test_snapshots_that_ec2_did_not_make_for_the_ami_are_not_touched(world: World) -> None:
    there = world.there(state="failed")
    (data,) = (one.snapshot for one in there.snapshots)
    world.ec2.descriptions[data] = "what our users wrote"
    world.bake()
    assert there.id not in world.ec2.images
    assert data in world.ec2.own_snapshots
    assert data not in world.ec2.snapshot_tags


@pytest.mark.parametrize("what", ["launch_permissions", "remove"])
def test_an_old_ami_that_aws_does_not_let_go_does_not_end_the_bake(world: World, what: str) -> None:
    there = world.there()
    world.ec2.fail[what] = AccessError("AMI", "is denied", hint="Ask for it.")
    world.ec2.leftover.clear()
    baked = world.bake(again=True, variables={"security_group_id": "sg-own"})
    assert {image.id for image in world.own} == {there.id, baked.image.id}
    assert f"{there.subject} stays (" in world.said


def test_rebake_without_packer_supersedes_nothing(world: World) -> None:
    world.there()
    world.packer.error = MissingToolError("packer", "is not installed", hint="Install it.")
    refused(lambda: world.bake(again=True), MissingToolError)
    assert superseded(world.folder) is None


def test_another_host_that_begins_meanwhile_keeps_its_builder(world: World) -> None:
    theirs = Leftover(kind="instance", id="i-theirs", owner="ffff them@there", alive_at=NOW)

    def payload() -> Path:
        world.ec2.leftover.append(theirs)
        return world.folder / "payload"

    error = refused(lambda: world.bake(payload=payload), ConflictError)
    assert "is being baked by them@there" in error.cause
    assert world.ec2.leftover == [theirs]
    assert world.packer.jobs == []


def test_rebake_makes_the_new_ami_before_the_old_one_goes(world: World) -> None:
    there = world.there()
    baked = world.bake(again=True)
    assert [image.id for image in world.own] == [baked.image.id]
    assert baked.image.name == f"{there.name}-2"
    assert world.packer.jobs[0].variables["ami_name"] == baked.image.name
    assert Path(world.packer.jobs[0].variables["facts_file"]).read_bytes() == b"facts"
    done = world.ec2.done
    assert done.index("packer workers amd64") < done.index(f"remove {there.id}")
    assert f"removing {there.subject}: {baked.image.id} takes its place" in world.said
    assert world.bake().image.id == baked.image.id
    third = world.bake(again=True, recorded=None)
    assert third.image.id == baked.image.id, "until the lock records it, that bake goes on"
    forget_superseded(world.folder)
    assert world.bake(again=True).image.name == f"{there.name}-3"
    assert len(world.own) == 1


def test_rebake_that_fails_leaves_the_old_ami_and_what_it_said(world: World) -> None:
    there = world.there()
    world.packer.error = PackerError("bake", "a script failed")
    refused(lambda: world.bake(again=True), PackerError)
    assert world.own == [there]
    assert world.bake().image.id == there.id
    assert world.facts.read_bytes() == b"facts of before"


def test_an_ami_that_another_account_may_launch_stays_and_how_to_remove_it_is_told(world: World) -> None:
    there = world.there()
    world.ec2.permissions[there.id] = (ACCOUNT, OTHERS)
    baked = world.bake(again=True)
    assert {image.id for image in world.own} == {there.id, baked.image.id}
    assert f"{there.subject} stays: {OTHERS} may launch it" in world.said
    assert f"aws ec2 deregister-image --image-id {there.id}" in world.said
    assert world.bake().image.id == baked.image.id, "the newest is the current one"
    world.ec2.permissions.clear()
    world.bake()
    assert [image.id for image in world.own] == [baked.image.id]


class Killed(BaseException):
    """The end of the process."""


MOMENTS = ("packer", "packer-done", "tag", "launch_permissions", "remove", "remove snapshots")


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("moment", MOMENTS)
def test_rebake_that_is_killed_anywhere_ends_with_one_ami_and_its_own_facts(
    world: World, moment: str, again: bool
) -> None:
    there = world.there()
    world.packer.facts = b"facts of the new one"
    world.ec2.fail[moment] = Killed()
    with pytest.raises(Killed):
        world.bake(again=True)
    assert moment not in ("packer", "packer-done", "tag") or there in world.own
    world.ec2.fail.clear()
    seen: list[bytes] = []

    def check(raw: bytes) -> NodeFacts:
        seen.append(raw)
        return FACTS

    baked = world.bake(again=again, check=check)
    assert [image.id for image in world.own] == [baked.image.id]
    is_old = moment == "packer" and not again
    assert (baked.image.id == there.id) is is_old
    assert seen == [b"facts of before" if is_old else b"facts of the new one"]
    assert len(world.packer.jobs) == (2 if moment == "packer" and again else 1), "what was baked is adopted"
    assert set(world.ec2.own_snapshots) == {one.snapshot for one in baked.image.snapshots}
    assert world.ec2.leftover == []


def test_a_kill_between_an_ami_and_its_snapshots_leaves_none_after_the_next_bake(world: World) -> None:
    failed = world.there(state="failed")
    world.ec2.fail["remove snapshots"] = Killed()
    with pytest.raises(Killed):
        world.bake()
    assert world.own == []
    (left,) = (one.snapshot for one in failed.snapshots)
    assert left in world.ec2.own_snapshots
    world.ec2.fail.clear()
    baked = world.bake()
    assert set(world.ec2.own_snapshots) == {one.snapshot for one in baked.image.snapshots}
    assert f"removing snapshot {left}" in world.said


def test_a_snapshot_that_ec2_does_not_let_go_is_told_and_removed_by_the_next_bake(world: World) -> None:
    there = world.there()
    (held,) = (one.snapshot for one in there.snapshots)
    world.ec2.held_snapshots = {held}
    baked = world.bake(again=True)
    assert f"snapshot {held} is still in use" in world.said
    world.ec2.held_snapshots.clear()
    world.bake()
    assert set(world.ec2.own_snapshots) == {one.snapshot for one in baked.image.snapshots}


def test_snapshots_of_other_bakes_and_of_amis_that_are_there_are_no_business_of_a_bake(world: World) -> None:
    other = world.ec2.add("other")
    (mine,) = (one.snapshot for one in other.snapshots)
    world.ec2.tag([mine], {BAKE_TAG: str(INPUTS)})
    world.bake()
    assert mine in world.ec2.own_snapshots


@pytest.mark.parametrize("again", [True, False])
def test_an_ami_of_somebody_else_keeps_its_name_and_the_error_says_how_to_give_it_back(
    world: World, again: bool
) -> None:
    there = world.there(description="mine")
    error = refused(lambda: world.bake(again=again), ConflictError)
    assert error.subject == f"AMI name {there.name}"
    assert there.id in error.cause
    assert f"aws ec2 deregister-image --image-id {there.id}" in error.hint
    assert world.own == [there]
    assert world.packer.jobs == []


def test_what_a_killed_run_left_is_removed_before_the_bake_and_told(world: World) -> None:
    world.ec2.leftover = [INSTANCE, KEY]
    world.bake()
    assert world.ec2.done[:3] == [f"remove {INSTANCE}", f"remove {KEY}", "make security group sg-of-subnet-1"]
    assert f"removing {INSTANCE}: a build that was cut off left it" in world.said
    assert world.ec2.leftover == []


@pytest.mark.parametrize("kind", ["instance", "security group"])
def test_what_another_host_works_with_right_now_is_left_alone_and_who_that_is_is_told(
    world: World, kind: Literal["instance", "security group"]
) -> None:
    theirs = Leftover(kind=kind, id="x-1", owner="4567 you@there", alive_at=NOW - 40)
    world.ec2.leftover = [KEY, theirs]
    error = refused(world.bake, ConflictError)
    assert error.cause == f"is being baked by you@there ({kind} x-1, last heard of 40 s ago)"
    assert "10 minutes" in error.hint
    assert world.ec2.leftover == [KEY, theirs]
    assert (world.ec2.done, world.packer.jobs, world.packer.held) == ([], [], [])


@pytest.mark.parametrize(("owner", "alive_at"), [("4567 you@there", NOW - 601), ("0123 me@here", NOW), ("", NOW)])
def test_what_nobody_works_with_is_removed(world: World, owner: str, alive_at: float) -> None:
    world.ec2.leftover = [Leftover(kind="instance", id="i-1", owner=owner, alive_at=alive_at)]
    world.bake()
    assert world.ec2.leftover == []
    assert len(world.own) == 1


def test_what_a_killed_run_left_is_removed_where_its_ami_is_adopted(world: World) -> None:
    world.there()
    world.ec2.leftover = [INSTANCE]
    world.bake()
    assert world.ec2.leftover == []


@pytest.mark.parametrize(
    "error",
    [
        PackerError("bake", "a script failed"),
        MissingToolError("packer", "is not installed"),
        KeyboardInterrupt(),
        OSError("disk"),
    ],
)
def test_a_build_that_fails_leaves_nothing(world: World, error: BaseException) -> None:
    world.packer.error = error
    with pytest.raises(type(error)) as caught:
        world.bake()
    assert caught.value is error
    assert world.own == []
    assert world.ec2.leftover == []
    assert world.packer.held == []


def test_without_packer_nothing_is_made_ready_for_it(world: World) -> None:
    world.packer.error = MissingToolError("packer", "is not installed")
    refused(world.bake, MissingToolError)
    assert (world.payloads, world.ec2.done) == (0, [])


@pytest.mark.parametrize("what", ["payload", "source", "group"])
def test_what_fails_before_packer_leaves_nothing_either(world: World, what: str) -> None:
    def payload() -> Path:
        raise NetworkError("registry", "is away")

    more: dict[str, object] = {"payload": payload} if what == "payload" else {}
    if what == "source":
        del world.ec2.images[world.source.id]
    if what == "group":
        world.ec2.fail["group"] = AccessError("ec2", "CreateSecurityGroup is denied")
    kinds: dict[str, type[BundleError]] = {"payload": NetworkError, "source": ConflictError, "group": AccessError}
    with pytest.raises(kinds[what]):
        world.bake(**more)
    assert world.ec2.leftover == []
    assert world.packer.jobs == []


def test_where_cleaning_up_fails_too_the_first_error_is_told_and_what_may_be_left(world: World) -> None:
    world.packer.error = PackerError("bake", "a script failed")
    world.ec2.fail["remove"] = AccessError("ec2", "TerminateInstances is denied")
    error = refused(world.bake, PackerError)
    assert error.cause == "a script failed"
    assert "TerminateInstances is denied" in error.safe
    assert "the next run removes it" in world.said
    world.packer.error = None
    world.ec2.fail.clear()
    world.bake()
    assert world.ec2.leftover == []


def test_an_ami_that_packer_gave_up_waiting_for_is_told(world: World) -> None:
    world.packer.state = "failed"
    assert refused(world.bake, TargetError).cause == "did not become available"
    world.packer.state = "available"
    assert world.bake().image.state == "available"
    assert len(world.own) == 1


def test_what_an_ami_of_before_said_of_itself_is_not_taken_for_the_new_ones(world: World) -> None:
    world.facts.write_bytes(b"facts of before")
    world.packer.facts = None
    error = refused(world.bake, LocalResourceError)
    assert error.cause == "cannot be read: No such file or directory"
    world.packer.facts = b"facts"
    assert world.bake(check=lambda raw: FACTS if raw == b"facts" else unfit(raw)).facts == FACTS
    assert len(world.own) == 1


def unfit(raw: bytes) -> NodeFacts:
    raise FindingsError("AMI workers", "containerd is below the floor", exit_code=3)


def test_a_new_ami_whose_facts_are_refused_does_not_stay(world: World) -> None:
    with pytest.raises(FindingsError, match="below the floor"):
        world.bake(check=unfit)
    assert world.own == []
    assert world.ec2.leftover == []
    assert "it is not fit for the bundle" in world.said


def test_an_earlier_ami_whose_facts_are_refused_stays_for_whom_it_fits(world: World) -> None:
    there = world.there()
    with pytest.raises(FindingsError, match="below the floor") as caught:
        world.bake(check=unfit)
    assert [one.id for one in world.own] == [there.id]
    assert caught.value.safe == f"{there.subject} stays: an earlier build made it. bundle build --rebake makes another."


def test_the_ami_that_the_lock_records_is_found_without_its_facts_file(world: World) -> None:
    there = world.there()
    world.facts.unlink()
    record = bake_of(world.ami()).model_copy(update={"ami": there.id, "inputs": INPUTS})
    baked = world.bake(recorded=record)
    assert (baked.image.id, baked.facts) == (there.id, record.facts)
    assert world.ec2.done == []


@pytest.mark.parametrize("owner", [None, OTHERS])
def test_a_recorded_ami_that_is_gone_or_another_accounts_is_not_baked_again(world: World, owner: str | None) -> None:
    if owner is not None:
        world.there(owner=owner)
    gone = max(world.ec2.images)
    record = bake_of(world.ami()).model_copy(update={"ami": gone if owner else "ami-0123456789abcdef0"})
    error = refused(lambda: world.bake(recorded=record), LockChangedError)
    assert f"is not in {ACCOUNT}" in error.cause
    assert "--rebake" in error.hint
    assert world.packer.jobs == []


def carried(world: World, kind: str = "id") -> LockedAmi:
    return world.ami(kind=kind, preload=(), volume_size=None)


def test_an_own_private_ami_is_carried_as_it_is(world: World) -> None:
    world.source = world.ec2.add("own")
    baked = world.bake(carried(world))
    assert (baked.image, baked.facts) == (world.source, None)
    assert world.ec2.done == []


@pytest.mark.parametrize("owner", ["public", "foreign", "shared"])
def test_an_ami_whose_snapshots_cannot_be_read_is_copied_once_and_found_again(world: World, owner: str) -> None:
    if owner == "foreign":
        world.source = world.ec2.add("foreign", owner=OTHERS)
    if owner == "shared":
        world.source = world.ec2.add("own", snapshot_owner=OTHERS)
    world.ec2.uefi = "AAAA"
    ami = carried(world, "bottlerocket")
    baked = world.bake(ami)
    assert baked.image.name == ami_name(ami, INPUTS)
    assert baked.image.tags == {BAKE_TAG: str(INPUTS)}
    assert (baked.facts, baked.attributes.uefi_data) == (None, "AAAA")
    assert world.bake(ami).image == baked.image
    assert world.ec2.done == [f"copy {world.source.id} as {baked.image.name}"]
    assert world.packer.jobs == []


@pytest.mark.parametrize("kind", ["id", "bottlerocket"])
@pytest.mark.parametrize("is_recorded", [True, False])
def test_our_copy_is_enough_where_the_ami_that_it_was_made_of_is_deregistered_since(
    world: World, kind: str, is_recorded: bool
) -> None:
    world.source = world.ec2.add("foreign", owner=OTHERS)
    ami = carried(world, kind)
    first = world.bake(ami).image
    del world.ec2.images[world.source.id]
    record = bake_of(ami).model_copy(update={"ami": first.id, "inputs": INPUTS, "facts": None})
    assert world.bake(ami, recorded=record if is_recorded else None).image == first
    assert len(world.ec2.done) == 1, "the copy"


def test_without_the_ami_and_without_a_copy_that_did_not_fail_nothing_is_removed(world: World) -> None:
    world.source = world.ec2.add("foreign", owner=OTHERS)
    ami = carried(world)
    there = world.ec2.add(ami_name(ami, INPUTS), state="failed", tags={BAKE_TAG: str(INPUTS)})
    del world.ec2.images[world.source.id]
    assert refused(lambda: world.bake(ami), ConflictError).subject == f"AMI {world.source.id}"
    assert world.own == [there]


def test_a_public_ami_of_ours_is_copied_too(world: World) -> None:
    world.source = world.ec2.add("own", is_public=True)
    assert world.bake(carried(world)).image.id != world.source.id


def test_an_own_ami_that_is_pending_is_waited_for(world: World) -> None:
    world.source = world.ec2.add("own", state="pending")
    world.ec2.later[world.source.id] = ["pending", "pending", "available"]
    assert world.bake(carried(world)).image.state == "available"


def test_a_copy_that_ec2_does_not_show_at_once_is_waited_for(world: World) -> None:
    world.ec2.hidden[f"ami-{2:017x}"] = 3
    assert world.bake(carried(world)).image.id == f"ami-{2:017x}"
    assert world.clock == 9.0


def test_a_copy_that_is_gone_is_made_again_though_its_token_still_gives_it(world: World) -> None:
    ami = carried(world)
    for _ in range(3):
        world.ec2.remove(world.bake(ami).image)
    baked = world.bake(ami)
    assert [image.id for image in world.own] == [baked.image.id]


def test_tokens_that_only_give_copies_that_are_gone_come_to_an_end(world: World) -> None:
    ami = carried(world)
    for _ in range(5):
        world.ec2.remove(world.bake(ami).image)
    assert "gave no copy in 5 tries" in refused(lambda: world.bake(ami), TargetError).cause


def test_a_copy_that_fails_later_is_removed_by_the_next_run(world: World) -> None:
    world.ec2.next_copy = lambda image: replace(image, state="pending")
    world.ec2.later[f"ami-{2:017x}"] = ["pending", "failed"]
    ami = carried(world)
    refused(lambda: world.bake(ami), TargetError)
    world.ec2.next_copy = lambda image: image
    assert world.bake(ami).image.state == "available"
    assert "the copy failed" in world.said
    assert len(world.own) == 1


def test_a_copys_name_that_somebody_else_has_is_told(world: World) -> None:
    ami = carried(world)
    there = world.ec2.add(ami_name(ami, INPUTS))
    error = refused(lambda: world.bake(ami), ConflictError)
    assert f"aws ec2 deregister-image --image-id {there.id}" in error.hint
    assert world.own == [there]


def test_an_ami_that_is_gone_since_it_was_locked_is_told(world: World) -> None:
    ami = carried(world)
    del world.ec2.images[world.source.id]
    assert "does not exist (any more)" in refused(lambda: world.bake(ami), ConflictError).cause


def test_attributes_that_nobody_knows_are_refused_in_one_line(world: World) -> None:
    world.source = world.ec2.add("own", boot_mode="quantum")
    error = refused(lambda: world.bake(carried(world)), PolicyError)
    assert "boot_mode: Input should be" in error.cause
    assert "\n" not in error.cause


@pytest.mark.parametrize("kind", ["id", "bake", "template"])
def test_a_lock_that_does_not_say_what_to_bake_on_is_refused(world: World, kind: str) -> None:
    error = refused(lambda: world.bake(world.ami(kind=kind, source=None)), LockChangedError)
    assert "in the lock" in error.cause
    assert world.packer.jobs == []


def team(world: World) -> tuple[LockedAmi, dict[str, object]]:
    tags = {TEMPLATE_TAG: str(TEMPLATE), BAKE_TAG: str(INPUTS)}
    job = PackerJob(name="the team's", run=INPUTS, folder=Path("/team"), file="t.json", variables={"a": "1"}, tags=tags)
    return world.ami(kind="template", source=None, template=TEMPLATE), {"team": job}


def test_a_teams_template_is_built_and_baked_upon_and_found_by_its_tag(world: World) -> None:
    ami, more = team(world)
    baked = world.bake(ami, **more)
    theirs, ours = world.packer.jobs
    assert (theirs.name, theirs.variables) == ("the team's", {"a": "1"})
    made = world.ec2.images[ours.variables["source_ami"]]
    assert (made.name, made.tags[TEMPLATE_TAG]) == ("the team's own", str(TEMPLATE))
    assert baked.image.id != made.id
    world.ec2.remove(baked.image)
    world.bake(ami, **more)
    assert [job.name for job in world.packer.jobs] == ["the team's", "workers amd64", "workers amd64"]
    assert "your template made" in world.said


def test_a_teams_template_without_a_security_group_gets_ours_and_it_goes_with_the_rest(world: World) -> None:
    ami, more = team(world)
    world.packer.networks = TeamNetwork(subnet="subnet-theirs")
    world.bake(ami, **more)
    assert world.packer.jobs[0].security_group == "sg-of-subnet-theirs"
    assert world.packer.jobs[1].variables["security_group_id"] == "sg-of-subnet-1"
    assert world.ec2.leftover == []


def test_a_teams_template_with_a_network_of_its_own_is_left_alone(world: World) -> None:
    ami, more = team(world)
    world.bake(ami, **more)
    assert world.packer.jobs[0].security_group is None


def noted(world: World, *, is_interim: bool = False, **more: object) -> FoundImage:
    """The AMI that a team's template was making when everything was killed: it bears no tags."""
    made = world.ec2.add("the team's own", **{"state": "pending", "root_device": "/dev/xvda", **more})
    world.packer.note = NotedAmi(id=made.id, is_interim=is_interim)
    world.ec2.later[made.id] = ["pending", "pending", "available"]
    return made


def test_a_teams_ami_that_was_noted_is_waited_for_tagged_and_baked_upon(world: World) -> None:
    ami, more = team(world)
    made = noted(world)
    world.bake(ami, **more)
    assert [job.name for job in world.packer.jobs] == ["workers amd64"]
    assert world.packer.jobs[0].variables["source_ami"] == made.id
    assert world.ec2.images[made.id].tags == {TEMPLATE_TAG: str(TEMPLATE)}
    assert world.packer.note is None


@pytest.mark.parametrize("why", ["interim", "failed"])
def test_a_teams_ami_that_becomes_none_is_removed_and_built_again(world: World, why: str) -> None:
    ami, more = team(world)
    made = noted(world, is_interim=why == "interim")
    if why == "failed":
        world.ec2.later[made.id] = ["pending", "failed"]
    world.bake(ami, **more)
    assert made.id not in world.ec2.images
    assert [job.name for job in world.packer.jobs] == ["the team's", "workers amd64"]
    assert world.packer.note is None


@pytest.mark.parametrize("what", ["gone", "foreign"])
def test_a_teams_ami_that_is_gone_or_not_ours_is_forgotten(world: World, what: str) -> None:
    ami, more = team(world)
    made = noted(world, **({"owner": OTHERS} if what == "foreign" else {}))
    if what == "gone":
        del world.ec2.images[made.id]
    world.bake(ami, **more)
    assert (made.id in world.ec2.images) is (what == "foreign")
    assert [job.name for job in world.packer.jobs] == ["the team's", "workers amd64"]
    assert world.packer.note is None


def test_a_teams_ami_that_failed_is_no_source(world: World) -> None:
    ami, more = team(world)
    failed = world.ec2.add("the team's own", state="failed", tags={TEMPLATE_TAG: str(TEMPLATE)})
    world.bake(ami, **more)
    assert world.packer.jobs[1].variables["source_ami"] != failed.id


def test_a_teams_template_that_fails_leaves_nothing(world: World) -> None:
    ami, more = team(world)
    world.packer.error = PackerError("the team's", "a script failed")
    refused(lambda: world.bake(ami, **more), PackerError)
    assert world.own == []
    assert world.ec2.leftover == []
