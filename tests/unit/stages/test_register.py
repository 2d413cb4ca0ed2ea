"""Register: one AMI whatever happened before, and every wait ends with what it waited for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bundler.domain.events import Event, Noted, Waiting
from bundler.domain.machine_image import FoundImage
from bundler.domain.names import owner_tags
from bundler.domain.restored import AMI_TAG, WantedAmi
from bundler.domain.site import Site
from bundler.domain.snapshot import FoundSnapshot
from bundler.errors import ConflictError, RejectedError, TargetError
from bundler.retry import Patience
from bundler.stages.register import RegisterPlan, Registry, observe_ami, register
from tests.fakes.account import ACCOUNT, Account, Clock, rejected
from tests.fakes.amis import MadeAmi
from tests.fakes.sites import make_site

WANTED = WantedAmi(baked=MadeAmi.of().baked)
SNAPSHOTS = {"/dev/xvda": "snap-a", "/dev/xvdb": "snap-b"}
TAGS = owner_tags("c1")


class Run:
    """One site with its account, a clock, and what was told."""

    def __init__(self, *, route: str = "ebs-direct", deadline_s: float = 900, **restore: Any) -> None:
        self.account, self.clock = Account(), Clock()
        self.events: list[Event] = []
        self.site: Site = make_site(restore={"route": route, **restore})
        patience = Patience(deadline_s=deadline_s, clock=self.clock, sleep=self.clock.sleep, emit=self.events.append)
        self.registry = Registry(images=self.account, tags=TAGS, patience=patience, emit=self.events.append)
        for name in SNAPSHOTS.values():
            self.account.made[name] = FoundSnapshot(id=name, state="completed", tags={})

    def observe(self) -> RegisterPlan:
        return observe_ami(WANTED, self.site, images=self.account)

    def register(self, snapshots: dict[str, str] | None = None) -> FoundImage:
        given = SNAPSHOTS if snapshots is None else snapshots
        return register(self.observe(), self.site, snapshots=given, registry=self.registry)

    def ours(self, **values: Any) -> str:
        known = {"name": WANTED.name, "description": WANTED.description, **values}
        return self.account.add(**known)


def test_it_is_registered_with_name_attributes_snapshots_and_tags() -> None:
    run = Run()
    assert [action.verb for action in run.observe().plan] == ["register"]
    image = run.register()
    assert (image.name, image.description, image.owner) == (WANTED.name, WANTED.description, ACCOUNT)
    assert {one.device: one.snapshot for one in image.snapshots} == SNAPSHOTS
    assert image.tags == {**TAGS, AMI_TAG: str(WANTED.digest), "Name": WANTED.name}
    assert run.account.writes == [f"register {WANTED.name}"]
    assert Noted(text=f"workers amd64 is {image.id}") in run.events


def test_one_that_is_there_by_its_tag_is_taken_whatever_its_name() -> None:
    run = Run()
    there = run.account.add(name="renamed", tags={AMI_TAG: str(WANTED.digest)})
    assert run.observe().plan.empty
    assert run.register().id == there
    assert run.account.writes == []


def test_of_several_with_the_tag_one_that_is_available_is_taken() -> None:
    run = Run()
    for state in ("failed", "pending", "available", "deregistered"):
        run.account.add(name=state, state=state, tags={AMI_TAG: str(WANTED.digest)})
    assert run.register().name == "available"


def test_the_tag_on_an_ami_of_somebody_else_says_nothing() -> None:
    run = Run()
    run.account.add(owner="999999999999", tags={AMI_TAG: str(WANTED.digest)})
    assert run.observe().there is None


def test_killed_after_the_registration_and_before_the_tags_it_is_found_by_its_name_and_tagged() -> None:
    run = Run()
    there = run.ours()
    image = run.register()
    assert image.id == there
    assert run.account.writes == [f"tag {there}"]
    assert run.account.images[there].tags[AMI_TAG] == str(WANTED.digest)
    run.register()
    assert run.account.writes == [f"tag {there}"], "the second time writes nothing"


def test_a_name_that_another_ami_has_is_a_conflict_that_says_which_and_what_to_do() -> None:
    run = Run()
    taken = run.ours(description="golden image of the team")
    with pytest.raises(ConflictError) as caught:
        run.observe()
    assert caught.value.subject == f"AMI name {WANTED.name}"
    assert f"is taken by {taken}, which this tool did not register" in caught.value.cause
    assert f"aws ec2 deregister-image --image-id {taken}" in caught.value.hint
    assert caught.value.exit_code == 7


def test_a_name_that_ours_has_and_that_failed_is_a_conflict_that_says_so() -> None:
    run = Run()
    failed = run.ours(state="failed", tags={AMI_TAG: str(WANTED.digest)})
    with pytest.raises(ConflictError, match=f"is taken by {failed}, which is failed"):
        run.observe()


def test_a_name_taken_between_plan_and_registration_is_looked_at_again() -> None:
    run = Run()
    plan = run.observe()
    ours = run.ours()
    assert register(plan, run.site, snapshots=SNAPSHOTS, registry=run.registry).id == ours
    run = Run()
    plan = run.observe()
    run.ours(description="of somebody else")
    with pytest.raises(ConflictError, match="which this tool did not register"):
        register(plan, run.site, snapshots=SNAPSHOTS, registry=run.registry)


def test_a_name_that_is_taken_by_an_ami_nobody_sees_is_told_with_what_ec2_says() -> None:
    """As one that is disabled."""
    run = Run()
    run.account.hidden.add(run.ours())
    with pytest.raises(
        ConflictError, match=r"by an AMI that EC2 does not show: AMI name .* is already in use"
    ) as caught:
        run.register()
    assert f"--include-disabled --filters Name=name,Values={WANTED.name}" in caught.value.hint
    assert "deregister-image --image-id ID" in caught.value.hint


def test_any_other_refusal_goes_through_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run()

    def refuse(_: object) -> str:
        raise rejected("InvalidParameter", "no")

    monkeypatch.setattr(run.account, "register", refuse)
    with pytest.raises(RejectedError):
        run.register()


def test_snapshots_that_are_being_completed_are_waited_for() -> None:
    run = Run()
    run.account.becomes("snap-b", "pending")
    run.clock.at[100] = lambda: run.account.becomes("snap-b", "completed")
    run.register()
    assert 100 <= run.clock.now < 110
    assert any(isinstance(event, Waiting) and "snap-b" in event.state for event in run.events)


@pytest.mark.parametrize(
    ("why", "told"), [("KMS key is disabled", "KMS key is disabled"), ("", "EC2 does not say why")]
)
def test_a_snapshot_that_goes_to_error_ends_it_with_the_reason(why: str, told: str) -> None:
    run = Run()
    run.account.becomes("snap-a", "pending")
    run.clock.at[50] = lambda: run.account.becomes("snap-a", "error", why)
    with pytest.raises(TargetError) as caught:
        run.register()
    assert (caught.value.subject, caught.value.exit_code) == ("snapshot snap-a", 8)
    assert caught.value.cause == f"went to error: {told}"
    assert "run the same command again: it begins a new one" in caught.value.hint
    assert run.account.writes == []


@pytest.mark.parametrize("state", ["pending", None])
def test_a_snapshot_that_is_pending_for_ever_or_gone_ends_at_the_deadline(state: str | None) -> None:
    run = Run(deadline_s=60)
    if state is None:
        run.account.delete("snap-a")
    else:
        run.account.becomes("snap-a", state)
    with pytest.raises(TargetError, match=r"is not complete after 6[0-9] s"):
        run.register()
    assert run.account.writes == []


def test_an_ami_that_is_being_made_is_waited_for() -> None:
    run = Run()
    run.account.registered_as = "pending"
    run.clock.at[30] = lambda: run.account.becomes(
        run.account.own_tagged(AMI_TAG, str(WANTED.digest))[0].id, "available"
    )
    assert run.register().state == "available"


def test_an_ami_that_is_pending_for_ever_ends_at_the_deadline_and_the_next_run_waits_for_the_same() -> None:
    run = Run(deadline_s=60)
    run.account.registered_as = "pending"
    for _ in range(2):
        with pytest.raises(TargetError, match=r"is still pending after 6[0-9] s"):
            run.register()
    assert run.account.writes == [f"register {WANTED.name}"]


def test_an_ami_that_fails_ends_it_with_the_reason_and_how_to_make_it_anew() -> None:
    run = Run()
    run.account.registered_as = "pending"
    run.clock.at[9] = lambda: run.account.becomes(*(f"ami-{0:08}", "failed", "the snapshot is gone"))
    with pytest.raises(TargetError, match="is failed: the snapshot is gone") as caught:
        run.register()
    assert "aws ec2 deregister-image --image-id ami-00000000" in caught.value.hint


def test_an_ami_that_ec2_shows_a_moment_later_is_waited_for() -> None:
    run = Run()
    run.account.hidden.add("ami-00000000")
    run.clock.at[5] = run.account.hidden.clear
    assert run.register().id == "ami-00000000"


def test_an_ami_that_ec2_never_shows_ends_at_the_deadline() -> None:
    run = Run(deadline_s=30)
    run.account.hidden.add("ami-00000000")
    with pytest.raises(TargetError, match="was made, and EC2 does not show it"):
        run.register()


def shared(**values: Any) -> dict[str, Any]:
    return {"id": WANTED.baked.ami, "owner": WANTED.baked.account, "name": "eks-bundler-workers", **values}


def test_the_route_share_takes_the_ami_where_it_is_and_writes_nothing() -> None:
    run = Run(route="share")
    run.account.add(**shared())
    assert run.observe().plan.empty
    assert run.register({}).id == WANTED.baked.ami
    assert run.account.writes == []


@pytest.mark.parametrize("state", [None, "pending", "failed"])
def test_the_route_share_without_a_usable_ami_is_a_conflict_that_says_how_to_share_it(state: str | None) -> None:
    run = Run(route="share")
    if state is not None:
        run.account.add(**shared(state=state))
    with pytest.raises(ConflictError, match="of account 444455556666 is not shared with this one") as caught:
        run.observe()
    assert "modify-image-attribute" in caught.value.hint
    assert "ebs-direct" in caught.value.hint


def test_the_route_copy_copies_once_by_its_token() -> None:
    """The second run has lost sight of the first one's copy: neither tag nor name are shown yet."""
    run = Run(route="copy")
    plan = run.observe()
    assert [(action.verb, action.detail) for action in plan.plan] == [
        ("copy", "of ami-0fedcba9876543210 in 444455556666, eu-west-1")
    ]
    first = register(plan, run.site, snapshots={}, registry=run.registry)
    assert first.tags[AMI_TAG] == str(WANTED.digest)
    assert register(plan, run.site, snapshots={}, registry=run.registry).id == first.id
    assert len(run.account.images) == 1
    assert run.observe().there == first


def test_copies_for_different_keys_or_sites_have_different_tokens() -> None:
    tokens = set()
    for run in (Run(route="copy"), Run(route="copy", kmsKey="arn:aws:kms:ap-northeast-1:111122223333:key/1")):
        run.register()
        tokens |= set(run.account._by_token)
    assert len(tokens) == 2


def test_a_copy_that_was_deregistered_is_made_again_although_its_token_gives_the_old_one() -> None:
    run = Run(route="copy")
    first = run.register()
    run.account.delete(first.id)
    run.account.add(id="ami-another", name="another")
    second = run.register()
    assert second.id != first.id
    assert Noted(text=f"{first.id}, copied before, is not there any more: copying it again") in run.events
    assert run.clock.now < 120


def test_the_name_of_a_copy_that_is_taken_meanwhile_is_looked_at_again() -> None:
    run = Run(route="copy")
    plan = run.observe()
    ours = run.ours()
    assert register(plan, run.site, snapshots={}, registry=run.registry).id == ours


def test_a_plan_for_another_route_differs_in_nothing_else() -> None:
    plan = Run().observe()
    assert replace(plan, route="copy") == Run(route="copy").observe()
