"""How much one host bears at a time: a pure policy that answers and refusals move. No clock, no threads, no sleep.

More at a time while that brings more answers a second; no more where they only queue, on the far side or for our own
processor; half as many where it says that it is too much.
"""

from __future__ import annotations

from dataclasses import dataclass

SAMPLES = 8
"""Answers that the fastest of is taken for how fast the host is now: one slow answer says nothing."""
WINDOWS = 16
"""Judgements after which the best latency ever seen is forgotten, and growth that brought nothing is tried again: a
route may have changed."""
HERE_S = 0.001
"""Who answers within this is on this machine, or next to it."""
GAIN = 0.5
"""The least share of what more at a time should bring in answers a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Between which numbers a limiter moves, and how.

    Attributes:
        start: requests at a time in the beginning.
        least: never fewer.
        most: never more.
        few: never fewer because answers became slower: latencies of unlike requests differ, too. Where fewer than
            these are refused, it is not their number that was too much.
        slack: answers may take so many times the best latency before they count as queued.
        near_s: below this latency more requests at a time gain nothing: the host is here, and the processor is busy.
    """

    start: int = 8
    least: int = 1
    most: int = 64
    few: int = 8
    slack: float = 2.0
    near_s: float = 0.005

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.start <= self.most:
            raise ValueError(f"1 <= {self.least} <= {self.start} <= {self.most} does not hold")
        if self.slack < 1:
            raise ValueError(f"a slack of {self.slack} would take every answer for a queued one")


@dataclass(frozen=True, slots=True)
class Bearing:
    """What a host bears now, as far as its answers have said.

    Attributes:
        requests: how many at a time.
        is_here: it answers within a millisecond: what is slow is our own processor, or a disk.
    """

    requests: int
    is_here: bool = False


class Limiter:
    """Requests at a time for one host. Not safe for several threads: whoever shares it holds a lock.

    Attributes:
        allowed: requests that may be under way now.
    """

    def __init__(self, limits: Limits) -> None:
        self.allowed = limits.start
        self._limits = limits
        self._best_s: float | None = None
        self._fastest_s: float | None = None
        self._answers = 0
        self._fullest = 0
        self._latencies_s = 0.0
        self._before: tuple[int, float] | None = None
        self._rest = 0
        self._judgements = 0
        self._refusals_to_ignore = 0
        self._is_growing_fast = True

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine or next to it."""
        return self._best_s is not None and self._best_s < HERE_S

    def answered(self, latency_s: float, *, in_flight: int) -> None:
        """Take a good answer.

        Args:
            latency_s: seconds from a request without a body to its answer, on a connection that was there.
            in_flight: requests that were under way, this one included; where they are fewer than allowed, the limit
                holds nothing back, and nothing is learnt about it.
        """
        self._refusals_to_ignore = max(0, self._refusals_to_ignore - 1)
        self._best_s = latency_s if self._best_s is None else min(self._best_s, latency_s)
        self._fastest_s = latency_s if self._fastest_s is None else min(self._fastest_s, latency_s)
        self._fullest = max(self._fullest, in_flight)
        self._latencies_s += latency_s
        self._answers += 1
        if self._answers < SAMPLES:
            return
        fastest_s, is_full = self._fastest_s, self._fullest >= self.allowed
        # Answers a second with as many under way as are allowed, by Little's law: that they were fewer on the way there
        # is no fault of the host.
        rate = self.allowed * self._answers / max(self._latencies_s, 1e-9)
        self._begin_window()
        self._judge(fastest_s, rate, is_full=is_full)

    def refused(self, *, in_flight: int) -> None:
        """Take a 429 or 503: half as many, once for all requests that were under way when the host said so.

        Args:
            in_flight: requests that were under way, this one included; more were allowed, perhaps, but not refused.
        """
        self._begin_window()
        self._is_growing_fast, self._before = False, None
        if self._refusals_to_ignore:
            self._refusals_to_ignore -= 1
            return
        too_many = min(self.allowed, max(in_flight, self._limits.few))
        self._refusals_to_ignore = in_flight - 1
        self.allowed = max(self._limits.least, too_many // 2)

    def _begin_window(self) -> None:
        self._fastest_s, self._answers, self._fullest = None, 0, 0
        self._latencies_s = 0.0

    def _judge(self, fastest_s: float, rate: float, *, is_full: bool) -> None:
        best_s = fastest_s if self._best_s is None else self._best_s
        if fastest_s > max(best_s * self._limits.slack, self._limits.near_s):
            self._is_growing_fast, self._before = False, None
            self.allowed = max(min(self._limits.few, self.allowed), self.allowed - 1)
        elif is_full and fastest_s > self._limits.near_s:
            self._grow(rate)
        self._judgements += 1
        if self._judgements % WINDOWS == 0:
            self._best_s = fastest_s

    def _grow(self, rate: float) -> None:
        """Go on where the last growth brought what it should; else go back, and try again later."""
        if self._before is not None:
            fewer, rate_then = self._before
            if rate < rate_then * (1 + GAIN * (self.allowed / fewer - 1)):
                self.allowed, self._before, self._rest, self._is_growing_fast = fewer, None, WINDOWS, False
                return
        if self._rest:
            self._rest -= 1
            return
        more = min(self._limits.most, self.allowed + (self.allowed if self._is_growing_fast else 1))
        self._before = (self.allowed, rate) if more > self.allowed else None
        self.allowed = more
