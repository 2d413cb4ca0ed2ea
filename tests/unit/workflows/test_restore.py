"""The restore phase: what it plans, what the journal spares it, and that it stops when the lock is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from bundler.archive.reader import Archive, open_archive
from bundler.domain.events import Event, Noted
from bundler.domain.plan import Plan
from bundler.domain.restored import AMI_TAG, NOT_YET
from bundler.domain.site import Site
from bundler.errors import ConflictError, FormatError, LockLostError, TargetError
from bundler.journal import Journal, Place, Session, hold
from bundler.retry import Patience
from bundler.stages.restore import DEVICE_TAG, INDEX_TAG
from bundler.transfer import Pace
from bundler.workflows.restore import AmiPlan, Machines, Restoration
from tests.fakes.account import Account, Clock
from tests.fakes.amis import TWO_DEVICES, MadeAmi, ami_sample, restored_blocks, shifted
from tests.fakes.archives import MemorySource, Sample
from tests.fakes.sites import group_document, make_site

KEY = "arn:aws:kms:ap-northeast-1:111122223333:key/1"
OTHER_KEY = "arn:aws:kms:ap-northeast-1:111122223333:key/2"


def opened(made: Sample, folder: Path) -> Archive:
    return open_archive(MemorySource(made.build(folder).read_bytes()), made.trust)


def site_of(*amis: str, **changes: Any) -> Site:
    groups = [group_document(name=f"g{number}", ami=ami) for number, ami in enumerate(amis)]
    return make_site(nodeGroups=groups, **changes)


class Run:
    """An archive, a site, its account, and the journal on this host."""

    def __init__(self, folder: Path, *amis: MadeAmi, site: Site | None = None, account: Account | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.archive = opened(ami_sample(*amis), folder)
        self.site = site or site_of("workers")
        self.account, self.clock = account or Account(), Clock()
        self.events: list[Event] = []
        self.lost_after: int | None = None

    @property
    def restoration(self) -> Restoration:
        return Restoration(
            archive=self.archive,
            site=self.site,
            machines=Machines(images=self.account, blocks=self.account),
            patience=Patience(clock=self.clock, sleep=self.clock.sleep),
            pace=Pace(emit=self.events.append),
        )

    def plan(self) -> Plan:
        return sum((item.plan for item in self.restoration.observe()), Plan())

    def restore(self) -> tuple[AmiPlan, ...]:
        """Do it, and look again."""
        with self.journal() as journal:
            self.restoration.run(self.restoration.observe(), journal)
        return self.restoration.observe()

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        session = Session(id="a", owner="a@host", bundle=self.archive.root.digest)
        with hold(Place(folder=self.folder / "state", site="a/b/c"), session) as journal:
            yield Losing(journal, self.lost_after) if self.lost_after is not None else journal  # type: ignore[misc]

    def contents(self) -> list[dict[int, bytes]]:
        """The blocks of every snapshot of every AMI."""
        return [self.account.content[one.snapshot] for ami in self.account.images.values() for one in ami.snapshots]

    def count(self, verb: str) -> int:
        return sum(write.startswith(verb) for write in self.account.writes)


class Losing:
    """A journal whose lock is lost after so many looks at it."""

    def __init__(self, journal: Journal, after: int) -> None:
        self._journal = journal
        self._left = after

    def check(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise LockLostError("lock of the site", "it was lost while working")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


WHOLE = [restored_blocks(blocks) for blocks in TWO_DEVICES.values()]


def test_the_plan_names_each_snapshot_and_the_ami_and_writes_nothing(run: Run) -> None:
    name = run.restoration.wanted[0].name
    assert [str(action) for action in run.plan()] == [
        f"restore snapshot of {name} /dev/xvda (60 blocks of 512 KiB in a volume of 1 GiB)",
        f"restore snapshot of {name} /dev/xvdb (3 blocks of 512 KiB in a volume of 1 GiB)",
        f"register AMI {name}",
    ]
    assert run.account.writes == []


def test_after_it_the_ami_has_every_block_and_nothing_is_left_to_do(run: Run) -> None:
    (there,) = run.restore()
    assert run.contents() == WHOLE
    assert there.plan.empty
    writes = len(run.account.writes)
    run.restore()
    assert len(run.account.writes) == writes


def test_everything_that_is_made_bears_the_tag_of_this_tool_and_of_what_it_is_and_none_of_a_cluster(run: Run) -> None:
    run.restore()
    (image,) = run.account.images.values()
    assert "bundle:cluster" not in image.tags
    owner = {"bundle:managed": "true"}
    assert image.tags.items() >= {**owner, AMI_TAG: str(run.restoration.wanted[0].digest)}.items()
    for one in image.snapshots:
        index = str(run.archive.lock.bake[0].index.digest)
        assert run.account.made[one.snapshot].tags == {**owner, INDEX_TAG: index, DEVICE_TAG: one.device}


def test_node_groups_get_the_id_that_the_ami_has_here(run: Run) -> None:
    before = run.restoration.images(run.restoration.observe())
    assert before["g0"].id == NOT_YET
    after = run.restoration.images(run.restore())
    assert after["g0"].id == next(iter(run.account.images))


def test_groups_with_amis_of_the_account_are_left_alone(tmp_path: Path) -> None:
    run = Run(tmp_path, site=site_of("workers", "ami-0123456789abcdef0"))
    assert set(run.restoration.images(run.restore())) == {"g0"}


def test_two_amis_are_restored_one_after_the_other(tmp_path: Path) -> None:
    run = Run(
        tmp_path, MadeAmi.of(), MadeAmi.of(shifted(TWO_DEVICES, 70), name="batch"), site=site_of("batch", "workers")
    )
    run.restore()
    other = [restored_blocks(blocks) for blocks in shifted(TWO_DEVICES, 70).values()]
    assert run.contents() == other + WHOLE
    assert len(run.account.images) == 2


def test_a_snapshot_that_is_there_is_shown_and_not_written_again(run: Run) -> None:
    run.restore()
    run.account.delete(*run.account.images)
    puts = run.count("put")
    plan = run.plan()
    assert [action.verb for action in plan] == ["register"]
    assert plan.unchanged == ("snapshot snap-0000", "snapshot snap-0001")
    run.restore()
    assert (run.count("put"), len(run.account.made)) == (puts, 2)


def test_a_copy_needs_no_blocks(tmp_path: Path) -> None:
    run = Run(tmp_path, site=site_of("workers", restore={"route": "copy"}))
    assert [action.verb for action in run.plan()] == ["copy"]
    run.restore()
    assert run.account.writes == ["copy ami-0fedcba9876543210"]


def test_frames_that_the_journal_holds_are_not_put_again(run: Run) -> None:
    """The lock is lost in the middle of the puts; what stands in finished packs is not sent again."""
    run.lost_after = 45
    with pytest.raises(LockLostError):
        run.restore()
    before, run.lost_after = run.count("put"), None
    run.restore()
    assert run.contents() == WHOLE
    assert run.count("start") == 4, "the same two"
    assert len(run.account.made) == 2
    again = run.count("put") - before
    assert 0 < again < 63


def test_a_journal_that_is_gone_costs_time_only(run: Run) -> None:
    run.lost_after = 45
    with pytest.raises(LockLostError):
        run.restore()
    run.lost_after = None
    (run.folder / "state" / "journal.jsonl").unlink()
    run.restore()
    assert run.contents() == WHOLE
    assert len(run.account.made) == 2


@pytest.mark.parametrize("lost_after", [0, 1, 2, 3, 10, 64, 65, 66, 67, 68])
def test_whenever_the_lock_is_lost_nothing_is_written_afterwards_and_the_next_run_finishes(
    run: Run, lost_after: int
) -> None:
    run.lost_after = lost_after
    with pytest.raises(LockLostError):
        run.restore()
    assert len(run.account.writes) <= lost_after, "each write was asked for before"
    run.lost_after = None
    run.restore()
    assert run.contents() == WHOLE
    assert (len(run.account.made), len(run.account.images)) == (2, 1)


def test_a_snapshot_that_ec2_completes_slowly_is_waited_for_by_the_next_run_too(run: Run) -> None:
    """CompleteSnapshot was taken, the state is pending: it takes no blocks, and is sealed once only."""
    run.account.settles = "pending"
    with pytest.raises(TargetError, match="is not complete after"):
        run.restore()
    writes = len(run.account.writes)
    with pytest.raises(TargetError, match="is not complete after"):
        run.restore()
    assert len(run.account.writes) == writes
    for name in run.account.made:
        run.account.becomes(name, "completed")
    run.restore()
    assert run.contents() == WHOLE
    assert len(run.account.made) == 2


def test_a_snapshot_that_went_to_error_is_begun_anew_and_the_plan_says_so(run: Run) -> None:
    run.account.settles = "error"
    with pytest.raises(TargetError, match="went to error") as caught:
        run.restore()
    assert caught.value.subject == "snapshot snap-0000"
    assert "; anew: snap-0000 went to error" in str(run.plan().actions[0])
    run.account.settles = "completed"
    run.restore()
    assert run.contents() == WHOLE
    assert sorted(one.state for one in run.account.made.values()) == ["completed", "completed", "error", "error"]


def test_one_that_went_to_error_while_it_waited_for_blocks_is_begun_anew(run: Run) -> None:
    run.lost_after = 45
    with pytest.raises(LockLostError):
        run.restore()
    run.account.becomes("snap-0000", "error", "timed out")
    run.lost_after = None
    run.restore()
    assert run.contents() == WHOLE
    assert {name: one.state for name, one in run.account.made.items()} == {
        "snap-0000": "error",
        "snap-0001": "completed",
        "snap-0002": "completed",
    }


def test_what_was_deregistered_and_deleted_is_restored_again_although_its_tokens_give_the_old_ids(run: Run) -> None:
    run.restore()
    old = [*run.account.made]
    run.account.delete(*run.account.images, *old)
    run.account.add(id="ami-x", name="another")
    run.restore()
    assert run.contents() == WHOLE
    assert len(run.account.made) == 2
    assert not {*run.account.made} & {*old}
    told = [event.text for event in run.events if isinstance(event, Noted)]
    assert f"{old[0]}, begun before, is not there any more: beginning another one" in told


def test_a_snapshot_that_ec2_shows_late_is_waited_for(run: Run) -> None:
    run.account.hidden = {"snap-0000", "snap-0001"}
    run.clock.at[5] = run.account.hidden.clear
    run.restore()
    assert len(run.account.made) == 2


def test_a_snapshot_that_ec2_never_shows_is_an_error_that_ends(run: Run) -> None:
    run.account.hidden = {f"snap-{number:04}" for number in range(9)}
    with pytest.raises(TargetError, match="EC2 does not show it"):
        run.restore()


def test_an_unencrypted_snapshot_is_not_taken_where_the_site_names_a_key(tmp_path: Path) -> None:
    account = Account()
    Run(tmp_path, account=account).restore()
    account.delete(*account.images)
    run = Run(tmp_path, site=site_of("workers", restore={"kmsKey": KEY}), account=account)
    assert [action.verb for action in run.plan()] == ["restore", "restore", "register"]
    run.restore()
    (image,) = account.images.values()
    assert {account.made[one.snapshot].kms_key for one in image.snapshots} == {KEY}


def cluster_site(name: str, *, kms_key: str | None = None, **restore: str) -> Site:
    cluster = make_site().cluster.model_dump(mode="json", by_alias=True, exclude_none=True)
    key = {} if kms_key is None else {"kmsKey": kms_key}
    return site_of("workers", cluster={**cluster, "name": name}, restore={**restore, **key})


def test_another_cluster_of_the_account_goes_on_with_what_a_first_one_began_and_nothing_is_left_over(
    tmp_path: Path,
) -> None:
    account = Account()
    one = Run(tmp_path / "one", site=cluster_site("c1"), account=account)
    one.lost_after = 45
    with pytest.raises(LockLostError):
        one.restore()
    other = Run(tmp_path / "other", site=cluster_site("c2"), account=account)
    other.restore()
    assert other.contents() == WHOLE
    one.lost_after = None
    writes = len(account.writes)
    one.restore()
    assert len(account.writes) == writes, "one AMI serves both"
    assert [each.state for each in account.made.values()] == ["completed", "completed"]
    assert len(account.images) == 1


@pytest.mark.parametrize("after", [1, 10, 40, 64, 65])
def test_two_clusters_that_restore_at_the_same_time_end_with_one_ami(tmp_path: Path, after: int) -> None:
    account = Account()
    one = Run(tmp_path / "one", site=cluster_site("c1"), account=account)
    other = Run(tmp_path / "other", site=cluster_site("c2"), account=account)
    with one.journal() as journal:
        one.restoration.run(one.restoration.observe(), Meanwhile(journal, after, other.restore))  # type: ignore[arg-type]
    assert one.contents() == WHOLE
    assert (len(account.made), len(account.images)) == (2, 1)
    assert one.plan().empty
    assert other.plan().empty


class Meanwhile:
    """A journal; at one of the looks at its lock something else happens first."""

    def __init__(self, journal: Journal, after: int, event: Callable[[], object]) -> None:
        self._journal = journal
        self._looks = count(1)
        self._after = after
        self._event = event
        self._lock = threading.Lock()

    def check(self) -> None:
        with self._lock:
            if next(self._looks) == self._after:
                self._event()
        self._journal.check()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)


def test_sites_of_one_account_with_different_keys_each_have_their_own_and_leave_the_others_alone(
    tmp_path: Path,
) -> None:
    account = Account()
    alias = KEY.replace("key/1", "alias/nodes")
    runs = {
        key: Run(tmp_path / f"{number}", site=cluster_site(f"c{number}", kms_key=key), account=account)
        for number, key in enumerate((KEY, None, OTHER_KEY, alias))
    }
    for key, run in runs.items():
        before = set(account.images)
        run.restore()
        (made,) = set(account.images) - before
        assert {account.made[one.snapshot].kms_key for one in account.images[made].snapshots} == {key or ""}
        assert run.restoration.images(run.restoration.observe())["g0"].id == made
    writes = len(account.writes)
    for run in runs.values():
        run.restore()
    assert len(account.writes) == writes
    assert (len(account.made), len(account.images)) == (8, 4)


def test_a_snapshot_of_another_key_that_went_to_error_does_not_change_what_goes_on(tmp_path: Path) -> None:
    account = Account()
    one = Run(tmp_path / "one", site=cluster_site("c1", kms_key=KEY), account=account)
    one.lost_after = 45
    with pytest.raises(LockLostError):
        one.restore()
    account.settles = "error"
    other = Run(tmp_path / "other", site=cluster_site("c2", kms_key=OTHER_KEY), account=account)
    with pytest.raises(TargetError):
        other.restore()
    account.settles, one.lost_after = "completed", None
    one.restore()
    assert [each.state for each in account.made.values() if each.kms_key == KEY] == ["completed", "completed"]


def test_two_clusters_take_one_copy(tmp_path: Path) -> None:
    account = Account()
    runs = [Run(tmp_path / name, site=cluster_site(name, route="copy"), account=account) for name in ("c1", "c2")]
    planned = [run.restoration.observe() for run in runs]
    for run, plan in zip(runs, planned, strict=True):
        with run.journal() as journal:
            run.restoration.run(plan, journal)
    assert len(account.images) == 1


def test_an_index_that_lies_about_the_devices_stops_the_plan(tmp_path: Path) -> None:
    device = [{"device": "/dev/xvda", "size": 1}]
    run = Run(tmp_path, MadeAmi.of(attributes={"root_device": "/dev/xvda", "devices": device}))
    with pytest.raises(FormatError, match="has other devices than the AMI in the lock"):
        run.plan()
    assert run.account.writes == []


def test_blocks_that_aws_holds_otherwise_are_a_conflict(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(snapshot: str, number: int, content: bytes, sha256: bytes) -> None:
        """Say yes, and keep nothing."""

    monkeypatch.setattr(run.account, "put", forgetful)
    with pytest.raises(ConflictError, match="holds other blocks"):
        run.restore()
    assert run.account.images == {}


def test_a_journal_that_lies_is_noticed_when_the_snapshot_is_sealed_and_not_believed_again(run: Run) -> None:
    with run.journal() as journal:
        key = journal.key("restore-frames", snapshots={"/dev/xvda": "snap-0000", "/dev/xvdb": "snap-0001"})
        journal.record("restore", key, frames="5")
    with pytest.raises(ConflictError):
        run.restore()
    run.restore()
    assert run.contents() == WHOLE
    assert len(run.account.made) == 2
