"""The lock of a site in S3."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from bundler.errors import (
    AccessError,
    BundleError,
    ConflictError,
    LockedError,
    LockLostError,
    NetworkError,
    RejectedError,
    StaleStateError,
)
from bundler.lease import LEASE_S, LOCK_NAME, Holder, Lease, Release, parse_holder
from tests.fakes.state_store import MemoryState


def lease(store: MemoryState, name: str) -> Lease:
    holder = Holder(id=name, owner=f"{name}@host", bundle="sha256:0", since="2026-01-01T00:00:00Z")
    return Lease(store, holder, clock=lambda: store.now)


def taken(store: MemoryState, name: str = "a") -> Lease:
    made = lease(store, name)
    made.take(break_id=None)
    return made


def test_a_free_lock_is_taken_and_given_back() -> None:
    store = MemoryState()
    held = taken(store)
    assert parse_holder(store.objects[LOCK_NAME][0]).id == "a"
    held.release()
    assert not store.objects


def test_a_second_operator_is_told_who_holds_it_and_since_when() -> None:
    store = MemoryState()
    taken(store)
    store.now = 42
    with pytest.raises(LockedError) as caught:
        lease(store, "b").take(break_id=None)
    assert "a@host since 2026-01-01T00:00:00Z, who was alive 42 s ago (lock a)" in caught.value.cause
    assert caught.value.exit_code == 7


def test_of_two_at_the_same_moment_one_wins() -> None:
    store = MemoryState()

    def race(name: str) -> None:
        store.before_put = lambda name: None
        taken(store, "b")

    store.before_put = race
    with pytest.raises(LockedError, match="b@host"):
        lease(store, "a").take(break_id=None)


def test_a_lock_that_was_taken_and_given_back_in_the_same_moment_is_taken() -> None:
    store = MemoryState()

    def come_and_go(name: str) -> None:
        store.before_put = lambda name: None
        raise StaleStateError(name, "is another version")

    store.before_put = come_and_go
    taken(store)
    assert parse_holder(store.objects[LOCK_NAME][0]).id == "a"


def test_an_expired_lock_is_broken_by_its_id_only() -> None:
    store = MemoryState()
    taken(store)
    store.now = LEASE_S + 1
    for wrong in (None, "c"):
        with pytest.raises(LockedError) as caught:
            lease(store, "b").take(break_id=wrong)
        assert "--break-lock a" in caught.value.hint
    lease(store, "b").take(break_id="a")
    assert parse_holder(store.objects[LOCK_NAME][0]).id == "b"


def test_a_lock_whose_holder_lives_is_not_broken() -> None:
    store = MemoryState()
    held = taken(store)
    store.now = LEASE_S + 1
    held.renew()
    store.now += 5
    with pytest.raises(LockedError, match="was alive 5 s ago"):
        lease(store, "b").take(break_id="a")


def test_the_former_holder_notices_and_leaves_the_new_lock_alone() -> None:
    store = MemoryState()
    held = taken(store)
    store.now = LEASE_S + 1
    lease(store, "b").take(break_id="a")
    with pytest.raises(LockLostError):
        held.check()
    held.release()
    assert parse_holder(store.objects[LOCK_NAME][0]).id == "b"


def test_our_own_dead_process_needs_no_breaking() -> None:
    store = MemoryState()
    taken(store)
    lease(store, "b").take(known=("x", "a"), break_id=None)
    assert parse_holder(store.objects[LOCK_NAME][0]).id == "b"


def test_an_answer_that_was_lost_does_not_lock_us_out() -> None:
    store = MemoryState()
    held = lease(store, "a")

    def write_twice(name: str) -> None:
        store.before_put = lambda name: None
        held.take(break_id=None)

    other = lease(store, "a")
    store.before_put = write_twice
    other.take(break_id=None)
    other.renew()
    assert parse_holder(store.objects[LOCK_NAME][0]).id == "a"


def test_silence_of_s3_does_not_end_the_lease_before_its_time() -> None:
    store = MemoryState()
    held = taken(store)

    def silent(name: str) -> None:
        raise NetworkError("s3", "silent")

    store.before_put = silent
    store.now = LEASE_S / 4
    held.check()
    store.now = LEASE_S
    with pytest.raises(NetworkError):
        held.check()


@pytest.mark.parametrize("content", [b"", b"rubbish", b"[]\n", b'{"id":"a"}\n', b'{"id":"a","owner":1}\n'])
def test_a_damaged_lock_is_a_conflict_that_names_the_object_and_the_way_out(content: bytes) -> None:
    store = MemoryState()
    store.put(LOCK_NAME, content, replaces=None)
    for break_id in (None, "a"):
        with pytest.raises(ConflictError) as caught:
            lease(store, "b").take(break_id=break_id)
        assert (caught.value.exit_code, caught.value.subject) == (7, "s3://bucket/state/lock.json")
        assert "aws s3 rm s3://bucket/state/lock.json" in caught.value.hint
    assert store.objects[LOCK_NAME][0] == content


def deny(name: str) -> None:
    raise AccessError(name, "is denied")


@pytest.mark.parametrize("refusal", [AccessError, RejectedError])
def test_a_lock_that_may_not_be_removed_is_given_back_by_writing_and_then_free(refusal: type[BundleError]) -> None:
    store = MemoryState()
    held = taken(store)

    def refuse(name: str) -> None:
        raise refusal(name, "is not removed")

    store.before_delete = refuse
    assert held.release() is Release.DONE
    last = parse_holder(store.objects[LOCK_NAME][0])
    assert (last.id, last.released) == ("a", True)
    taken(store, "b")
    assert parse_holder(store.objects[LOCK_NAME][0]) == replace(last, id="b", owner="b@host", released=False)


def test_of_two_who_find_a_lock_given_back_one_wins() -> None:
    store = MemoryState(before_delete=deny)
    taken(store).release()

    def race(name: str) -> None:
        store.before_put = lambda name: None
        taken(store, "b")

    store.before_put = race
    with pytest.raises(LockedError, match="b@host"):
        lease(store, "c").take(break_id=None)


def test_a_lock_that_somebody_took_over_is_not_given_back_by_writing() -> None:
    store = MemoryState(before_delete=deny)
    held = taken(store)
    store.now = LEASE_S + 1
    lease(store, "b").take(break_id="a")
    assert held.release() is Release.DONE
    assert parse_holder(store.objects[LOCK_NAME][0]) == replace(parse_holder(store.objects[LOCK_NAME][0]), id="b")


def test_a_lock_that_may_neither_be_removed_nor_written_stays_and_says_so() -> None:
    store = MemoryState(before_delete=deny)
    held = taken(store)
    store.before_put = deny
    assert held.release() is Release.DENIED
    assert parse_holder(store.objects[LOCK_NAME][0]).id == "a"


def test_a_lock_is_given_back_later_while_s3_is_silent() -> None:
    store = MemoryState(before_delete=deny)
    held = taken(store)

    def silent(name: str) -> None:
        raise NetworkError(name, "no answer")

    store.before_put = silent
    assert held.release() is Release.LATER
    store.before_delete = silent
    assert held.release() is Release.LATER


def test_a_lock_that_an_older_version_wrote_is_held() -> None:
    store = MemoryState()
    old = b'{"beats": 1, "bundle": "sha256:0", "id": "a", "owner": "a@host", "since": "2026-01-01T00:00:00Z"}\n'
    store.put(LOCK_NAME, old, replaces=None)
    with pytest.raises(LockedError):
        lease(store, "b").take(break_id=None)


def test_a_lock_that_is_given_back_in_no_known_way_is_not_a_lock() -> None:
    with pytest.raises(ConflictError):
        parse_holder(b'{"bundle": "b", "id": "a", "owner": "o", "since": "s", "released": "no"}\n')


def lose_the_answer(store: MemoryState) -> None:
    """The next write arrives, but nobody hears of it."""

    def lost(name: str) -> None:
        store.after_put = lambda name: None
        raise NetworkError(name, "no answer")

    store.after_put = lost


def test_a_renewal_whose_answer_was_lost_is_not_taken_for_somebody_else() -> None:
    store = MemoryState()
    held = taken(store)
    lose_the_answer(store)
    with pytest.raises(NetworkError):
        held.renew()
    held.renew()
    held.renew()
    assert parse_holder(store.objects[LOCK_NAME][0]).id == "a"


def test_a_lock_whose_last_renewal_was_not_answered_is_given_back() -> None:
    store = MemoryState()
    held = taken(store)
    lose_the_answer(store)
    with pytest.raises(NetworkError):
        held.renew()
    assert held.release() is Release.DONE
    assert LOCK_NAME not in store.objects


def test_a_lease_counts_from_before_the_write_because_its_answer_may_come_late() -> None:
    store = MemoryState()
    held = lease(store, "a")

    def late(name: str) -> None:
        store.now += LEASE_S / 2 + 1

    store.after_put = late
    held.take(break_id=None)
    store.after_put = lambda name: None
    written = len(store.writes)
    held.check()
    assert len(store.writes) == written + 1


def test_time_that_the_host_slept_through_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryState()
    held = Lease(store, Holder(id="a", owner="a@host", bundle="sha256:0", since="2026-01-01T00:00:00Z"))
    held.take(break_id=None)
    real = time.clock_gettime
    asleep = {time.CLOCK_BOOTTIME: LEASE_S + 1}
    monkeypatch.setattr(time, "clock_gettime", lambda clock: real(clock) + asleep.get(clock, 0))
    store.now = LEASE_S + 1
    lease(store, "b").take(break_id="a")
    with pytest.raises(LockLostError):
        held.check()


@pytest.mark.parametrize("content", [None, b"rubbish"])
def test_a_lock_that_was_removed_or_damaged_while_we_worked_is_lost(content: bytes | None) -> None:
    store = MemoryState()
    held = taken(store)
    del store.objects[LOCK_NAME]
    if content is not None:
        store.put(LOCK_NAME, content, replaces=None)
    with pytest.raises(LockLostError, match="removed or taken over") as caught:
        held.renew()
    assert caught.value.subject == "s3://bucket/state/lock.json"
    assert held.release() is Release.DONE


def test_of_two_who_break_an_expired_lock_one_wins() -> None:
    store = MemoryState()
    taken(store)
    store.now = LEASE_S + 1

    def race(name: str) -> None:
        store.before_put = lambda name: None
        lease(store, "b").take(break_id="a")

    store.before_put = race
    with pytest.raises(LockedError, match="b@host"):
        lease(store, "c").take(break_id="a")
    assert parse_holder(store.objects[LOCK_NAME][0]).id == "b"


def test_a_holder_that_wakes_while_its_lock_is_broken_keeps_it() -> None:
    store = MemoryState()
    held = taken(store)
    store.now = LEASE_S + 1

    def wake(name: str) -> None:
        store.before_put = lambda name: None
        held.renew()

    store.before_put = wake
    with pytest.raises(LockedError, match="a@host"):
        lease(store, "b").take(break_id="a")
    held.renew()


def test_a_renewal_that_is_denied_is_told_as_such_and_not_as_a_lost_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bundler.lease.BEAT_S", 0.001)
    store = MemoryState()
    held = taken(store)
    denied = threading.Event()

    def expired(name: str) -> None:
        denied.set()
        raise AccessError(name, "the token has expired")

    store.before_put = expired
    with held.beating() as beat:
        assert denied.wait(10)
    assert beat.failure is None
    store.now = LEASE_S
    with pytest.raises(AccessError, match="expired"):
        held.check()
    store.before_put = lambda name: None
    held.check()
