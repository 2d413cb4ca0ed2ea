from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bundler.domain.schedule import Job, Schedule, Widths

WIDE = Widths(large=100, small=100, total=200)


def jobs_of(*works: int, is_large: bool = False) -> list[Job[int]]:
    return [Job(work=work, is_large=is_large) for work in works]


def begun(schedule: Schedule[int], widths: Widths) -> list[int]:
    return [job.work for job in schedule.begin(widths)]


def test_the_least_rank_begins_first_and_no_more_than_the_lane_is_wide() -> None:
    schedule = Schedule(jobs_of(1, 2, 3), rank=lambda work: (-work,))
    assert begun(schedule, Widths(large=1, small=2, total=9)) == [3, 2]
    assert begun(schedule, Widths(large=1, small=2, total=9)) == []


def test_large_jobs_do_not_hold_small_ones_back() -> None:
    schedule = Schedule([*jobs_of(7, 8, is_large=True), *jobs_of(1)], rank=lambda work: (work,))
    assert begun(schedule, Widths(large=1, small=1, total=2)) == [7, 1]


def test_a_total_of_one_means_one_at_a_time() -> None:
    schedule = Schedule([*jobs_of(7, is_large=True), *jobs_of(1)], rank=lambda work: (work,))
    assert begun(schedule, Widths(large=1, small=1, total=1)) == [7]


def test_a_job_begins_when_the_last_that_it_needs_has_ended() -> None:
    first, second, third = jobs_of(1, 2, 3)
    third.after(first)
    third.after(second)
    schedule = Schedule([first, second, third], rank=lambda work: (work,))
    assert begun(schedule, WIDE) == [1, 2]
    schedule.end(first)
    assert begun(schedule, WIDE) == []
    schedule.end(second)
    assert begun(schedule, WIDE) == [3]


@given(
    count=st.integers(1, 30),
    edges=st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=80),
    large=st.sets(st.integers(0, 29)),
    widths=st.builds(Widths, large=st.integers(1, 4), small=st.integers(1, 4), total=st.integers(1, 8)),
    seed=st.randoms(use_true_random=False),
)
def test_every_job_is_done_once_after_what_it_needs_within_the_widths(  # type: ignore[no-untyped-def]
    count, edges, large, widths, seed
) -> None:
    jobs = [Job(work=number, is_large=number in large) for number in range(count)]
    needs: dict[int, set[int]] = {number: set() for number in range(count)}
    for low, high in {(low, high) for low, high in edges if low < high < count}:
        jobs[high].after(jobs[low])
        needs[high].add(low)
    schedule = Schedule(jobs, rank=lambda work: (work,))
    under_way, done = schedule.begin(widths), []
    while under_way:
        assert len(under_way) <= widths.total
        assert sum(job.is_large for job in under_way) <= widths.large
        assert sum(not job.is_large for job in under_way) <= widths.small
        job = under_way.pop(seed.randrange(len(under_way)))
        assert needs[job.work] <= set(done)
        done.append(job.work)
        schedule.end(job)
        under_way += schedule.begin(widths)
    assert sorted(done) == list(range(count))
