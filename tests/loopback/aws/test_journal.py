"""Journal and lock in the lab's S3."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from bundler.adapters.aws.journal_mirror import S3State
from bundler.domain.digest import Digest
from bundler.domain.shipment import S3Address
from bundler.errors import AccessError, ConflictError, LockedError, StaleStateError
from bundler.journal import Place, Session, hold, read_journal, was_cut_off
from bundler.lease import Holder, Lease, Release
from bundler.transfer import parallel_map
from tests.loopback.aws.conftest import Closed

pytestmark = pytest.mark.loopback
BUNDLE = Digest.of(b"bundle")


def state(closed: Closed, name: str) -> S3State:
    return S3State(closed.aws.service("s3"), S3Address.parse(f"s3://{closed.lab.bucket}/state").below(name))


def session(name: str) -> Session:
    return Session(id=name, owner=f"{name}@host", bundle=BUNDLE)


def test_state_is_written_only_in_place_of_what_was_read(closed: Closed) -> None:
    store = state(closed, "swap")
    assert store.get("x") is None
    first = store.put("x", b"one", replaces=None)
    with pytest.raises(StaleStateError):
        store.put("x", b"two", replaces=None)
    second = store.put("x", b"two", replaces=first)
    with pytest.raises(StaleStateError):
        store.put("x", b"three", replaces=first)
    found = store.get("x")
    assert found is not None
    assert (found.content, found.version) == (b"two", second)
    assert 0 <= found.age_s < 60
    with pytest.raises(StaleStateError):
        store.delete("x", version=first)
    store.delete("x", version=second)
    assert store.get("x") is None
    with pytest.raises(StaleStateError):
        store.put("x", b"four", replaces=second)


def test_a_denial_is_access_and_not_a_lost_race(closed: Closed) -> None:
    closed.fault("s3", "PutObject", "denied")
    with pytest.raises(AccessError, match="s3:PutObject"):
        state(closed, "denied").put("x", b"one", replaces=None)


def test_a_write_whose_answer_was_lost_counts_as_ours(closed: Closed, tmp_path: Path) -> None:
    where = Place(folder=tmp_path / "state", site="a/b/c", mirror=state(closed, "lost"))
    for _ in range(3):
        closed.fault("s3", "PutObject", "reset", nth=2)
        with hold(where, session("a")) as journal:
            journal.record("one", journal.key("one"))
        closed.no_faults()


def test_of_eight_operators_one_gets_the_lock(closed: Closed, tmp_path: Path) -> None:
    for round_number in range(3):
        with ExitStack() as kept:  # the winner's lock, until all have tried
            name = f"race-{round_number}"

            def work(number: int, name: str = name, kept: ExitStack = kept) -> str:
                where = Place(folder=tmp_path / f"{name}-{number}", site="a/b/c", mirror=state(closed, name))
                try:
                    kept.enter_context(hold(where, session(f"{name}-{number}")))
                except LockedError:
                    return "locked"
                return "won"

            assert Counter(parallel_map(work, range(8), workers=8)) == {"won": 1, "locked": 7}


@pytest.mark.parametrize("how", ["expired", "released"])
def test_of_eight_who_find_a_lock_of_nobody_one_gets_it(
    closed: Closed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("bundler.lease.LEASE_S", 0.0)  # whatever is there has expired
    fields = {"id": "dead", "owner": "o", "bundle": "b", "since": "s", "beats": 1, "released": how == "released"}
    for round_number in range(3):
        name = f"{how}-{round_number}"
        state(closed, name).put("lock.json", json.dumps(fields).encode(), replaces=None)
        with ExitStack() as kept:

            def work(number: int, name: str = name, kept: ExitStack = kept) -> str:
                where = Place(folder=tmp_path / f"{name}-{number}", site="a/b/c", mirror=state(closed, name))
                asked = replace(session(f"{name}-{number}"), break_lock="dead")
                try:
                    kept.enter_context(hold(where, asked))
                except LockedError:
                    return "locked"
                return "won"

            assert Counter(parallel_map(work, range(8), workers=8)) == {"won": 1, "locked": 7}


HELD = """
    import sys, time
    from pathlib import Path
    from bundler.adapters.aws.clients import Aws, AwsSettings
    from bundler.adapters.aws.journal_mirror import S3State
    from bundler.domain.digest import Digest
    from bundler.domain.shipment import S3Address
    from bundler.journal import Place, Session, hold

    folder, prefix, url, region = sys.argv[1:]
    mirror = S3State(Aws(AwsSettings(region=region, endpoints={"s3": url})).service("s3"), S3Address.parse(prefix))
    with hold(Place(folder=Path(folder), site="a/b/c", mirror=mirror), Session(id="killed", owner="k",
              bundle=Digest.of(b"bundle"))) as journal:
        journal.record("one", journal.key("one"), id="made")
        print("held", flush=True)
        time.sleep(60)
