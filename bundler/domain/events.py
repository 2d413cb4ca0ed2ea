"""What the work tells its audience. Only cli/ prints; events never hold secrets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseStarted(Event):
    """A phase of lock, build or install begins."""

    phase: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseDone(Event):
    """A phase ended well; `detail` says with what."""

    phase: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferPlanned(Event):
    """How much the phase will move: bytes in all, of which `present_bytes` need not move, over `items` blobs."""

    phase: str
    total_bytes: int
    items: int
    present_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BytesMoved(Event):
    """`count` more bytes are at their destination (negative when a try is thrown away and starts again).

    None, where the item has only begun.

    Attributes:
        item: which one; where room is short, only its first word is shown.
        kept: they were there before, or are somewhere near: kept by an earlier run, present or mounted. None moved.
    """

    phase: str
    item: str
    count: int
    kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemDone(Event):
    """A blob is at its destination, `how`: moved, present, mounted, verified, read.

    An image that got its name (`tagged`) is none of the planned items.
    """

    phase: str
    item: str
    how: str = "moved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying(Event):
    """A try failed and another follows after `wait_s` seconds."""

    subject: str
    cause: str
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Event):
    """A wait with a deadline goes on: for what, seconds so far, seconds at most."""

    subject: str
    state: str
    elapsed_s: float
    limit_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted(Event):
    """One line a person should see; `warning` where it asks for attention."""

    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaPlanned(Event):
    """What an archive will carry, and what of it stays away because the site has it; before its first byte is fetched.

    Attributes:
        against: the earlier bundle or the receipt.
        carried: blobs, `carried_bytes` of them with the archive's own members.
        absent: blobs that the site has.
    """

    against: str
    carried: int
    carried_bytes: int
    absent: int
    absent_bytes: int


Emit = Callable[[Event], None]


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: 1 image, 2 images."""
    return f"{count} {noun}" if count == 1 else f"{count} {plural or f'{noun}s'}"


def silent(event: Event) -> None:
    """Take an event and tell nobody."""
    del event
