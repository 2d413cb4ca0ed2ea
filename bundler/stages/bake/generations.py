"""The AMIs that one bake has made: the newest that serves is the current one, and older ones go only after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bundler.atomic import publish
from bundler.domain.bake import BAKE_TAG, ami_description, generation_name, generation_of
from bundler.domain.digest import Digest
from bundler.domain.machine_image import FoundImage
from bundler.domain.node_facts import facts_in_tags
from bundler.errors import ConflictError
from bundler.stages.bake.ports import BakeRequest, Images
from bundler.stages.bake.removal import Removal
from bundler.stages.bake.sight import FAILED, Sight

_SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One AMI of a bake.

    Attributes:
        number: from 1; each bake of the same inputs takes the next.
        facts: where this host keeps what the AMI says of itself.
    """

    number: int
    image: FoundImage
    facts: Path


def superseded(folder: Path) -> frozenset[str] | None:
    """Return the ids of the AMIs whose place a `--rebake` takes, None where none is under way in a bake's folder."""
    try:
        return frozenset((folder / _SUPERSEDED).read_text().split())
    except OSError:
        return None


def forget_superseded(folder: Path) -> None:
    """Note that no `--rebake` is under way."""
    (folder / _SUPERSEDED).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generations:
    """The AMIs of the bake that a request asks for."""

    request: BakeRequest
    images: Images
    sight: Sight
    removal: Removal

    def supersede(self, others: Callable[[], tuple[str, ...]], *, need: Callable[[], None]) -> frozenset[str]:
        """Return the AMIs that no longer count, where all are to be baked again; a run that was cut off goes on.

        Args:
            others: ids of more than the bake's own.
            need: makes sure that another one can be baked, before any stops counting.
        """
        if not self.request.again:
            return frozenset()
        folder = self.request.facts_file.parent
        begun = superseded(folder)
        if begun is not None:
            return begun
        need()
        ids = sorted({*(one.image.id for one in self.found()), *others()})
        folder.mkdir(parents=True, exist_ok=True)
        publish(folder / _SUPERSEDED, "\n".join(ids).encode())
        return frozenset(ids)

    def found(self) -> list[Generation]:
        """Return all of them, the newest first.

        Raises:
            ConflictError: an AMI of that name is somebody else's.
        """
        base, found = self.request.name, list[Generation]()
        for image in self.images.own_like(f"{base}*"):
            number = generation_of(image.name, base=base)
            if number is None:
                continue
            if not is_of(self.request.inputs, image):
                raise taken(image.name, image)
            found.append(Generation(number=number, image=image, facts=self.facts(number)))
        return sorted(found, key=lambda one: -one.number)

    def current(self, without: frozenset[str]) -> Generation | None:
        """Return the newest that serves, but for some; one that has failed is removed."""
        for one in self.found():
            if one.image.id in without:
                continue
            state = self.sight.settled(one.image)
            if state in FAILED:
                self.removal.remove(one.image, "it never became available")
            if state != "available":
                self.removal.say(f"{one.image.subject} is {state}: it does not count")
                continue
            if self._recall(one):
                return Generation(number=one.number, image=self.sight.seen(one.image.id), facts=one.facts)
            self.removal.say(
                f"what {one.image.subject} said of itself is not on this host: another one is baked, and it stays."
                f" When nobody needs it: aws ec2 deregister-image --image-id {one.image.id}"
            )
        return None

    def next(self) -> int:
        """Return the number of the next."""
        return max((one.number for one in self.found()), default=0) + 1

    def retire_superseded(self, current: FoundImage) -> None:
        """Take away those whose place a `--rebake` of this host takes; those that another account may launch stay."""
        replaced = superseded(self.request.facts_file.parent) or frozenset()
        for one in self.found():
            if one.image.id == current.id or one.image.id not in replaced:
                continue
            if self.removal.retire(one.image, f"{current.id} takes its place"):
                one.facts.unlink(missing_ok=True)

    def name(self, number: int) -> str:
        """Return the name of a generation's AMI."""
        return generation_name(self.request.ami, self.request.inputs, number)

    def facts(self, number: int) -> Path:
        """Return where this host keeps what a generation says of itself."""
        path = self.request.facts_file
        return path if number == 1 else path.with_name(f"{path.name}-{number}")

    def _recall(self, one: Generation) -> bool:
        """Bring what the AMI said of itself to this host, where its tags have it; whether it is here."""
        said = facts_in_tags(one.image.tags)
        if said is not None:
            one.facts.parent.mkdir(parents=True, exist_ok=True)
            publish(one.facts, said)
        return one.facts.is_file()


def is_of(inputs: Digest, image: FoundImage) -> bool:
    """Whether an AMI that bears the name of a bake is the bake's.

    Packer gives it description and tags once it is available (ModifyImageAttribute, CreateTags), minutes after
    CreateImage: killed in between, it bears neither, and the name alone, with 64 bits of the inputs, tells.
    """
    if image.description == ami_description(inputs) or image.tags.get(BAKE_TAG) == str(inputs):
        return True
    return not image.description and not any(key.startswith("bundle:") for key in image.tags)


def taken(name: str, by: FoundImage) -> ConflictError:
    """Return the error of a name that somebody else's AMI has."""
    hint = f"Look what it is; to give the name back: aws ec2 deregister-image --image-id {by.id}"
    return ConflictError(f"AMI name {name}", f"is taken by {by.id}, which no bake of this bundle made", hint=hint)
