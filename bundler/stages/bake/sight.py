"""What EC2 shows of AMIs, and when: a new one may show a moment later, and is pending for minutes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from bundler.domain.machine_image import FoundImage
from bundler.errors import ConflictError, TargetError
from bundler.retry import Patience
from bundler.stages.bake.ports import Images

FAILED = ("failed", "error", "invalid", "deregistered")
_BLIND_S = 10.0
PENDING = ("pending", "transient")
LOOK = "Look at it in EC2, then run this again."


@dataclass(frozen=True, slots=True)
class Sight:
    """AMIs, looked at with patience."""

    images: Images
    patience: Patience

    def seen(self, ami: str) -> FoundImage:
        """Return an AMI as it is now.

        Raises:
            ConflictError: there is none (any more).
        """
        found = self.images.image(ami)
        if found is None:
            raise ConflictError(f"AMI {ami}", "does not exist (any more), or this account may not see it")
        return found

    def available(self, image: FoundImage) -> FoundImage:
        """Return an AMI once it is available.

        Raises:
            TargetError: it does not become so.
        """
        if not self.becomes_available(image):
            raise TargetError(image.subject, "did not become available", hint=LOOK)
        return self.seen(image.id)

    def becomes_available(self, image: FoundImage) -> bool:
        """Wait for a pending AMI; whether it is available in the end."""
        return self.settled(image) == "available"

    def settled(self, image: FoundImage) -> str:
        """Wait for a pending AMI; return its state then, `gone` where EC2 does not show it any more.

        Raises:
            TargetError: it is pending for too long.
        """
        last = self.patience.until(partial(self._state, image), _unsettled, subject=image.subject)
        if last in PENDING:
            raise TargetError(image.subject, f"is still {last} after {self.patience.deadline_s:.0f} s", hint=LOOK)
        return last

    def _state(self, image: FoundImage) -> str:
        """The state now. EC2 has shown it already, so that one look that does not see it may have come too early."""
        subject = f"AMI {image.id}"
        found = self.patience.appears(lambda: self.images.image(image.id), subject=subject, limit_s=_BLIND_S)
        return "gone" if found is None else found.state


def _unsettled(state: str) -> list[str]:
    return [state] if state in PENDING else []
