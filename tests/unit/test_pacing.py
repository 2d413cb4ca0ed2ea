from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.pacing import SAMPLES, WINDOWS, Limiter, Limits

FAR = Limits(start=8, least=2, most=64)


def answers(limiter: Limiter, count: int, latency_s: float) -> None:
    for _ in range(count):
        limiter.answered(latency_s, in_flight=limiter.allowed)


def test_a_far_host_is_asked_more_at_a_time_up_to_the_limit() -> None:
    limiter = Limiter(FAR)
    seen = []
    for _ in range(5):
        answers(limiter, SAMPLES, 0.030)
        seen.append(limiter.allowed)
    assert seen == [16, 32, 64, 64, 64]


def test_growth_is_not_taken_back_because_requests_came_one_by_one() -> None:
    """The first ones after a growth are fewer than are allowed now: that says nothing of the host."""
    limiter = Limiter(FAR)
    answers(limiter, SAMPLES, 0.030)
    for under_way in (9, 9, 9, 9, 10, 11, 12, 16):
        limiter.answered(0.030, in_flight=under_way)
    assert limiter.allowed == 32


def test_a_near_host_is_not_asked_more_at_a_time() -> None:
    limiter = Limiter(FAR)
    answers(limiter, 50 * SAMPLES, 0.0005)
    assert limiter.allowed == FAR.start


def test_a_host_that_only_waits_for_our_own_processor_is_not_asked_more_at_a_time() -> None:
    """However many are under way, there is one answer every 4 ms."""
    limiter, seen = Limiter(FAR), []
    for _ in range(60 * SAMPLES):
        limiter.answered(0.004 * limiter.allowed, in_flight=limiter.allowed)
        seen.append(limiter.allowed)
    assert max(seen) <= 2 * FAR.start
    assert sum(allowed == FAR.start for allowed in seen) > 0.8 * len(seen)


def test_growth_that_brought_nothing_is_tried_again_later() -> None:
    limiter = Limiter(FAR)
    answers(limiter, SAMPLES, 0.030)
    answers(limiter, SAMPLES, 0.059)
    assert limiter.allowed == FAR.start
    answers(limiter, (WINDOWS + 1) * SAMPLES, 0.030)
    assert limiter.allowed == FAR.start + 1


def test_a_limit_that_holds_nothing_back_does_not_grow() -> None:
    limiter = Limiter(FAR)
    for _ in range(50 * SAMPLES):
        limiter.answered(0.030, in_flight=3)
    assert limiter.allowed == FAR.start


def test_answers_that_only_queue_take_slots_away_again() -> None:
    limiter = Limiter(FAR)
    answers(limiter, 2 * SAMPLES, 0.030)
    assert limiter.allowed == 32
    answers(limiter, 3 * SAMPLES, 0.090)
    assert limiter.allowed == 29
    answers(limiter, SAMPLES, 0.030)
    assert limiter.allowed == 30  # one by one from here on


def test_one_slow_answer_says_nothing() -> None:
    limiter = Limiter(FAR)
    for _ in range(3):
        answers(limiter, SAMPLES - 1, 0.030)
        limiter.answered(5.0, in_flight=limiter.allowed)
    assert limiter.allowed == 64


def test_a_refusal_halves_once_for_all_that_was_under_way() -> None:
    limiter = Limiter(FAR)
    answers(limiter, 3 * SAMPLES, 0.030)
    for _ in range(64):
        limiter.refused(in_flight=64)
    assert limiter.allowed == 32
    limiter.refused(in_flight=32)
    assert limiter.allowed == 16


def test_what_is_halved_is_what_was_under_way_not_what_was_allowed() -> None:
    limiter = Limiter(FAR)
    answers(limiter, 3 * SAMPLES, 0.030)
    for _ in range(12):
        limiter.refused(in_flight=12)
    assert limiter.allowed == 6


def test_one_request_that_is_refused_alone_does_not_make_what_follows_go_one_at_a_time() -> None:
    limiter = Limiter(FAR)
    answers(limiter, 3 * SAMPLES, 0.030)
    limiter.refused(in_flight=1)
    assert limiter.allowed == FAR.few // 2
    limiter.refused(in_flight=1)
    assert limiter.allowed == FAR.few // 4


def test_answers_that_became_slower_bring_no_fewer_than_a_few_wherever_it_began() -> None:
    limiter = Limiter(Limits(start=32, few=8))
    answers(limiter, SAMPLES, 0.010)
    most = limiter.allowed
    answers(limiter, 8 * SAMPLES, 0.080)
    assert limiter.allowed < most
    for _ in range(40):
        answers(limiter, SAMPLES, 0.010)
        answers(limiter, 3 * SAMPLES, 0.080)
        assert limiter.allowed >= 8
    assert limiter.allowed == 8


def test_refusals_without_end_end_at_the_least() -> None:
    limiter = Limiter(FAR)
    for _ in range(1000):
        limiter.refused(in_flight=limiter.allowed)
    assert limiter.allowed == FAR.least


def test_a_route_that_became_slower_for_good_is_the_new_normal() -> None:
    limiter = Limiter(FAR)
    answers(limiter, SAMPLES, 0.010)
    answers(limiter, WINDOWS * SAMPLES, 0.080)
    before = limiter.allowed
    answers(limiter, 4 * SAMPLES, 0.080)
    assert limiter.allowed == before + 4


@given(
    st.lists(st.tuples(st.one_of(st.none(), st.floats(min_value=0, max_value=600)), st.integers(1, 99)), max_size=400)
)
def test_the_limit_stays_within_its_bounds_whatever_a_host_does(steps: list[tuple[float | None, int]]) -> None:
    limiter = Limiter(FAR)
    for latency_s, in_flight in steps:
        if latency_s is None:
            limiter.refused(in_flight=in_flight)
        else:
            limiter.answered(latency_s, in_flight=in_flight)
        assert FAR.least <= limiter.allowed <= FAR.most


@pytest.mark.parametrize("wrong", [{"least": 0}, {"start": 2, "least": 3}, {"start": 65, "most": 64}, {"slack": 0.5}])
def test_limits_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"hold|slack"):
        Limits(**wrong)  # type: ignore[arg-type]
