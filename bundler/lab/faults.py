"""Faults on request: the nth call of an operation is denied, throttled, cut off. Tests set them at `/_lab/faults`."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal, get_args

from bundler.errors import UsageError

Kind = Literal["denied", "throttled", "unavailable", "expired", "reset", "cut", "slow", "damaged"]
ANY = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One planned fault.

    Attributes:
        service: `ec2`, `ecr`, …, `ecr.dkr` (the registry of the closed side), `source` (of the connected side), or `*`.
        operation: an AWS operation name, or a registry verb such as `PutManifest`; `*` for all.
        kind: what happens. `reset` closes the connection without an answer, `cut` in the middle of a body; `damaged`
            (EBS direct only) changes a bit of the block that is put or got.
        nth: the first matching call that is hit, counted from 1 from now on.
        times: how many calls in a row are hit.
        spare: of so many calls one is spared; 0 for none.
        delay_s: for `slow`: seconds before the answer.
        retry_after_s: for `throttled` and `unavailable`: sent as Retry-After.
    """

    service: str
    operation: str
    kind: Kind
    nth: int = 1
    times: int = 1
    spare: int = 0
    delay_s: float = 0.0
    retry_after_s: int | None = None

    def matches(self, service: str, operation: str) -> bool:
        """Whether this fault is meant for such a call."""
        return self.service in (ANY, service) and self.operation in (ANY, operation)


def parse_fault(value: object) -> Fault:
    """Return the fault that a control request describes.

    Raises:
        UsageError: not a fault.
    """
    if not isinstance(value, dict) or value.get("kind") not in get_args(Kind):
        raise UsageError("fault", f"kind must be one of {', '.join(get_args(Kind))}")
    try:
        return Fault(**value)
    except TypeError as error:
        raise UsageError("fault", str(error)) from error


class Faults:
    """The planned faults and how often each has been met."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planned: list[tuple[Fault, list[int]]] = []

    def plan(self, fault: Fault) -> None:
        """Add a fault; its calls are counted from now on."""
        with self._lock:
            self._planned.append((fault, [0]))

    def clear(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._planned.clear()

    def take(self, service: str, operation: str) -> Fault | None:
        """Count this call and return the fault that hits it, if any."""
        hit: Fault | None = None
        with self._lock:
            for fault, seen in self._planned:
                if not fault.matches(service, operation):
                    continue
                seen[0] += 1
                is_spared = fault.spare and seen[0] % fault.spare == 0
                if hit is None and not is_spared and fault.nth <= seen[0] < fault.nth + fault.times:
                    hit = fault
        return hit