"""


def test_after_a_kill_the_same_host_goes_on_and_another_must_ask(closed: Closed, tmp_path: Path) -> None:
    folder, prefix = tmp_path / "here", f"s3://{closed.lab.bucket}/state/kill"
    arguments = [str(folder), prefix, closed.lab.aws_url, closed.site.region]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HELD), *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout as out:
        assert out.readline() == "held\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    mirror = state(closed, "kill")
    there = Place(folder=tmp_path / "there", site="a/b/c", mirror=mirror)
    with pytest.raises(LockedError, match="lock killed"), hold(there, session("other")):
        pass
    here = Place(folder=folder, site="a/b/c", mirror=mirror)
    with hold(here, session("again")) as journal:
        found = journal.find(journal.key("one"))
        assert found is not None
        journal.record("two", journal.key("two"))
    with hold(there, session("other")) as journal:
        assert journal.find(journal.key("two")) is not None
    assert [record.step for record in read_journal(there)] == ["one", "two"]
    content = mirror.get("journal.jsonl")
    assert content is not None
    assert json.loads(content.content.splitlines()[0]) == {"journal": 1, "site": "a/b/c"}


def test_state_that_is_too_large_is_named_by_its_address(closed: Closed, monkeypatch: pytest.MonkeyPatch) -> None:
    store = state(closed, "large")
    store.put("journal.jsonl", b"x" * 100, replaces=None)
    monkeypatch.setattr("bundler.adapters.aws.journal_mirror.MAX_STATE_BYTES", 99)
    with pytest.raises(ConflictError) as caught:
        store.get("journal.jsonl")
    assert caught.value.subject == store.address("journal.jsonl")
    assert caught.value.subject == f"s3://{closed.lab.bucket}/state/large/journal.jsonl"
    assert f"aws s3 mv {caught.value.subject}" in caught.value.hint


def test_without_the_right_to_delete_the_lock_is_free_after_each_session(closed: Closed, tmp_path: Path) -> None:
    closed.fault("s3", "DeleteObject", "denied", times=99)
    mirror = state(closed, "undeletable")
    for number, name in enumerate(("here", "there", "here")):
        where = Place(folder=tmp_path / name, site="a/b/c", mirror=mirror)
        with hold(where, session(f"{name}-{number}")) as journal:
            journal.record(str(number), journal.key(str(number)))
        assert not was_cut_off(where)
    lock = mirror.get("lock.json")
    assert lock is not None
    assert json.loads(lock.content)["released"] is True


def test_a_journal_that_is_removed_from_s3_while_we_work_is_there_again(closed: Closed, tmp_path: Path) -> None:
    mirror = state(closed, "removed")
    where = Place(folder=tmp_path / "here", site="a/b/c", mirror=mirror)
    with hold(where, session("a")) as journal:
        there = mirror.get("journal.jsonl")
        assert there is not None
        mirror.delete("journal.jsonl", version=there.version)
        journal.record("one", journal.key("one"))
    again = mirror.get("journal.jsonl")
    assert again is not None
    assert again.content == where.file.read_bytes()
    assert mirror.get("lock.json") is None


def test_a_renewal_that_arrived_without_an_answer_is_ours(closed: Closed, tmp_path: Path) -> None:
    mirror = state(closed, "unanswered")
    lease = Lease(mirror, Holder(id="a", owner="o", bundle="b", since="s"))
    lease.take(break_id=None)
    there = mirror.get("lock.json")
    assert there is not None
    mirror.put("lock.json", there.content.replace(b'"beats": 0', b'"beats": 1'), replaces=there.version)
    lease.renew()
    assert lease.release() is Release.DONE
    assert mirror.get("lock.json") is None
