"""One retry policy for all adapters (reliability: full jitter 0.5 -> 30 s, eight tries without progress)."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TypeVar

from bundler.domain.events import Emit, Retrying, Waiting, silent
from bundler.errors import TransientError

Result = TypeVar("Result")
MAX_RETRY_AFTER_S = 300.0


def asked_wait_s(retry_after: str | None, date: str | None = None) -> float | None:
    """Return the seconds that Retry-After asks for, at most 300 (RFC 9110 §10.2.3).

    Args:
        retry_after: seconds, or a time; None where there is none.
        date: the answer's own Date, which a time is compared with.

    Returns:
        None where nothing is asked for, or no wait.
    """
    text = (retry_after or "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return min(float(text), MAX_RETRY_AFTER_S) or None
    try:
        wait = parsedate_to_datetime(text) - parsedate_to_datetime(date or "")
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(wait.total_seconds(), 0.0), MAX_RETRY_AFTER_S) or None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how patiently. Sleep and chance are arguments, so that tests need no clock.

    Attributes:
        tries: failures in a row, without progress, that end it.
        silent_tries: the same for a far side that does not answer at all; None for `tries`.
        first_wait_s: the first wait, with full jitter; it doubles with each failure in a row.
        longest_wait_s: and never gets longer than this.
        patience_s: waits that the far side asked for cost no try, until they sum up to this.
        sleep: waits; adapters whose work runs in `parallel_map` pass `transfer.pause`.
        chance: jitter, 0 to 1.
        emit: hears of each retry.
    """

    tries: int = 8
    silent_tries: int | None = None
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0
    patience_s: float = 900.0
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random
    emit: Emit = field(default=silent)

    def tries_for(self, error: TransientError) -> int:
        """How many failures in a row end it when `error` is the last of them."""
        return self.tries if error.answered or self.silent_tries is None else self.silent_tries

    def wait_s(self, failures: int, asked_s: float | None) -> float:
        """Seconds before the next try after `failures` failures in a row; what the far side asked for wins."""
        if asked_s is not None:
            return min(asked_s, MAX_RETRY_AFTER_S)
        return self.chance() * min(self.longest_wait_s, self.first_wait_s * 2.0 ** (failures - 1))


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
    failures, asked_s, reached = 0, 0.0, progress()
    while True:
        try:
            return action()
        except TransientError as error:
            now = progress()
            if now > reached:
                failures, asked_s, reached = 0, 0.0, now
            wait = policy.wait_s(failures + 1, error.retry_after_s)
            if not error.retry_after_s or asked_s + wait > policy.patience_s:
                failures += 1
            else:
                asked_s += wait
            if failures >= policy.tries_for(error):
                raise
            policy.emit(Retrying(subject=subject, cause=error.cause, wait_s=wait))
            policy.sleep(wait)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for the far side to become what it should be, and by which clock.

    Attributes:
        visible_s: how long it may take to show at all what it has just made.
    """

    deadline_s: float = 900.0
    every_s: float = 3.0
    visible_s: float = 60.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    emit: Emit = silent

    def until(
        self,
        look: Callable[[], Result],
        missing: Callable[[Result], Sequence[str]],
        *,
        subject: str,
        limit_s: float | None = None,
    ) -> Result:
        """Look again and again; return what was seen last: with nothing missing, else what it was when time was up.

        Args:
            look: asks the far side.
            missing: what of it is not yet as it should be, in words.
            subject: what is waited for.
            limit_s: None for the deadline.
        """
        started, limit = self.clock(), self.deadline_s if limit_s is None else limit_s
        while left := missing(found := look()):
            elapsed = self.clock() - started
            if elapsed > limit:
                break
            self.pause(subject, left, elapsed_s=elapsed, limit_s=limit)
        return found

    def appears(
        self, look: Callable[[], Result | None], *, subject: str, limit_s: float | None = None
    ) -> Result | None:
        """Return what has an id already and is shown a moment later (EC2 API, eventual consistency); None where not."""
        limit = self.visible_s if limit_s is None else limit_s
        return self.until(look, lambda one: ["not visible yet"] if one is None else [], subject=subject, limit_s=limit)

    def pause(self, subject: str, missing: Sequence[str], *, elapsed_s: float, limit_s: float | None = None) -> None:
        """Tell how much is missing yet, and sleep until the next look; without a limit the deadline is one."""
        state = f"{len(missing)} to go: {missing[0]}"
        limit = self.deadline_s if limit_s is None else limit_s
        self.emit(Waiting(subject=subject, state=state, elapsed_s=elapsed_s, limit_s=limit))
        self.sleep(self.every_s)
