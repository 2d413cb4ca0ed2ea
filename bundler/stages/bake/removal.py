"""AMIs of a bake, taken away with their snapshots so that a kill in between leaves nothing that nobody finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bundler.domain.bake import BAKE_TAG
from bundler.domain.digest import Digest
from bundler.domain.machine_image import FoundImage
from bundler.errors import BundleError, StoppedError
from bundler.stages.bake.ports import Images
from bundler.stages.bake.sight import PENDING


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """Takes AMIs of one bake away.

    Attributes:
        run: the digest that its snapshots bear.
        account: ours.
        say: hears what people are told.
    """

    images: Images
    run: Digest
    account: str
    say: Callable[[str], None]

    def remove(self, image: FoundImage, why: str) -> None:
        """Take an AMI away, and the snapshots that EC2 made for it.

        These are tagged before: a kill after DeregisterImage would leave them nameless.
        """
        self.say(f"removing {image.subject}: {why}")
        found = self.images.snapshots([one.snapshot for one in image.snapshots]).values()
        made = [one for one in found if one.owner == self.account and one.is_made_for_an_ami]
        nameless = [one.id for one in made if one.tags.get(BAKE_TAG) != str(self.run)]
        if nameless:
            self.images.tag(nameless, {BAKE_TAG: str(self.run)})
        for snapshot in self.images.remove(image, [one.id for one in made]):
            self.say(f"snapshot {snapshot} is still in use: the next bake removes it")

    def retire(self, image: FoundImage, why: str) -> bool:
        """Take away an AMI that somebody may use; False where it stays: another account may launch it, or AWS says no.

        What was baked is good all the same, so that a refusal is told, and ends nothing.
        """
        try:
            return self._retire(image, why)
        except StoppedError:
            raise
        except BundleError as error:
            self.say(f"{image.subject} stays ({error})")
            return False

    def _retire(self, image: FoundImage, why: str) -> bool:
        others = [who for who in self.images.launch_permissions(image.id) if who != self.account]
        if not others:
            self.remove(image, why)
            return True
        command = f"aws ec2 deregister-image --image-id {image.id}"
        self.say(
            f"{image.subject} stays: {', '.join(others)} may launch it. When no node runs on it any more: {command}"
        )
        return False

    def sweep(self, current: FoundImage) -> None:
        """Delete the snapshots of this bake that no AMI has any more; not while one is pending, which may show none."""
        if any(one.state in PENDING for one in self.images.own_tagged(BAKE_TAG, str(self.run))):
            return
        spare = {one.snapshot for one in current.snapshots}
        try:
            for snapshot in self.images.orphans(BAKE_TAG, str(self.run)):
                if snapshot not in spare:
                    self.say(f"removing snapshot {snapshot}: the AMI that it was made for is gone")
                    self.images.delete_snapshot(snapshot)
        except StoppedError:
            raise
        except BundleError as error:
            self.say(f"snapshots of AMIs that are gone stay ({error})")
