"""Threads that work a schedule off, to its end."""

from __future__ import annotations

import pytest

from bundler.crew import MOST, Crew, widths_of
from bundler.domain.schedule import Job, Schedule, Widths
from bundler.errors import BundleError
from bundler.pacing import Bearing


def crew(jobs: list[Job[int]], done: list[int], *, workers: int = 3) -> Crew[int]:
    return Crew(Schedule(jobs, rank=lambda work: (work,)), do=done.append, workers=workers, bearing=lambda: Bearing(8))


@pytest.mark.parametrize("workers", [1, 3])
def test_every_job_is_done_after_those_that_it_needs(workers: int) -> None:
    jobs, done = [Job(work=number, is_large=number % 3 == 0) for number in range(40)], list[int]()
    for job in jobs[:-1]:
        jobs[-1].after(job)
    crew(jobs, done, workers=workers).run()
    assert sorted(done) == list(range(40))
    assert done[-1] == 39


def test_jobs_that_wait_for_each_other_are_no_success() -> None:
    one, two, done = Job(work=1), Job(work=2), list[int]()
    one.after(two)
    two.after(one)
    with pytest.raises(BundleError, match="ended with 2 of 3 jobs undone"):
        crew([one, two, Job(work=3)], done).run()
    assert done == [3]


@pytest.mark.parametrize(
    ("workers", "bearing", "large", "small", "total"),
    [
        (8, Bearing(8), 8, 8, 12),
        (8, Bearing(40), 8, 40, 40),
        (8, Bearing(1), 8, 1, 12),
        (8, Bearing(4, is_here=True), 4, 4, 6),
        (3, Bearing(4, is_here=True), 3, 4, 5),
        (3, Bearing(500), 3, MOST, MOST),
        (1, Bearing(64), 1, 1, 1),
    ],
)
def test_small_jobs_are_as_many_as_the_far_side_bears_and_large_ones_leave_them_room(
    workers: int, bearing: Bearing, large: int, small: int, total: int
) -> None:
    assert widths_of(workers, bearing) == Widths(large=large, small=small, total=total)
