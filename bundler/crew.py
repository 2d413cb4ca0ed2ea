"""Threads that work a schedule off: large jobs as many as asked for, small ones as many as the far side bears."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from bundler.domain.schedule import Job, Schedule, Widths
from bundler.errors import BundleError
from bundler.pacing import Bearing
from bundler.transfer import Once, drain

MOST = 64
"""Threads for small jobs, however many the far side bears."""

Work = TypeVar("Work")


class Crew(Generic[Work]):
    """Works a schedule off. `workers` large jobs may be under way; 1 means one job at a time of either kind.

    `bearing` says how many requests the far side bears now: that many small jobs may be under way, and half as many
    as `workers` beside large ones; to a far side on this machine no more large ones either.
    """

    def __init__(
        self, schedule: Schedule[Work], *, do: Callable[[Work], None], workers: int, bearing: Callable[[], Bearing]
    ) -> None:
        self._schedule = schedule
        self._do = do
        self._workers = workers
        self._bearing = bearing
        self._one = Once()

    def run(self) -> None:
        """Do every job; the first failure ends it, as it ends `transfer.drain`.

        Raises:
            BundleError: jobs that wait for each other are left.
        """
        threads = 1 if self._workers == 1 else min(self._schedule.jobs, self._workers + MOST)
        drain(self._work, self._begin(), rank=_in_turn, workers=max(1, threads))
        if self._schedule.left:
            raise BundleError("the schedule", f"ended with {self._schedule.left} of {self._schedule.jobs} jobs undone")

    def _work(self, job: Job[Work]) -> list[Job[Work]]:
        self._do(job.work)
        with self._one:
            self._schedule.end(job)
            return self._begin()

    def _begin(self) -> list[Job[Work]]:
        return self._schedule.begin(widths_of(self._workers, self._bearing()))


def widths_of(workers: int, bearing: Bearing) -> Widths:
    """Return how many jobs may be under way where the far side bears so much."""
    if workers == 1:
        return Widths(large=1, small=1, total=1)
    large = min(workers, max(1, bearing.requests)) if bearing.is_here else workers
    small = min(max(1, bearing.requests), MOST)
    return Widths(large=large, small=small, total=max(small, large + (large + 1) // 2))


def _in_turn(job: Job[Work]) -> int:
    """The schedule has decided already."""
    del job
    return 0
