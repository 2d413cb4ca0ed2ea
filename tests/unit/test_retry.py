"""The one retry policy."""

from __future__ import annotations

import pytest

from bundler.errors import FormatError, NetworkError, TransientError
from bundler.retry import RetryPolicy, retry


class Failing:
    """Fails a number of times, then returns; `progress` may grow with every try."""

    def __init__(self, *failures: float | None, answered: bool = False) -> None:
        self.answered = answered
        self.failures = list(failures)
        self.tries = 0
        self.progress = 0

    def __call__(self) -> str:
        self.tries += 1
        if not self.failures:
            return "done"
        error = TransientError("x", "failed")
        error.retry_after_s = self.failures.pop(0)
        error.answered = self.answered
        raise error


def policy(waits: list[float], **options: float) -> RetryPolicy:
    return RetryPolicy(sleep=waits.append, chance=lambda: 1.0, **options)  # type: ignore[arg-type]


def test_seven_failures_are_survived_with_growing_waits() -> None:
    waits: list[float] = []
    assert retry(Failing(*[None] * 7), subject="x", policy=policy(waits)) == "done"
    assert waits == [1, 2, 4, 8, 16, 30, 30]


def test_the_eighth_failure_is_raised() -> None:
    action = Failing(*[None] * 8)
    with pytest.raises(TransientError):
        retry(action, subject="x", policy=policy([]))
    assert action.tries == 8


def test_silence_may_end_it_sooner_than_an_answer_that_says_later() -> None:
    silent, busy = Failing(*[None] * 7), Failing(*[None] * 7, answered=True)
    with pytest.raises(TransientError):
        retry(silent, subject="x", policy=policy([], silent_tries=2))
    assert silent.tries == 2
    assert retry(busy, subject="x", policy=policy([], silent_tries=2)) == "done"


def test_other_errors_are_not_tried_again() -> None:
    for error in (NetworkError("x", "permanent"), FormatError("x", "bad"), OSError("disk")):

        def action(error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)):
            retry(action, subject="x", policy=policy([]))


def test_progress_renews_the_budget() -> None:
    action = Failing(*[None] * 100)
    assert retry(action, subject="x", policy=policy([]), progress=lambda: action.tries // 5) == "done"


def test_waits_that_were_asked_for_cost_no_try_until_patience_ends() -> None:
    waits: list[float] = []
    assert retry(Failing(*[5.0] * 20), subject="x", policy=policy(waits)) == "done"
    assert waits == [5.0] * 20
    action = Failing(*[300.0] * 100)
    with pytest.raises(TransientError):
        retry(action, subject="x", policy=policy([], patience_s=600.0))
    assert action.tries == 2 + 8


def test_a_wait_is_at_most_five_minutes() -> None:
    waits: list[float] = []
    retry(Failing(86400.0), subject="x", policy=policy(waits))
    assert waits == [300.0]
