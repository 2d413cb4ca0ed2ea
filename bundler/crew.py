"""Threads that work a schedule off: large jobs as many as asked for, small ones as many as the far side bears."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from bundler.domain.schedule import Job, Schedule, Widths
from bundler.errors import BundleError
from bundler.pacing import Limiter, Limits
from bundler.transfer import Once, drain

MOST_SMALL = 64
"""Small jobs at a time, where the far side is far and bears it."""

Work = TypeVar("Work")


class Crew(Generic[Work]):
    """Works a schedule off. `workers` large jobs may be under way; 1 means one job at a time of either kind.

    `do` returns by how many requests, one after the other, a job was done: how long each took says whether the far side
    bears more small jobs; 0 where that does not compare with other jobs. Refusals are the transport's matter.
    """

    def __init__(
        self, schedule: Schedule[Work], *, do: Callable[[Work], int], workers: int, clock: Callable[[], float]
    ) -> None:
        self._schedule = schedule
        self._do = do
        self._workers = workers
        self._clock = clock
        self._limits = limits_of(workers)
        self._limiter = Limiter(self._limits)
        self._one = Once()

    def run(self) -> None:
        """Do every job; the first failure ends it, as it ends `transfer.drain`.

        Raises:
            BundleError: jobs that wait for each other are left.
        """
        threads = min(self._schedule.jobs, self._workers + self._limits.most)
        drain(self._work, self._begin(), rank=_in_turn, workers=max(1, threads))
        if self._schedule.left:
            raise BundleError("the schedule", f"ended with {self._schedule.left} of {self._schedule.jobs} jobs undone")

    def _work(self, job: Job[Work]) -> list[Job[Work]]:
        since = self._clock()
        requests = self._do(job.work)
        took_s = self._clock() - since
        with self._one:
            if requests and not job.is_large:
                self._limiter.answered(took_s / requests, in_flight=self._schedule.small_under_way)
            self._schedule.end(job)
            return self._begin()

    def _begin(self) -> list[Job[Work]]:
        small = self._limiter.allowed
        total = 1 if self._workers == 1 else self._workers + small
        return self._schedule.begin(Widths(large=self._workers, small=small, total=total))


def limits_of(workers: int) -> Limits:
    """Return how many small jobs may be under way where `workers` large ones may."""
    if workers == 1:
        return Limits(start=1, least=1, most=1)
    return Limits(start=workers // 2, least=1, most=max(MOST_SMALL, workers))


def _in_turn(job: Job[Work]) -> int:
    """The schedule has decided already."""
    del job
    return 0
