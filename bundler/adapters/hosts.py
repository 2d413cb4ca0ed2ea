"""How many requests each host gets at a time: it says so itself, by how fast it answers and by what it refuses."""

from __future__ import annotations

import os
from collections.abc import Callable

from bundler.domain.url import Origin
from bundler.pacing import Bearing, Limiter, Limits
from bundler.transfer import Once, Slot, Slots

PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
MOST = 64
SHARED = Limits(start=8, most=8)
OWN = Limits(start=32, most=MOST)
"""Of somebody's own: an image's manifest is asked for in each of them at once, and a round trip is saved."""
_SHARED_HOSTS = frozenset(
    {
        "gcr.io",
        "ghcr.io",
        "mcr.microsoft.com",
        "public.ecr.aws",
        "quay.io",
        "registry-1.docker.io",
        "registry.gitlab.com",
        "registry.k8s.io",
    }
)


def limits_of(origin: Origin) -> Limits:
    """Return how many requests a host may get at a time: fewer where the whole world shares it, and counts them."""
    return SHARED if origin.host in _SHARED_HOSTS else OWN


class HostPace:
    """One host's limit, and who is under way there.

    To a host on this machine, or next to it, go at most two requests for each of our processors: bytes to and from it
    are their work, and more of them at a time push each other out of their caches.
    """

    def __init__(self, limits: Limits, *, processors: int = PROCESSORS) -> None:
        self._limiter = Limiter(limits)
        self._processors = processors
        self._slots = Slots(self._requests)
        self._learning = Once()

    @property
    def bearing(self) -> Bearing:
        """What the host bears now."""
        return Bearing(self._requests(), is_here=self._limiter.is_here)

    def _requests(self) -> int:
        allowed = self._limiter.allowed
        return min(allowed, 2 * self._processors) if self._limiter.is_here else allowed

    def enter(self) -> Slot:
        """Wait until there is room for one more request; one that belongs to another of this thread has room.

        Whoever holds a slot (an Answer does, until it is closed) must not wait for anything that others hold while
        they wait for one: no token is renewed, and no other thread is waited for, before the Answer is closed.

        Raises:
            StoppedError: the work was called off.
        """
        return self._slots.enter()

    def answered(self, latency_s: float) -> None:
        """Learn from a good answer."""
        with self._learning:
            self._limiter.answered(latency_s, in_flight=self._slots.taken)

    def refused(self) -> None:
        """Learn from a 429 or 503."""
        with self._learning:
            self._limiter.refused(in_flight=self._slots.taken)


class Hosts:
    """The pace of every host."""

    def __init__(self, limits_of: Callable[[Origin], Limits]) -> None:
        self._limits_of = limits_of
        self._known: dict[Origin, HostPace] = {}
        self._adding = Once()

    def of(self, origin: Origin) -> HostPace:
        """Return that of one host."""
        with self._adding:
            if origin not in self._known:
                self._known[origin] = HostPace(self._limits_of(origin))
            return self._known[origin]
