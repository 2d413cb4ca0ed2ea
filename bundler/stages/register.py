"""Snapshots, or an AMI that can be reached -> an AMI of the site: found again by tag, never registered twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from bundler.ami_copy import copied
from bundler.domain.bake import client_token
from bundler.domain.events import Emit, Noted, silent
from bundler.domain.machine_image import FoundImage, ImageCopy, NewImage
from bundler.domain.plan import Action, Plan
from bundler.domain.restored import AMI_TAG, WantedAmi
from bundler.domain.site import Site
from bundler.domain.snapshot import FoundSnapshot
from bundler.errors import ConflictError, RejectedError, TargetError
from bundler.retry import Patience

PHASE = "restore"
_NAME_TAKEN = "InvalidAMIName.Duplicate"
_AVAILABLE = "available"
_WORKING = ("pending", "transient")
_ANEW = "Look at it in EC2 for more (StateMessage); run the same command again: it begins a new one."
_SLOW = "EC2 is still at work, or has given up. Run the same command again: it goes on waiting for the same one."


class Images(Protocol):
    """AMIs and snapshots of the site's account and Region."""

    def image(self, ami: str) -> FoundImage | None:
        """Return an AMI, None where this account does not see it."""
        ...

    def own_named(self, name: str) -> FoundImage | None:
        """Return the account's own AMI of that name, None where there is none."""
        ...

    def own_tagged(self, key: str, value: str) -> tuple[FoundImage, ...]:
        """Return the account's own AMIs with that tag."""
        ...

    def snapshots(self, ids: Sequence[str]) -> Mapping[str, FoundSnapshot]:
        """Return snapshots by id; those that this account does not see are absent."""
        ...

    def register(self, image: NewImage) -> str:
        """Register an AMI; return its id."""
        ...

    def copy(self, wanted: ImageCopy) -> str:
        """Copy an AMI into this account and Region; return the new id."""
        ...

    def tag(self, ids: Sequence[str], tags: Mapping[str, str]) -> None:
        """Give tags to AMIs and snapshots."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterPlan:
    """What becomes of one AMI of the bundle.

    Attributes:
        there: the AMI that is it already; None where it is to be made.
        route: how it is made.
    """

    wanted: WantedAmi
    there: FoundImage | None
    route: Literal["ebs-direct", "copy", "share"]

    @property
    def plan(self) -> Plan:
        """The same for people and for `--plan`."""
        target = f"AMI {self.wanted.name}"
        if self.there is not None:
            return Plan(unchanged=(f"AMI {self.there.id} ({self.there.name})",))
        if self.route == "copy":
            baked = self.wanted.baked
            detail = f"of {baked.ami} in {baked.account}, {baked.region}"
            return Plan(actions=(Action(phase=PHASE, verb="copy", target=target, detail=detail),))
        return Plan(actions=(Action(phase=PHASE, verb="register", target=target),))


def observe_ami(wanted: WantedAmi, site: Site, *, images: Images) -> RegisterPlan:
    """Return what to do for an AMI of the bundle, writing nothing.

    Raises:
        ConflictError: its name is taken by another AMI; or, on the route `share`, it is not visible here.
    """
    route = site.restore.route
    if route == "share":
        return RegisterPlan(wanted=wanted, there=_shared(wanted, images), route=route)
    tagged = images.own_tagged(AMI_TAG, str(wanted.digest))
    usable = sorted((one for one in tagged if one.state in (_AVAILABLE, *_WORKING)), key=_readiest_first)
    there = usable[0] if usable else _ours_by_name(wanted, images)
    return RegisterPlan(wanted=wanted, there=there, route=route)


def _readiest_first(image: FoundImage) -> tuple[bool, str]:
    return image.state != _AVAILABLE, image.id


def _shared(wanted: WantedAmi, images: Images) -> FoundImage:
    baked = wanted.baked
    found = images.image(baked.ami)
    if found is None or found.state != "available":
        raise ConflictError(
            f"AMI {baked.ami}",
            f"of account {baked.account} is not shared with this one, or not available",
            hint="Share it (aws ec2 modify-image-attribute --launch-permission), or take restore.route: ebs-direct.",
        )
    return found


def _ours_by_name(wanted: WantedAmi, images: Images) -> FoundImage | None:
    """An AMI of that name: ours where it says so; registered, and not tagged before the end came."""
    found = images.own_named(wanted.name)
    if found is None:
        return None
    if found.description != wanted.description:
        raise _name_taken(wanted, f"is taken by {found.id}, which this tool did not register", found.id)
    if found.state not in (_AVAILABLE, *_WORKING):
        raise _name_taken(wanted, f"is taken by {found.id}, which is {found.state}", found.id)
    return found


def _name_taken(wanted: WantedAmi, cause: str, ami: str | None) -> ConflictError:
    which = f"--image-ids {ami}"
    if ami is None:
        which = f"--owners self --include-disabled --filters Name=name,Values={wanted.name}"
    hint = (
        f"See what it is: aws ec2 describe-images {which}. Where nobody needs it, free the name: aws ec2"
        f" deregister-image --image-id {ami or 'ID'}; then run the same command again."
    )
    return ConflictError(f"AMI name {wanted.name}", cause, hint=hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """Where AMIs are registered.

    Attributes:
        tags: of what all clusters of the account share.
    """

    images: Images
    tags: Mapping[str, str]
    patience: Patience = field(default_factory=Patience)
    emit: Emit = silent


def register(plan: RegisterPlan, site: Site, *, snapshots: Mapping[str, str], registry: Registry) -> FoundImage:
    """Return the available AMI of a plan; killed anywhere, the next run finds what was made by tag, name or token.

    Args:
        plan: as observed.
        site: where it goes.
        snapshots: device -> id, restored before; empty for what is not made of snapshots of ours.
        registry: EC2.

    Raises:
        TargetError: a snapshot or the AMI went to `error`, or is not complete in time.
        ConflictError: its name is taken.
    """
    run = _Register(plan.wanted, registry)
    if plan.there is not None:
        return run.available(plan.there)
    if plan.route == "copy":
        return run.available(run.copied(site))
    run.await_snapshots(sorted(snapshots.values()))
    return run.available(run.registered(snapshots))


@dataclass(frozen=True, slots=True)
class _Register:
    wanted: WantedAmi
    registry: Registry

    @property
    def tags(self) -> dict[str, str]:
        return {**self.registry.tags, AMI_TAG: str(self.wanted.digest), "Name": self.wanted.name}

    def registered(self, snapshots: Mapping[str, str]) -> FoundImage:
        wanted, images = self.wanted, self.registry.images
        new = NewImage(
            name=wanted.name,
            description=wanted.description,
            architecture=wanted.baked.architecture,
            attributes=wanted.baked.attributes,
            snapshots=snapshots,
            tags=self.tags,
        )
        return self._made(lambda: self._seen(images.register(new)))

    def copied(self, site: Site) -> FoundImage:
        def make() -> FoundImage:
            to = self.registry
            return copied(
                lambda attempt: self._copy(site, attempt), images=to.images, patience=to.patience, emit=to.emit
            )

        return self._made(make)

    def _copy(self, site: Site, attempt: int) -> ImageCopy:
        wanted, baked, key = self.wanted, self.wanted.baked, site.restore.kms_key
        parts = [str(wanted.digest), site.account, site.region, key or "", *([str(attempt)] if attempt else [])]
        return ImageCopy(
            source=baked.ami,
            region=baked.region,
            name=wanted.name,
            description=wanted.description,
            token=client_token(*parts),
            tags=self.tags,
            kms_key=key,
        )

    def _made(self, make: Callable[[], FoundImage]) -> FoundImage:
        try:
            return make()
        except RejectedError as error:
            if error.code != _NAME_TAKEN:
                raise
            ours = _ours_by_name(self.wanted, self.registry.images)  # the answer to a first try may have been lost
            if ours is None:
                cause = f"is taken by an AMI that EC2 does not show: {error.cause}"
                raise _name_taken(self.wanted, cause, None) from error
            return ours

    def await_snapshots(self, ids: Sequence[str]) -> None:
        patience = self.registry.patience
        waiting = patience.until(lambda: self._incomplete(ids), lambda names: names, subject="snapshots")
        if waiting:
            raise TargetError(waiting[0], f"is not complete after {patience.deadline_s:.0f} s", hint=_SLOW)

    def _incomplete(self, ids: Sequence[str]) -> list[str]:
        found = self.registry.images.snapshots(ids)
        for snapshot in found.values():
            if snapshot.state == "error":
                why = snapshot.why or "EC2 does not say why"
                raise TargetError(f"snapshot {snapshot.id}", f"went to error: {why}", hint=_ANEW)
        return [f"snapshot {name}" for name in ids if name not in found or found[name].state != "completed"]

    def available(self, image: FoundImage) -> FoundImage:
        """Wait until the AMI can be used, and let it bear its tags however it was found."""
        if image.state in _WORKING:
            ami, patience = image.id, self.registry.patience
            image = patience.until(lambda: self._seen(ami), _at_work, subject=image.subject)
            if image.state in _WORKING:
                cause = f"is still {image.state} after {patience.deadline_s:.0f} s"
                raise TargetError(image.subject, cause, hint=_SLOW)
        if image.state != _AVAILABLE:
            why = image.why or "EC2 does not say why"
            hint = f"To make it anew: aws ec2 deregister-image --image-id {image.id}; then run the same command again."
            raise TargetError(image.subject, f"is {image.state}: {why}", hint=hint)
        if image.name == self.wanted.name and image.tags.get(AMI_TAG) != str(self.wanted.digest):
            self.registry.images.tag([image.id], self.tags)
        self.registry.emit(Noted(text=f"{self.wanted.baked.name} {self.wanted.baked.architecture} is {image.id}"))
        return image

    def _seen(self, ami: str) -> FoundImage:
        images, patience = self.registry.images, self.registry.patience
        found = patience.appears(lambda: images.image(ami), subject=f"AMI {ami}", limit_s=patience.deadline_s)
        if found is None:
            raise TargetError(f"AMI {ami}", "was made, and EC2 does not show it", hint=_SLOW)
        return found


def _at_work(image: FoundImage) -> Sequence[str]:
    return [image.state] if image.state in _WORKING else []
