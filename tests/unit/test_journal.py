"""The journal of a site: what survives a kill, and who may write."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.domain.digest import Digest
from bundler.domain.events import Event, Noted
from bundler.errors import (
    AccessError,
    ConflictError,
    LocalResourceError,
    LockedError,
    LockLostError,
    NetworkError,
    PolicyError,
)
from bundler.journal import Place, Session, hold, look_into, read_journal, was_cut_off
from bundler.lease import LEASE_S, LOCK_NAME
from tests.fakes.state_store import MemoryState

BUNDLE = Digest.of(b"bundle")
SITE = "111122223333/ap-northeast-1/c1"


def session(name: str = "a", **changes: str) -> Session:
    now = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    return Session(id=name, owner=f"{name}@host", bundle=BUNDLE, now=lambda: now, **changes)  # type: ignore[arg-type]


def place(folder: Path, mirror: MemoryState | None = None, site: str = SITE) -> Place:
    return Place(folder=folder / "state", site=site, mirror=mirror)


def write(where: Place, *steps: str, name: str = "a") -> None:
    with hold(where, session(name)) as journal:
        for step in steps:
            journal.record(step, journal.key(step, number=1), id=f"made-by-{step}")


def steps(where: Place) -> list[str]:
    return [record.step for record in read_journal(where)]


def test_looking_writes_nothing(tmp_path: Path) -> None:
    where = place(tmp_path, MemoryState())
    assert read_journal(where) == ()
    assert not where.folder.exists()
    assert where.mirror is not None
    assert not where.mirror.writes  # type: ignore[attr-defined]


def test_a_second_operator_reads_what_the_first_mirrored(tmp_path: Path) -> None:
    mirror = MemoryState()
    write(place(tmp_path / "first", mirror), "push", "add-ons")
    second = place(tmp_path / "second", mirror)
    before = list(mirror.writes)
    assert steps(second) == ["push", "add-ons"]
    assert mirror.writes == before
    assert not second.folder.exists()


def test_a_step_is_found_again_by_step_inputs_and_bundle(tmp_path: Path) -> None:
    where = place(tmp_path)
    write(where, "push")
    with hold(where, session("b")) as journal:
        found = journal.find(journal.key("push", number=1))
        assert found is not None
        assert found.facts == {"id": "made-by-push"}
        assert found.at == "2026-01-02T03:04:05Z"
        assert journal.find(journal.key("push", number=2)) is None


@given(cut=st.integers(min_value=1, max_value=60))
def test_a_torn_last_line_is_cut_and_the_rest_stays(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    where = place(tmp_path_factory.mktemp("journal"))
    write(where, "one", "two")
    content = where.file.read_bytes()
    where.file.write_bytes(content[:-cut])
    assert steps(where) == ["one"]
    write(where, "three")
    assert steps(where) == ["one", "three"]
    assert where.file.read_bytes().endswith(b"\n")


def test_a_torn_first_line_begins_anew(tmp_path: Path) -> None:
    where = place(tmp_path)
    where.folder.mkdir(mode=0o700)
    where.file.write_bytes(b'{"journal":')
    write(where, "one")
    assert steps(where) == ["one"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'{"journal":2,"site":"%s"}\n' % SITE.encode(), "of another format"),
        (b'{"journal":1,"site":"999999999999/x/y"}\n', "is the journal of '999999999999/x/y'"),
        (b'{"journal":1,"site":"%s"}\nrubbish\n{"a":1}\n' % SITE.encode(), "is damaged"),
        (b'{"journal":1,"site":"%s"}\n{"step":1}\n' % SITE.encode(), "is damaged"),
        (b"[]\n", "is damaged"),
    ],
)
def test_a_journal_that_is_not_this_ones_is_a_conflict_with_a_way_out(
    tmp_path: Path, content: bytes, text: str
) -> None:
    where = place(tmp_path)
    where.folder.mkdir(mode=0o700)
    where.file.write_bytes(content)
    with pytest.raises(ConflictError, match=text) as caught:
        write(where, "one")
    assert caught.value.hint
    assert where.file.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "text", "hint"),
    [
        (b'{"journal":2,"site":"%s"}\n' % SITE.encode(), "of another format", "aws s3 mv"),
        (b"rubbish\n", "is damaged", "aws s3 mv"),
        (b'{"journal":1,"site":"%s"}\nrubbish\n' % SITE.encode(), "is damaged", "aws s3 mv"),
        (b'{"journal":1,"site":"%s"}\n{"step":1}\n' % SITE.encode(), "is damaged", "aws s3 mv"),
        (b'{"journal":1,"site":"999999999999/x/y"}\n', "is the journal of '999999999999/x/y'", "state.s3"),
    ],
)
def test_a_mirror_that_is_not_this_sites_is_named_with_a_way_out_that_works(
    tmp_path: Path, content: bytes, text: str, hint: str
) -> None:
    store = MemoryState()
    where = place(tmp_path, store)
    write(where, "one")
    store.put("journal.jsonl", content, replaces=store.get("journal.jsonl").version)  # type: ignore[union-attr]
    with pytest.raises(ConflictError, match=text) as caught:
        write(where, "two")
    assert caught.value.subject == "s3://bucket/state/journal.jsonl"
    assert hint in caught.value.hint
    assert store.objects["journal.jsonl"][0] == content
    assert not was_cut_off(where)
    del store.objects["journal.jsonl"]  # as the hint says
    write(where, "two")
    assert steps(where) == ["one", "two"]


def test_a_damaged_journal_of_this_host_is_not_blamed_on_the_mirror(tmp_path: Path) -> None:
    where = place(tmp_path, MemoryState())
    write(where, "one")
    where.file.write_bytes(b"rubbish\n")
    with pytest.raises(ConflictError) as caught:
        write(where, "two")
    assert caught.value.subject == str(where.file)
    where.file.rename(where.file.with_suffix(".damaged"))  # as the hint says
    write(where, "two")
    assert steps(where) == ["one", "two"]


def test_who_found_a_damaged_lock_has_not_been_cut_off(tmp_path: Path) -> None:
    store = MemoryState()
    where = place(tmp_path, store)
    store.put(LOCK_NAME, b"rubbish", replaces=None)
    with pytest.raises(ConflictError, match="lock"):
        write(where, "one")
    assert not was_cut_off(where)


def test_who_may_not_take_the_lock_has_not_been_cut_off(tmp_path: Path) -> None:
    store = MemoryState()
    where = place(tmp_path, store)

    def deny(name: str) -> None:
        raise AccessError(name, "s3:PutObject is denied")

    store.before_put = deny
    with pytest.raises(AccessError):
        write(where, "one")
    assert not was_cut_off(where)


def test_looking_goes_on_without_a_journal_that_cannot_be_read(tmp_path: Path) -> None:
    where = place(tmp_path)
    assert look_into(where) == ((), ())
    write(where, "one")
    records, problems = look_into(where)
    assert [record.step for record in records] == ["one"]
    assert not problems
    where.file.write_bytes(b"rubbish\n")
    records, (problem,) = look_into(where)
    assert not records
    assert problem.startswith(f"{where.file}: is damaged")
    assert f"mv {where.file}" in problem
    assert where.file.read_bytes() == b"rubbish\n"
    where.file.unlink()
    where.file.mkdir()
    assert "cannot be read" in look_into(where)[1][0]


def test_looking_finds_in_the_mirror_what_is_damaged_here_and_the_other_way_round(tmp_path: Path) -> None:
    store = MemoryState()
    where = place(tmp_path, store)
    write(where, "one")
    good = where.file.read_bytes()
    where.file.write_bytes(b"rubbish\n")
    assert [record.step for record in look_into(where)[0]] == ["one"]
    where.file.write_bytes(good)
    store.put("journal.jsonl", b"rubbish\n", replaces=store.get("journal.jsonl").version)  # type: ignore[union-attr]
    records, (problem,) = look_into(where)
    assert [record.step for record in records] == ["one"]
    assert problem.startswith("s3://bucket/state/journal.jsonl: is damaged")


@pytest.mark.parametrize("name", ["held.json", "lock", "journal.jsonl"])
@pytest.mark.parametrize("mirrored", [True, False])
def test_a_file_that_cannot_be_used_is_named_as_an_error_of_this_host(
    tmp_path: Path, name: str, mirrored: bool
) -> None:
    where = place(tmp_path, MemoryState() if mirrored else None)
    (where.folder / name).mkdir(parents=True)  # root may read and write any file, but not a folder as one
    where.folder.chmod(0o700)
    with pytest.raises(LocalResourceError, match="cannot be") as caught:
        write(where, "one")
    assert caught.value.subject == str(where.folder / name)
    assert where.mirror is None or LOCK_NAME not in where.mirror.objects  # type: ignore[attr-defined]


def test_what_cannot_be_read_of_a_session_before_is_an_error_of_this_host(tmp_path: Path) -> None:
    where = place(tmp_path)
    (where.folder / "held.json").mkdir(parents=True)
    with pytest.raises(LocalResourceError, match=r"held\.json: cannot be read"):
        was_cut_off(where)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    where = place(tmp_path)
    where.folder.mkdir()
    where.folder.chmod(mode)
    with pytest.raises(PolicyError):
        write(where, "one")


def test_files_are_for_the_owner_alone(tmp_path: Path) -> None:
    where = place(tmp_path, MemoryState())
    with hold(where, session()) as journal:
        journal.record("one", journal.key("one"))
        assert {path.name: path.stat().st_mode & 0o077 for path in where.folder.iterdir()} == {
            "journal.jsonl": 0,
            "lock": 0,
            "held.json": 0,
        }


def test_two_processes_of_one_host_do_not_work_at_once(tmp_path: Path) -> None:
    where = place(tmp_path)
    with hold(where, session("a")), pytest.raises(LockedError, match="another process"), hold(where, session("b")):
        pass
    write(where, "one")


def test_two_hosts_do_not_work_at_once(tmp_path: Path) -> None:
    store = MemoryState()
    here, there = place(tmp_path / "here", store), place(tmp_path / "there", store)
    with hold(here, session("a")), pytest.raises(LockedError, match="a@host"), hold(there, session("b")):
        pass
    write(there, "one", name="b")
    assert LOCK_NAME not in store.objects


def test_another_host_goes_on_with_the_mirrored_journal(tmp_path: Path) -> None:
    store = MemoryState()
    here, there = place(tmp_path / "here", store), place(tmp_path / "there", store)
    write(here, "one")
    write(there, "two", name="b")
    write(here, "three")
    assert steps(here) == ["one", "two", "three"]
    assert store.objects["journal.jsonl"][0] == here.file.read_bytes()


def test_lines_that_never_reached_the_mirror_are_not_lost(tmp_path: Path) -> None:
    store = MemoryState()
    here, there = place(tmp_path / "here", store), place(tmp_path / "there", store)
    write(here, "one")
    with here.file.open("ab") as file:
        line = {"step": "local", "key": "k", "at": "t", "facts": {}, "bundle": str(BUNDLE)}
        file.write(json.dumps(line).encode() + b"\n")
    write(there, "two", name="b")
    write(here, "three")
    assert sorted(steps(here)) == ["local", "one", "three", "two"]


def be_killed(where: Place, store: MemoryState | None = None, name: str = "a") -> None:
    """Leave what a process leaves that is killed while it holds the lock."""
    with hold(where, session(name)):
        lock = None if store is None else store.objects[LOCK_NAME]
        held = (where.folder / "held.json").read_bytes()
    (where.folder / "held.json").write_bytes(held)
    if store is not None and lock is not None:
        store.objects[LOCK_NAME] = lock


def test_a_killed_process_finds_its_own_lock_again(tmp_path: Path) -> None:
    store = MemoryState()
    where = place(tmp_path, store)
    be_killed(where, store)
    write(where, "one", name="b")
    assert steps(where) == ["one"]


@pytest.mark.parametrize("mirrored", [True, False])
def test_a_session_that_was_cut_off_is_known_until_one_ends_in_order(tmp_path: Path, mirrored: bool) -> None:
    store = MemoryState() if mirrored else None
    where = place(tmp_path, store)
    assert not was_cut_off(where)
    be_killed(where, store)
    assert was_cut_off(where)
    write(where, "one", name="b")
    assert not was_cut_off(where)
    assert store is None or LOCK_NAME not in store.objects


def test_who_was_turned_away_has_not_been_cut_off(tmp_path: Path) -> None:
    store = MemoryState()
    here, there = place(tmp_path / "here", store), place(tmp_path / "there", store)
    with hold(here, session("a")), pytest.raises(LockedError, match="a@host"), hold(there, session("b")):
        pass
    assert not was_cut_off(there)
    assert not was_cut_off(here)


def test_a_lock_that_could_not_be_given_back_is_still_known_as_ours(tmp_path: Path) -> None:
    store = UnsteadyState()
    where = place(tmp_path, store)
    told: list[Event] = []
    with hold(where, replace(session("a"), emit=told.append)):
        store.answers = False
    assert [event.warning for event in told if isinstance(event, Noted)] == [True]
    assert was_cut_off(where)
    store.answers = True
    write(where, "one", name="b")
    assert LOCK_NAME not in store.objects


def test_a_mirror_that_is_removed_while_we_work_is_written_again(tmp_path: Path) -> None:
    store = MemoryState()
    where = place(tmp_path, store)
    told: list[Event] = []
    with hold(where, replace(session("a"), emit=told.append)) as journal:
        journal.record("one", journal.key("one"))
        del store.objects["journal.jsonl"]
        journal.record("two", journal.key("two"))
    (noted,) = told
    assert isinstance(noted, Noted)
    assert noted.warning
    assert "s3://bucket/state/journal.jsonl was removed" in noted.text
    assert steps(where) == ["one", "two"]
    assert store.objects["journal.jsonl"][0] == where.file.read_bytes()


def test_a_mirror_that_is_removed_with_the_lock_ends_the_work(tmp_path: Path) -> None:
    store = MemoryState()
    where = place(tmp_path, store)
    with hold(where, session("a")) as journal:
        store.objects.clear()
        with pytest.raises(LockLostError, match="removed or taken over") as caught:
            journal.record("one", journal.key("one"))
    assert caught.value.subject == "s3://bucket/state/lock.json"
    assert not store.objects
    write(where, "two", name="b")
    assert steps(where) == ["one", "two"]


def test_a_file_that_is_removed_while_we_work_is_written_again(tmp_path: Path) -> None:
    where = place(tmp_path)
    with hold(where, session("a")) as journal:
        journal.record("one", journal.key("one"))
        where.file.unlink()
        journal.record("two", journal.key("two"))
        assert where.file.stat().st_mode & 0o077 == 0
    assert steps(where) == ["one", "two"]


def deny(name: str) -> None:
    raise AccessError(name, "is denied")


def test_an_install_whose_lock_may_not_be_removed_ends_in_order(tmp_path: Path) -> None:
    store = MemoryState(before_delete=deny)
    here, there = place(tmp_path / "here", store), place(tmp_path / "there", store)
    write(here, "one")
    assert not was_cut_off(here)
    write(there, "two", name="b")
    write(here, "three")
    assert steps(here) == ["one", "two", "three"]


def test_an_install_whose_lock_stays_warns_ends_in_order_and_finds_it_again(tmp_path: Path) -> None:
    store = MemoryState(before_delete=deny)
    here, there = place(tmp_path / "here", store), place(tmp_path / "there", store)
    told: list[Event] = []
    with hold(here, replace(session("a"), emit=told.append)):
        store.before_put = deny
    (noted,) = told
    assert isinstance(noted, Noted)
    assert noted.warning
    assert "s3://bucket/state/lock.json" in noted.text
    assert "--break-lock a" in noted.text
    assert not was_cut_off(here)
    store.before_put = lambda name: None
    with pytest.raises(LockedError):
        write(there, "one", name="b")
    write(here, "one", name="c")
    write(there, "two", name="b")
    assert not (here.folder / "held.json").exists()


def test_a_lock_that_stays_does_not_hide_why_the_install_failed(tmp_path: Path) -> None:
    store = MemoryState(before_delete=deny)

    def work(name: str) -> None:
        store.before_put = deny
        raise ConflictError(name, "the cause")

    with pytest.raises(ConflictError, match="the cause"), hold(place(tmp_path, store), session()):
        work("x")


def test_who_is_killed_while_a_lock_stays_has_been_cut_off(tmp_path: Path) -> None:
    store = MemoryState(before_delete=deny)
    where = place(tmp_path, store)
    with hold(where, session("a")):
        store.before_put = deny
    store.before_put = lambda name: None
    store.before_delete = lambda name: None
    be_killed(where, store, name="b")
    assert was_cut_off(where)


@dataclass
class UnsteadyState(MemoryState):
    """Removes nothing while it does not answer."""

    answers: bool = True

    def delete(self, name: str, *, version: str) -> None:
        if not self.answers:
            raise NetworkError(name, "no answer")
        super().delete(name, version=version)


def test_a_process_killed_right_after_taking_the_lock_finds_it_too(tmp_path: Path) -> None:
    store = MemoryState()
    where = place(tmp_path, store)

    def die(name: str) -> None:
        raise KeyboardInterrupt

    store.after_put = die
    with pytest.raises(KeyboardInterrupt), hold(where, session("a")):
        pass
    assert LOCK_NAME in store.objects
    store.after_put = lambda name: None
    write(where, "one", name="b")


def test_another_hosts_lock_needs_its_id_and_the_end_of_its_lease(tmp_path: Path) -> None:
    store = MemoryState()
    here, there = place(tmp_path / "here", store), place(tmp_path / "there", store)
    be_killed(here, store)
    store.now = LEASE_S + 1
    with pytest.raises(LockedError, match="lock a"):
        write(there, "one", name="b")
    with hold(there, session("b", break_lock="a")) as journal:
        journal.record("one", journal.key("one"))
    assert steps(there) == ["one"]


def test_who_lost_the_lock_records_nothing_in_the_mirror(tmp_path: Path) -> None:
    store = MemoryState()
    where = place(tmp_path, store)
    with hold(where, session("a")) as journal:
        store.put("journal.jsonl", b"other", replaces=store.get("journal.jsonl").version)  # type: ignore[union-attr]
        with pytest.raises(LockLostError, match="somebody else writes to it") as caught:
            journal.record("one", journal.key("one"))
    assert caught.value.subject == "s3://bucket/state/journal.jsonl"
    assert store.objects["journal.jsonl"][0] == b"other"


@pytest.mark.parametrize("owner", ["a\nb@host", "x" * 500, "\udcff@host", "\x1b[31m@host"])
def test_a_strange_name_of_a_user_is_no_damaged_lock(tmp_path: Path, owner: str) -> None:
    store = MemoryState()
    here, there = place(tmp_path / "here", store), place(tmp_path / "there", store)
    strange = replace(session("a"), owner=owner)
    with hold(here, strange), pytest.raises(LockedError, match="lock a"), hold(there, session("b")):
        pass
    write(there, "one", name="b")
