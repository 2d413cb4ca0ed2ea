"""An AMI that is carried as it is: the account's own, or the copy of somebody else's that we make, once."""

from __future__ import annotations

from dataclasses import dataclass

from bundler.ami_copy import copied
from bundler.domain.bake import BAKE_TAG, client_token
from bundler.domain.events import Emit
from bundler.domain.machine_image import FoundImage, ImageCopy, require_portable
from bundler.stages.bake.generations import taken
from bundler.stages.bake.ports import BakeRequest, Images
from bundler.stages.bake.removal import Removal
from bundler.stages.bake.sight import FAILED, Sight


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """The AMI that a request names."""

    request: BakeRequest
    images: Images
    sight: Sight
    removal: Removal
    emit: Emit

    def image(self) -> FoundImage:
        """Return the AMI itself where its snapshots are ours and not public; else our copy of it.

        The copy is looked for first: it is enough where the AMI that it was made of is deregistered since.
        """
        source, name, inputs = self.request.source, self.request.name, str(self.request.inputs)
        there = self.images.own_named(name)
        is_ours = there is not None and there.tags.get(BAKE_TAG) == inputs
        if there is not None and is_ours and there.state not in FAILED:
            return self._swept(there)
        found = self.sight.seen(source)
        require_portable(found)
        if self._is_readable(found):
            return self.sight.available(found)
        if there is not None and not is_ours:
            raise taken(name, there)
        if there is not None:
            self.removal.remove(there, "the copy failed")
        return self._swept(self._copied(found, name))

    def _swept(self, copy: FoundImage) -> FoundImage:
        """The copy once it is available, and without what a failed one before it left."""
        available = self.sight.available(copy)
        self.removal.sweep(available)
        return available

    def _copied(self, source: FoundImage, name: str) -> FoundImage:
        request = self.request
        self.removal.say(f"copying {source.subject} into account {request.account}: its snapshots are not ours")

        def wanted(attempt: int) -> ImageCopy:
            return ImageCopy(
                source=source.id,
                region=request.region,
                name=name,
                token=client_token(str(request.inputs), request.account, request.region, str(attempt)),
                tags={BAKE_TAG: str(request.inputs)},
            )

        return copied(wanted, images=self.images, patience=self.sight.patience, emit=self.emit)

    def _is_readable(self, image: FoundImage) -> bool:
        """Whether EBS direct gives its blocks: it reads no public snapshots, and none of other accounts."""
        ids = [one.snapshot for one in image.snapshots]
        found = self.images.snapshots(ids)
        ours = all(name in found and found[name].owner == self.request.account for name in ids)
        return ours and not image.is_public
