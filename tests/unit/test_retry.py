"""The one retry policy."""

from __future__ import annotations

import pytest

from bundler.domain.events import Event, Waiting
from bundler.errors import FormatError, NetworkError, TransientError
from bundler.retry import Patience, RetryPolicy, retry


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
    assert waits == [0.5, 1, 2, 4, 8, 16, 30]


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


class Ripening:
    """Something on the far side that has one thing less to go at each look."""

    def __init__(self, *left: int) -> None:
        self.left = [*left]
        self.now = 0.0
        self.heard: list[Event] = []
        self.patience = Patience(
            deadline_s=60, visible_s=9, clock=lambda: self.now, sleep=self._sleep, emit=self.heard.append
        )

    def look(self) -> int:
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]

    def _sleep(self, seconds: float) -> None:
        self.now += seconds


def missing(left: int) -> list[str]:
    return [f"part {number}" for number in range(left)]


def test_waiting_ends_with_what_has_nothing_missing_and_tells_what_was() -> None:
    far = Ripening(2, 1, 0)
    assert far.patience.until(far.look, missing, subject="it") == 0
    assert far.now == 6.0
    assert [event.state for event in far.heard if isinstance(event, Waiting)] == ["2 to go: part 0", "1 to go: part 0"]


def test_what_is_there_at_once_costs_no_wait() -> None:
    far = Ripening(0)
    assert far.patience.until(far.look, missing, subject="it") == 0
    assert (far.now, far.heard) == (0.0, [])


@pytest.mark.parametrize(("limit_s", "waited"), [(None, 63.0), (10.0, 12.0), (0.0, 3.0)])
def test_waiting_that_is_in_vain_ends_with_what_was_seen_last(limit_s: float | None, waited: float) -> None:
    far = Ripening(3)
    assert far.patience.until(far.look, missing, subject="it", limit_s=limit_s) == 3
    assert far.now == waited


def test_what_has_an_id_is_waited_for_until_it_shows_or_a_shorter_time_is_up() -> None:
    far = Ripening(0)
    shown = iter([None, None, "ami-1"])
    assert far.patience.appears(lambda: next(shown), subject="AMI") == "ami-1"
    assert far.patience.appears(lambda: None, subject="AMI") is None
    assert far.now == 6.0 + 12.0
