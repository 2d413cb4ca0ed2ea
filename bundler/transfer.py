"""Bounded parallel work: the only threads of the product."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

from bundler.domain.events import Emit, silent


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How many at a time, and who hears of it."""

    workers: int = 8
    emit: Emit = silent


Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(work: Callable[[Item], Result], items: Iterable[Item], *, workers: int) -> list[Result]:
    """Return `work(item)` for each item, in input order, with at most `workers` at a time.

    The first failure stops what has not begun, waits for what has, and is raised. Ctrl-C does the same.
    """
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="transfer")
    try:
        futures: list[Future[Result]] = [pool.submit(work, item) for item in items]
        wait(futures, return_when=FIRST_EXCEPTION)
        failed = next((f for f in futures if f.done() and not f.cancelled() and f.exception()), None)
        if failed is not None:
            failed.result()
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Once:
    """Runs an action one thread at a time, so that one token refresh serves all workers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
