"""Bounded parallel work: order, first failure, waking what waits."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.errors import FormatError, NetworkError, StoppedError, UsageError
from bundler.transfer import (
    Interruptible,
    Slots,
    check_stopped,
    drain,
    lanes,
    ordered_map,
    parallel_map,
    pause,
    to_the_end,
)

LONG_S = 30


def sleep_long(slept: list[str]) -> None:
    """Note it where nobody ended the sleep before its time."""
    pause(LONG_S)
    slept.append("to the end")


def test_results_keep_the_order_of_the_items() -> None:
    assert parallel_map(lambda n: (time.sleep(0.001 * (5 - n)), n)[1], range(5), workers=5) == [0, 1, 2, 3, 4]
    assert parallel_map(str, [], workers=3) == []


def test_no_more_than_the_workers_run_at_a_time() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work(item: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            running -= 1

    parallel_map(work, range(20), workers=3)
    assert most == 3


def test_the_first_failure_in_time_is_raised_and_the_rest_does_not_begin() -> None:
    begun, slept = list[int](), list[str]()

    def work(item: int) -> None:
        begun.append(item)
        if item == 0:
            sleep_long(slept)
        if item == 1:
            time.sleep(0.05)
            raise FormatError("item 1", "is bad")

    with pytest.raises(FormatError, match="item 1"):
        parallel_map(work, range(100), workers=2)
    assert not slept
    assert set(begun) <= {0, 1}


def test_a_failure_that_follows_from_stopping_does_not_hide_the_cause() -> None:
    def work(item: int) -> None:
        if item == 1:
            raise FormatError("the cause", "is bad")
        try:
            pause(30)
        except StoppedError:
            raise NetworkError("a consequence", "broke") from None

    with pytest.raises(FormatError):
        parallel_map(work, range(2), workers=2)


def test_computing_work_notices_at_its_next_check() -> None:
    computing, steps = threading.Event(), list[int]()

    def work(item: int) -> None:
        if item == 1:
            computing.wait()
            raise FormatError("item", "is bad")
        for step in range(10_000):
            check_stopped()
            steps.append(step)
            computing.set()
            time.sleep(0.001)

    with pytest.raises(FormatError):
        parallel_map(work, range(2), workers=2)
    assert 0 < len(steps) < 10_000


def test_a_blocked_call_is_woken_from_outside() -> None:
    woken = threading.Event()

    def work(item: int) -> None:
        if item == 1:
            time.sleep(0.05)
            raise FormatError("item", "is bad")
        with Interruptible(woken.set):
            assert woken.wait(30)

    with pytest.raises(FormatError):
        parallel_map(work, range(2), workers=2)
    assert woken.is_set()


def test_calling_off_an_outer_map_calls_off_the_inner_ones() -> None:
    slept = list[str]()

    def outer(item: int) -> None:
        if item == 1:
            time.sleep(0.05)
            raise FormatError("outer", "is bad")
        parallel_map(lambda _: sleep_long(slept), range(4), workers=2)

    with pytest.raises(FormatError):
        parallel_map(outer, range(2), workers=2)
    assert not slept


def test_ctrl_c_wakes_everything() -> None:
    main = threading.get_ident()
    timer = threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    slept = list[str]()
    with pytest.raises(KeyboardInterrupt):
        parallel_map(lambda _: sleep_long(slept), range(50), workers=4)
    assert not slept
    timer.join()


def test_outside_of_a_map_nothing_stops() -> None:
    check_stopped()
    pause(0)
    with Interruptible(lambda: None):
        pass


def test_a_drain_takes_the_least_first_and_what_comes_of_it() -> None:
    order: list[int] = []

    def work(number: int) -> list[int]:
        order.append(number)
        return [number // 2] if number % 2 == 0 and number > 1 else []

    drain(work, [5, 8, 3], rank=lambda number: -number, workers=1)
    assert order == [8, 5, 4, 3, 2, 1]


@settings(max_examples=20, deadline=None)
@given(items=st.lists(st.integers(0, 40), max_size=30), workers=st.integers(1, 6))
def test_a_drain_does_everything_once(items: list[int], workers: int) -> None:
    done: list[int] = []

    def work(number: int) -> list[int]:
        done.append(number)
        return [number - 1] if number else []

    drain(work, items, rank=lambda number: number, workers=workers)
    assert Counter(done) == Counter(below for item in items for below in range(item + 1))


def test_a_failure_ends_a_drain_and_those_who_wait_for_more() -> None:
    def work(number: int) -> list[int]:
        pause(0.02)
        raise FormatError("x", f"{number} is bad")

    with pytest.raises(FormatError, match="1 is bad"):
        drain(work, [1], rank=int, workers=4)


def test_slots_let_in_as_many_as_are_allowed_now_and_nobody_is_overtaken() -> None:
    allowed, inside, most, order = 1, 0, 0, list[int]()
    lock, slots = threading.Lock(), Slots(lambda: allowed)

    def work(number: int) -> None:
        nonlocal inside, most, allowed
        for _ in range(20):
            outer = slots.enter()
            inner = slots.enter()  # a request below another one has room
            with lock:
                inside, most = inside + 1, max(most, inside + 1)
                order.append(number)
                allowed = 3 if len(order) > 60 else 1
                assert inside <= 3
            time.sleep(0.0005)
            with lock:
                inside -= 1
            inner.leave()
            inner.leave()
            outer.leave()

    parallel_map(work, range(6), workers=6)
    assert (most, slots.taken) == (3, 0)
    assert len(set(order[24:60])) > 3


def test_who_waits_for_a_slot_is_woken_when_the_work_is_called_off() -> None:
    slots = Slots(lambda: 1)

    def work(number: int) -> None:
        slots.enter()
        time.sleep(0.02)
        raise FormatError("x", f"{number} is bad")

    with pytest.raises(FormatError):
        parallel_map(work, range(3), workers=3)


def test_an_ordered_map_yields_in_order_and_takes_no_more_than_it_has_room_for() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        return number

    with ordered_map(work, items(), workers=4, ahead=6) as results:
        for expected in range(50):
            assert next(results) == expected
            assert len(taken) <= expected + 7
        assert list(results) == []


def test_an_ordered_map_ends_with_its_first_failure_in_time() -> None:
    started, slept = list[int](), list[str]()

    def work(number: int) -> int:
        started.append(number)
        if number == 0:
            sleep_long(slept)
        if number == 3:
            raise FormatError("x", "is bad")
        return number

    with pytest.raises(FormatError, match="is bad"), ordered_map(work, range(1000), workers=4, ahead=8) as results:
        list(results)
    assert not slept
    assert len(started) < 20


def test_a_consumer_who_stops_ends_an_ordered_map() -> None:
    with ordered_map(str, range(1000), workers=2, ahead=4) as results:
        assert next(results) == "0"
        inside = threading.active_count()
    assert threading.active_count() < inside


def test_maps_below_an_ordered_map_have_ended_when_it_fails() -> None:
    """Left to the garbage collector, they once joined their threads below a lock of `threading`, and hung."""

    def fail(number: int) -> int:
        raise FormatError("x", f"{number} is bad")

    def items() -> Iterator[int]:
        with ordered_map(int, range(1000), workers=1, ahead=4) as below:
            yield from below

    before = threading.active_count()
    with pytest.raises(FormatError) as caught, ordered_map(fail, items(), workers=2, ahead=4) as results:
        list(results)
    assert threading.active_count() == before, caught.traceback  # which would keep the generators


def test_what_must_come_to_its_end_is_neither_woken_nor_stopped() -> None:
    done, begun = list[str](), threading.Event()

    def work(number: int) -> None:
        if number == 0:
            begun.wait()
            raise UsageError("x", "stop")
        try:
            while True:
                begun.set()
                pause(0.01)
        finally:
            with to_the_end():
                pause(0.01)
                check_stopped()
                with Interruptible(lambda: done.append("woken")):
                    done.append("cleaned")
            with pytest.raises(StoppedError):
                check_stopped()

    with pytest.raises(UsageError):
        parallel_map(work, [0, 1], workers=2)
    assert done == ["cleaned"]


def test_lanes_yield_in_order_and_each_waits_until_its_result_was_used() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        return number * 10

    results = lanes([work, work, work], range(10))
    assert next(results) == 0
    time.sleep(0.05)
    assert sorted(begun) == [0, 1, 2]
    assert list(results) == [number * 10 for number in range(1, 10)]
    assert sorted(begun) == list(range(10))


def test_a_failure_in_a_lane_is_raised_in_its_turn_and_ends_all_lanes() -> None:
    ended = threading.Semaphore(0)

    def work(number: int) -> int:
        if number == 3:
            raise FormatError("3", "is bad")
        return number

    results = lanes([work, work], range(100), ended=ended.release)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(FormatError, match="is bad"):
        next(results)
    assert all(ended.acquire(timeout=10) for _ in range(2))


def test_lanes_end_when_whoever_reads_them_lets_go() -> None:
    ended = threading.Semaphore(0)
    results = lanes([str, str], range(100), ended=ended.release)
    assert next(results) == "0"
    del results
    assert all(ended.acquire(timeout=10) for _ in range(2))


def test_who_waits_for_a_lane_is_called_off_at_once() -> None:
    held = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            time.sleep(0.1)
            raise FormatError("0", "is bad")
        for _ in lanes([lambda _: held.wait(30)], range(2)):
            pass

    with pytest.raises(FormatError, match="is bad"):
        parallel_map(work, range(2), workers=2)
    held.set()
