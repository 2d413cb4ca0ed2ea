"""One retry policy for all adapters (reliability: full jitter 0.5 -> 30 s, eight tries without progress)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from bundler.domain.events import Emit, Retrying, silent
from bundler.errors import TransientError

Result = TypeVar("Result")
MAX_RETRY_AFTER_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how patiently. Sleep and chance are arguments, so that tests need no clock."""

    tries: int = 8
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random
    emit: Emit = field(default=silent)

    def wait_s(self, failures: int, asked_s: float | None) -> float:
        """Seconds before the next try after `failures` failures in a row; what the far side asked for wins."""
        if asked_s is not None:
            return min(asked_s, MAX_RETRY_AFTER_S)
        return self.chance() * min(self.longest_wait_s, self.first_wait_s * 2.0**failures)


def retry(
    action: Callable[[], Result],
    *,
    subject: str,
    policy: RetryPolicy,
    progress: Callable[[], int] = lambda: 0,
) -> Result:
    """Call `action` until it returns; only TransientError is tried again, and progress renews the budget.

    Args:
        action: called without arguments.
        subject: what is tried, for the event.
        policy: budget and waits.
        progress: a number that grows when work got further; growth between two failures renews the budget.

    Raises:
        TransientError: the last one, when the budget is used up.
    """
    failures, reached = 0, progress()
    while True:
        try:
            return action()
        except TransientError as error:
            now = progress()
            failures = 1 if now > reached else failures + 1
            reached = now
            if failures >= policy.tries:
                raise
            wait = policy.wait_s(failures, error.retry_after_s)
            policy.emit(Retrying(subject=subject, cause=error.cause, wait_s=wait))
            policy.sleep(wait)
