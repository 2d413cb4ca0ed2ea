"""An AMI copied into this account: once, and again only where the copy is gone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from bundler.domain.events import Emit, Noted
from bundler.domain.machine_image import FoundImage, ImageCopy
from bundler.errors import TargetError
from bundler.retry import Patience

TRIES = 5


class Copies(Protocol):
    """EC2, as far as a copy needs it."""

    def image(self, ami: str) -> FoundImage | None:
        """Return an AMI, None where this account does not see it."""
        ...

    def copy(self, wanted: ImageCopy) -> str:
        """Copy an AMI into this account and Region; return the new id."""
        ...


def copied(wanted: Callable[[int], ImageCopy], *, images: Copies, patience: Patience, emit: Emit) -> FoundImage:
    """Return the copy, which may be pending yet; the same token gives the same one.

    A token gives a copy for as long as EC2 knows it, also where that was deregistered: then another token is taken.

    Args:
        wanted: what is asked for at each try, counted from 0, each with a token of its own.
        images: EC2.
        patience: how long EC2 may take to show what it has made.
        emit: hears of a copy that is gone.

    Raises:
        TargetError: none of the tokens gives one that EC2 shows.
    """
    asked = wanted(0)
    for attempt in range(TRIES):
        asked = wanted(attempt)
        ami = images.copy(asked)
        found = patience.appears(partial(images.image, ami), subject=f"AMI {ami}")
        if found is not None:
            return found
        emit(Noted(text=f"{ami}, copied before, is not there any more: copying it again"))
    cause = f"gave no copy in {TRIES} tries: EC2 names ids, and shows no AMI of them"
    hint = "Look at it in EC2, then run the same command again: a copy that has appeared by then is taken."
    raise TargetError(f"AMI {asked.source} of {asked.region}", cause, hint=hint)
