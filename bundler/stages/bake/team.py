"""What a team's own template makes, and our bake begins with: found by its tag, noted when it was cut off, or built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from bundler.domain.digest import Digest
from bundler.domain.machine_image import FoundImage
from bundler.domain.packer_job import PackerJob
from bundler.stages.bake.ports import TEMPLATE_TAG, BakeRequest, Bakery
from bundler.stages.bake.removal import Removal
from bundler.stages.bake.sight import Sight


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamSource:
    """The AMI of a team's template.

    Attributes:
        say: hears what people are told.
    """

    request: BakeRequest
    bakery: Bakery
    sight: Sight
    removal: Removal
    say: Callable[[str], None]

    def image(self, without: frozenset[str]) -> str:
        """Return its id; some AMIs do not count: they are to be made again."""
        job, template = self.request.team, self.request.ami.template
        if job is None or template is None:
            raise self.request.unsaid("template")
        noted = self._noted(template)
        tagged = self.bakery.images.own_tagged(TEMPLATE_TAG, str(template))
        found = [one.id for one in (*tagged, *noted) if one.state == "available" and one.id not in without]
        if found:
            self.say(f"your template made AMI {found[-1]} before")
            return found[-1]
        made = self.sight.available(self.sight.seen(self.bakery.packer.build(self._in_our_group(job))))
        self._tag(made, template)
        return made.id

    def _in_our_group(self, job: PackerJob) -> PackerJob:
        """A template without a security group gets ours: the name of Packer's own nobody knows once it is killed."""
        network = self.bakery.packer.network(job)
        if network is None:
            return job
        return replace(job, security_group=self.bakery.builders.group(self.request.inputs, network.subnet))

    def _noted(self, template: Digest) -> tuple[FoundImage, ...]:
        """The AMI that Packer had begun when a build was cut off, tagged now; what will be none is removed."""
        noted = self.bakery.packer.noted(self.request.inputs)
        if noted is None:
            return ()
        found = self.bakery.patience.appears(partial(self.bakery.images.image, noted.id), subject=f"AMI {noted.id}")
        is_kept = False
        if found is not None and found.owner == self.request.account:
            is_kept = not noted.is_interim and self.sight.becomes_available(found)
            if is_kept:
                found = self.sight.seen(found.id)
                self._tag(found, template)
            else:
                self.removal.remove(found, "your template was cut off before it was done with it")
        self.bakery.packer.forget(self.request.inputs)
        return (found,) if found is not None and is_kept else ()

    def _tag(self, image: FoundImage, template: Digest) -> None:
        ids = [image.id, *(one.snapshot for one in image.snapshots)]
        self.bakery.images.tag(ids, {TEMPLATE_TAG: str(template)})
        self.bakery.packer.forget(self.request.inputs)
