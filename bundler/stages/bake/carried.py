"""An AMI that is carried as it is: the account's own, or the copy of somebody else's that we make, once."""

from __future__ import annotations

from dataclasses import dataclass

from bundler.domain.bake import BAKE_TAG, client_token
from bundler.domain.machine_image import FoundImage, ImageCopy, require_portable
from bundler.errors import TargetError
from bundler.stages.bake.generations import taken
from bundler.stages.bake.ports import BakeRequest, Images
from bundler.stages.bake.removal import Removal
from bundler.stages.bake.sight import LOOK, Sight

_COPIES = 5
_FAILED = ("failed", "error", "invalid", "deregistered")


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """The AMI that a request names."""

    request: BakeRequest
    images: Images
    sight: Sight
    removal: Removal

    def image(self) -> FoundImage:
        """Return the AMI itself where its snapshots are ours and not public; else our copy of it."""
        found = self.sight.seen(self.request.source)
        require_portable(found)
        if self._is_readable(found):
            return self.sight.available(found)
        name = self.request.name
        there = self.images.own_named(name)
        if there is not None and there.tags.get(BAKE_TAG) != str(self.request.inputs):
            raise taken(name, there)
        if there is not None and there.state in _FAILED:
            self.removal.remove(there, "the copy failed")
            there = None
        copy = self.sight.available(there or self._copied(found, name))
        self.removal.sweep(copy)
        return copy

    def _copied(self, source: FoundImage, name: str) -> FoundImage:
        """A new copy. For a day EC2 answers a token with what it gave before, though that is gone: then another one."""
        request = self.request
        self.removal.say(f"copying {source.subject} into account {request.account}: its snapshots are not ours")
        for attempt in range(_COPIES):
            wanted = ImageCopy(
                source=source.id,
                region=request.region,
                name=name,
                token=client_token(str(request.inputs), request.account, request.region, str(attempt)),
                tags={BAKE_TAG: str(request.inputs)},
            )
            there = self.sight.appears(self.images.copy(wanted))
            if there is not None:
                return there
        raise TargetError(source.subject, f"gave no copy in {_COPIES} tries", hint=LOOK)

    def _is_readable(self, image: FoundImage) -> bool:
        """Whether EBS direct gives its blocks: it reads no public snapshots, and none of other accounts."""
        ids = [one.snapshot for one in image.snapshots]
        found = self.images.snapshots(ids)
        ours = all(name in found and found[name].owner == self.request.account for name in ids)
        return ours and not image.is_public
