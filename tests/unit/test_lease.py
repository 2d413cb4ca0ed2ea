"""The lock of a site in S3."""

from __future__ import annotations

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
