"""Bounded parallel work: order, first failure, waking what waits."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from bundler.errors import FormatError, NetworkError, StoppedError
from bundler.transfer import Interruptible, check_stopped, parallel_map, pause


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
    begun = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 0:
            pause(30)
        if item == 1:
            time.sleep(0.05)
            raise FormatError("item 1", "is bad")

    began = time.monotonic()
    with pytest.raises(FormatError, match="item 1"):
        parallel_map(work, range(100), workers=2)
    assert time.monotonic() - began < 2
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
    def work(item: int) -> None:
        if item == 1:
            raise FormatError("item", "is bad")
        for _ in range(10_000):
            check_stopped()
            time.sleep(0.001)

    began = time.monotonic()
    with pytest.raises(FormatError):
        parallel_map(work, range(2), workers=2)
    assert time.monotonic() - began < 2


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
    def outer(item: int) -> None:
        if item == 1:
            time.sleep(0.05)
            raise FormatError("outer", "is bad")
        parallel_map(lambda _: pause(30), range(4), workers=2)

    began = time.monotonic()
    with pytest.raises(FormatError):
        parallel_map(outer, range(2), workers=2)
    assert time.monotonic() - began < 2


def test_ctrl_c_wakes_everything() -> None:
    main = threading.get_ident()
    timer = threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        parallel_map(lambda _: pause(30), range(50), workers=4)
    assert time.monotonic() - began < 2
    timer.join()


def test_outside_of_a_map_nothing_stops() -> None:
    check_stopped()
    pause(0)
    with Interruptible(lambda: None):
        pass
