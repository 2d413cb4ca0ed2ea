"""An AMI of the lock -> an AMI of this account that can be carried: baked, adopted, copied, or ours already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from bundler.domain.ami import AmiAttributes, BakedAmi, NodeFacts
from bundler.domain.bake import BAKE_TAG
from bundler.domain.events import Noted
from bundler.domain.machine_image import FoundImage, attributes_of, require_portable
from bundler.domain.node_facts import facts_tags
from bundler.errors import BundleError, LocalResourceError, LockChangedError, PolicyError
from bundler.stages.bake.builder import Builder
from bundler.stages.bake.carried import Carried
from bundler.stages.bake.generations import Generations, forget_superseded, is_of, superseded
from bundler.stages.bake.ports import TEMPLATE_TAG, Baked, BakeRequest, Bakery, Builders, Images, Packer
from bundler.stages.bake.removal import Removal
from bundler.stages.bake.sight import Sight
from bundler.transfer import to_the_end

__all__ = [
    "TEMPLATE_TAG",
    "BakeRequest",
    "Baked",
    "Bakery",
    "Builders",
    "Images",
    "Packer",
    "bake",
    "forget_superseded",
    "superseded",
]


def bake(request: BakeRequest, *, bakery: Bakery) -> Baked:
    """Return the AMI; the same inputs find the same one, however a run before this one ended.

    Raises:
        PackerError, MissingToolError: as Packer says.
        FindingsError: what was baked is not fit for the bundle; it is removed.
        PolicyError: it may not be carried.
        ConflictError: an AMI of that name is somebody else's, or another host bakes it right now.
        LockChangedError: the AMI that the lock records is gone, or the lock does not say what to bake on.
        TargetError: it does not become available.
    """
    run = _Bake(request, bakery)
    if not request.ami.is_baked:
        image, facts = run.carried(), None
    elif request.recorded is not None:
        image, facts = run.recorded(request.recorded), request.recorded.facts
    else:
        image, facts = run.baked()
    require_portable(image)
    return Baked(image=image, attributes=_attributes(image, bakery.images), facts=facts)


@dataclass(frozen=True, slots=True)
class _Bake:
    request: BakeRequest
    bakery: Bakery

    def baked(self) -> tuple[FoundImage, NodeFacts]:
        images, inputs, generations = self.bakery.images, self.request.inputs, self._generations()
        with self.bakery.packer.alone(inputs):
            builder = Builder(request=self.request, bakery=self.bakery, generations=generations, say=self._say)
            builder.require_left_behind()
            builder.clean("a build that was cut off left it")
            replaced = generations.supersede(self._of_the_team, need=self.bakery.packer.need)
            current = generations.current(replaced)
            if current is not None:
                self._say(f"{current.image.subject} is baked already")
                image, said = current.image, current.facts
            else:
                number = generations.next()
                image, said = builder.build(number, without=replaced), generations.facts(number)
            images.tag([image.id, *_snapshot_ids(image)], {BAKE_TAG: str(inputs)})
            facts, raw = self._facts(image, said, is_new=current is None)
            images.tag([image.id], facts_tags(raw))
            generations.retire_superseded(image)
            self._tell_of_teams(replaced)
            self._removal.sweep(image)
            return image, facts

    def recorded(self, record: BakedAmi) -> FoundImage:
        """The AMI that the lock records. Another bake would be another AMI, so none is made."""
        images = self.bakery.images
        found = images.image(record.ami)
        if found is None:
            named = [one for one in images.own_like(f"{self.request.name}*") if is_of(record.inputs, one)]
            found = named[-1] if named else None
        if found is None or found.owner != self.request.account:
            cause = f"is recorded by the lock for account {record.account}, and is not in {self.request.account}"
            hint = "Build with that account's credentials, or bake it anew: bundle build --rebake"
            raise LockChangedError(f"AMI {record.ami}", cause, hint=hint)
        return self._sight.available(found)

    def carried(self) -> FoundImage:
        return Carried(
            request=self.request,
            images=self.bakery.images,
            sight=self._sight,
            removal=self._removal,
            emit=self.bakery.emit,
        ).image()

    @property
    def _sight(self) -> Sight:
        return Sight(self.bakery.images, self.bakery.patience)

    @property
    def _removal(self) -> Removal:
        request = self.request
        return Removal(images=self.bakery.images, run=request.inputs, account=request.account, say=self._say)

    def _generations(self) -> Generations:
        images = self.bakery.images
        return Generations(request=self.request, images=images, sight=self._sight, removal=self._removal)

    def _of_the_team(self) -> tuple[str, ...]:
        template = self.request.ami.template
        if template is None:
            return ()
        return tuple(one.id for one in self.bakery.images.own_tagged(TEMPLATE_TAG, str(template)))

    def _tell_of_teams(self, replaced: frozenset[str]) -> None:
        """What a team's template made before is the team's: it stays, and how to remove it is told."""
        for ami in self._of_the_team():
            if ami in replaced:
                command = f"aws ec2 deregister-image --image-id {ami}"
                self._say(f"AMI {ami}, which your template made before, stays. When nobody needs it: {command}")

    def _facts(self, image: FoundImage, path: Path, *, is_new: bool) -> tuple[NodeFacts, bytes]:
        """What the AMI says of itself. A new one that is not fit goes; an earlier one may be fit for another bundle."""
        try:
            raw = _read(path)
            return self.request.check(raw), raw
        except BundleError as error:
            if is_new:
                with to_the_end():
                    self._removal.retire(image, "it is not fit for the bundle")
            else:
                error.safe = f"{image.subject} stays: an earlier build made it. bundle build --rebake makes another."
            raise

    def _say(self, text: str) -> None:
        self.bakery.emit(Noted(text=f"{self.request.subject}: {text}"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LocalResourceError(str(path), f"cannot be read: {error.strerror}") from error


def _attributes(image: FoundImage, images: Images) -> AmiAttributes:
    try:
        return attributes_of(image, uefi_data=images.uefi_data(image.id))
    except ValidationError as error:
        first = error.errors()[0]
        cause = f"has attributes that this version does not know: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        hint = "Take another AMI, or a newer version of this tool."
        raise PolicyError(image.subject, cause, hint=hint) from error


def _snapshot_ids(image: FoundImage) -> list[str]:
    return [one.snapshot for one in image.snapshots]
