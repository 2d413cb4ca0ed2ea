"""What may begin now: jobs that need other jobs first, in lanes of limited width. Pure: no threads, no clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Work = TypeVar("Work")


@dataclass(slots=True, eq=False, kw_only=True)
class Job(Generic[Work]):
    """One piece of work.

    Attributes:
        work: what is to be done.
        is_large: which lane it takes.
        needs: how many jobs have to end before it may begin.
        then: what needs this one: nothing, one job, as of most of a hundred thousand, or several.
    """

    work: Work
    is_large: bool = False
    needs: int = 0
    then: Job[Work] | list[Job[Work]] | None = None

    def after(self, other: Job[Work]) -> None:
        """Begin only when `other` has ended."""
        self.needs += 1
        if other.then is None:
            other.then = self
        elif isinstance(other.then, list):
            other.then.append(self)
        else:
            other.then = [other.then, self]


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """How many jobs may be under way: of the large, of the small, and of both together."""

    large: int
    small: int
    total: int


class Schedule(Generic[Work]):
    """Gives out jobs whose needs are met, in each lane the least rank first. Whoever shares it holds a lock.

    Attributes:
        jobs: how many there are.
        left: how many of them have not ended.
        small_under_way: small jobs that have begun and not ended.
    """

    def __init__(self, jobs: Sequence[Job[Work]], *, rank: Callable[[Work], tuple[Any, ...]]) -> None:
        self.jobs = self.left = len(jobs)
        self.small_under_way = 0
        self._large_under_way = 0
        self._rank = rank
        self._count = 0
        self._large: list[tuple[Any, ...]] = []
        self._small: list[tuple[Any, ...]] = []
        for job in jobs:
            if not job.needs:
                self._ready(job)

    def begin(self, widths: Widths) -> list[Job[Work]]:
        """Return the jobs that begin now; each is to be told to `end` once."""
        begun = []
        while self._large and self._large_under_way < widths.large and self._under_way < widths.total:
            begun.append(heapq.heappop(self._large)[-1])
            self._large_under_way += 1
        while self._small and self.small_under_way < widths.small and self._under_way < widths.total:
            begun.append(heapq.heappop(self._small)[-1])
            self.small_under_way += 1
        return begun

    def end(self, job: Job[Work]) -> None:
        """Take a job that was done: what needed it only, may begin."""
        self.left -= 1
        if job.is_large:
            self._large_under_way -= 1
        else:
            self.small_under_way -= 1
        following, job.then = job.then, None
        for other in following if isinstance(following, list) else () if following is None else (following,):
            other.needs -= 1
            if not other.needs:
                self._ready(other)

    @property
    def _under_way(self) -> int:
        return self._large_under_way + self.small_under_way

    def _ready(self, job: Job[Work]) -> None:
        self._count += 1
        heapq.heappush(self._large if job.is_large else self._small, (*self._rank(job.work), self._count, job))
