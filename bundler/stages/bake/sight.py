"""What EC2 shows of AMIs, and when: a new one is pending for minutes."""

from __future__ import annotations

from dataclasses import dataclass

from bundler.domain.machine_image import FoundImage
from bundler.errors import ConflictError, TargetError
from bundler.retry import Patience
from bundler.stages.bake.ports import Images

_LOOK = "Look at it in EC2, then run this again."


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
            raise TargetError(image.subject, "did not become available", hint=_LOOK)
        return self.seen(image.id)

    def becomes_available(self, image: FoundImage) -> bool:
        """Wait for a pending AMI; whether it is available in the end.

        Raises:
            TargetError: it is pending for too long.
        """
        state, started = image.state, self.patience.clock()
        while state in ("pending", "transient"):
            elapsed = self.patience.clock() - started
            if elapsed > self.patience.deadline_s:
                raise TargetError(image.subject, f"is still {state} after {elapsed:.0f} s", hint=_LOOK)
            self.patience.pause(image.subject, [state], elapsed_s=elapsed)
            found = self.images.image(image.id)
            state = "gone" if found is None else found.state
        return state == "available"
