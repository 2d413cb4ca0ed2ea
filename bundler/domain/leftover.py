"""What a bake has in AWS while it runs, and leaves there when it is cut off; and whether somebody works with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

OWNER_TAG = "bundle:owner"
"""Who bakes: an id of all that share one lock, a blank, and a name for people."""
ALIVE_TAG = "bundle:alive"
"""When that was last heard of, in seconds since 1970."""
DEAD_AFTER_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """An instance, key pair or security group of a builder; `id` is the name of a key pair.

    Attributes:
        owner: what its tag says, empty where it has none.
        alive_at: when its owner was last heard of, in seconds since 1970; 0 where nobody knows.
    """

    kind: Literal["instance", "key pair", "security group"]
    id: str
    owner: str = field(default="", compare=False)
    alive_at: float = field(default=0.0, compare=False)

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


def in_use(found: Iterable[Leftover], *, owner: str, now: float) -> tuple[Leftover, ...]:
    """Return what another owner works with right now; the rest is left behind.

    What is ours is: whoever asks holds the lock that all builds of this owner share. A time that lies far ahead is of a
    clock that nobody can wait for.
    """
    ours, _, _ = owner.partition(" ")

    def is_used(leftover: Leftover) -> bool:
        theirs, _, _ = leftover.owner.partition(" ")
        return bool(theirs) and theirs != ours and abs(now - leftover.alive_at) < DEAD_AFTER_S

    return tuple(filter(is_used, found))
