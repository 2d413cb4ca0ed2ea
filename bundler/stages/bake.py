"""An AMI of the lock -> an AMI of this account that can be carried: baked, adopted, copied, or ours already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bundler.domain.ami import AmiAttributes, LockedAmi, NodeFacts
from bundler.domain.bake import BAKE_TAG, ami_description, ami_name, client_token
from bundler.domain.digest import Digest
from bundler.domain.events import Emit, Noted, silent
from bundler.domain.leftover import Leftover
from bundler.domain.machine_image import FoundImage, ImageCopy, attributes_of, require_portable
from bundler.domain.packer_job import PackerJob
from bundler.domain.snapshot import FoundSnapshot
from bundler.errors import ConflictError, NetworkError, PolicyError, TargetError
from bundler.retry import Patience

PHASE = "bake"
TEMPLATE_TAG = "bundle:template"
"""On what a team's own template made; its value is the digest of template and variables."""


class Images(Protocol):
    """AMIs and snapshots of the builder's account and Region."""

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

    def uefi_data(self, ami: str) -> str | None:
        """Return the AMI's UEFI variables, None where it has none."""
        ...

    def copy(self, wanted: ImageCopy) -> str:
        """Copy an AMI into this account and Region; return the new id."""
        ...

    def tag(self, ids: Sequence[str], tags: Mapping[str, str]) -> None:
        """Give tags to AMIs and snapshots."""
        ...

    def remove(self, image: FoundImage) -> None:
        """Deregister an AMI and delete its snapshots."""
        ...


class Builders(Protocol):
    """What a bake is made on, and what a killed one leaves in AWS: instances, key pairs, security groups."""

    def group(self, run: Digest, subnet: str | None) -> str:
        """Return the security group of a run, made unless it is there."""
        ...

    def leftovers(self, run: Digest) -> tuple[Leftover, ...]:
        """Return what bears the run's tag or name, instances first."""
        ...

    def remove(self, leftover: Leftover) -> None:
        """Take one away, and wait until it is gone."""
        ...


class Packer(Protocol):
    """Packer."""

    def build(self, job: PackerJob) -> str:
        """Run a template; return the id of the AMI.

        Raises:
            PackerError: with the step that failed; nothing of the build is left.
            MissingToolError: Packer, or its plugin, is not installed.
        """
        ...

    def alone(self, run: Digest) -> AbstractContextManager[None]:
        """Hold the run for ourselves on this host; waits for a Packer that a killed build left at work."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BakeRequest:
    """What to make.

    Attributes:
        inputs: digest of all that it depends on.
        account: 12 digits, ours.
        template: folder of our own template.
        variables: of our template, but for those that follow from the rest of the request.
        team: folder of the team's own template, its file and variables; None where it has none.
        payload: fills a folder with what the builder is sent.
        facts_file: where Packer puts what the AMI says of itself.
        check: parses and checks that; raises PolicyError.
        again: bake although there is an AMI of these inputs.
    """

    ami: LockedAmi
    inputs: Digest
    account: str
    region: str
    template: Path
    variables: Mapping[str, str]
    team: PackerJob | None
    payload: Callable[[], Path]
    facts_file: Path
    check: Callable[[bytes], NodeFacts]
    again: bool = False

    @property
    def subject(self) -> str:
        """Its name for people."""
        return f"{self.ami.name} {self.ami.architecture}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Baked:
    """An AMI of this account.

    Attributes:
        facts: None where nothing of ours ran on it.
    """

    image: FoundImage
    attributes: AmiAttributes
    facts: NodeFacts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bakery:
    """The outside of a bake."""

    images: Images
    builders: Builders
    packer: Packer
    patience: Patience = field(default_factory=Patience)
    emit: Emit = silent


def bake(request: BakeRequest, *, bakery: Bakery) -> Baked:
    """Return the AMI; the same inputs find the same one, however a run before this one ended.

    Raises:
        PackerError, MissingToolError: as Packer says.
        PolicyError: what was baked is not fit for the bundle, or may not be carried.
        ConflictError: an AMI of that name is somebody else's.
        TargetError: it does not become available.
    """
    run = _Bake(request, bakery)
    if request.ami.is_baked:
        image, facts = run.baked()
    else:
        image, facts = run.own_copy(), None
    require_portable(image)
    try:
        attributes = attributes_of(image, uefi_data=bakery.images.uefi_data(image.id))
    except ValueError as error:
        raise PolicyError(image.subject, f"has attributes that this version does not know: {error}") from error
    return Baked(image=image, attributes=attributes, facts=facts)


@dataclass(frozen=True, slots=True)
class _Bake:
    request: BakeRequest
    bakery: Bakery

    def baked(self) -> tuple[FoundImage, NodeFacts]:
        request, images = self.request, self.bakery.images
        with self.bakery.packer.alone(request.inputs):
            self._clean("a build that was cut off left it")
            image = self._adopted() or self._built()
        images.tag([image.id, *_snapshot_ids(image)], {BAKE_TAG: str(request.inputs)})
        return image, request.check(request.facts_file.read_bytes())

    def own_copy(self) -> FoundImage:
        """The AMI itself where its snapshots are ours and not public; else the copy that we make of it, once."""
        source = self.request.ami.source
        if source is None:
            raise NetworkError(self.request.subject, "has no source in the lock")
        found = self._seen(source.id)
        require_portable(found)
        if self._is_readable(found):
            return found
        images, inputs = self.bakery.images, self.request.inputs
        name = ami_name(self.request.ami, inputs)
        there = images.own_named(name)
        if there is None or there.state in ("failed", "error"):
            if there is not None:
                images.remove(there)
            self._say(f"copying {found.subject} into account {self.request.account}: its snapshots are not ours")
            wanted = ImageCopy(
                source=found.id,
                region=source.region,
                name=name,
                token=client_token(str(inputs), self.request.account, self.request.region),
                tags={BAKE_TAG: str(inputs)},
            )
            there = self._seen(images.copy(wanted))
        return self._available(there)

    def _clean(self, why: str = "") -> None:
        """Take away what a run has left; whoever holds the run alone knows that nobody works with it."""
        for leftover in self.bakery.builders.leftovers(self.request.inputs):
            if why:
                self._say(f"removing {leftover}: {why}")
            self.bakery.builders.remove(leftover)

    def _adopted(self) -> FoundImage | None:
        """The AMI that an earlier run finished, None where it has to be baked (again)."""
        request, images = self.request, self.bakery.images
        name, known = ami_name(request.ami, request.inputs), ami_description(request.inputs)
        found = images.own_named(name)
        if found is None:
            return None
        if found.description != known:
            raise ConflictError(
                f"AMI name {name}",
                f"is taken by {found.id}, which no bake of this bundle made",
                hint=f"Look what it is; to give the name back: aws ec2 deregister-image --image-id {found.id}",
            )
        if request.again or not request.facts_file.is_file() or not self._becomes_available(found):
            self._say(f"removing {found.subject}: it is baked again")
            images.remove(found)
            return None
        self._say(f"{found.subject} is baked already")
        return self._seen(found.id)

    def _built(self) -> FoundImage:
        request = self.request
        source = request.ami.source.id if request.ami.source is not None else self._team_source()
        name = ami_name(request.ami, request.inputs)
        request.facts_file.parent.mkdir(parents=True, exist_ok=True)
        request.facts_file.unlink(missing_ok=True)
        group = request.variables.get("security_group_id") or self._group()
        job = PackerJob(
            name=request.subject,
            folder=request.template,
            file="template.json",
            variables={
                **request.variables,
                "security_group_id": group,
                "source_ami": source,
                "root_device": self._seen(source).root_device,
                "ami_name": name,
                "ami_description": ami_description(request.inputs),
                "run_tag": str(request.inputs),
                "payload_dir": str(request.payload()),
                "facts_file": str(request.facts_file),
            },
        )
        try:
            made = self._seen(self.bakery.packer.build(job))
        finally:
            self._clean()
        return self._available(made)

    def _group(self) -> str:
        return self.bakery.builders.group(self.request.inputs, self.request.variables.get("subnet_id") or None)

    def _team_source(self) -> str:
        """What the team's own template makes: found by its tag, or built now."""
        job, template = self.request.team, self.request.ami.template
        if job is None or template is None:
            raise NetworkError(self.request.subject, "has neither a source nor a template in the lock")
        images = self.bakery.images
        found = [image for image in images.own_tagged(TEMPLATE_TAG, str(template)) if image.state == "available"]
        if found and not self.request.again:
            return found[-1].id
        made = self._available(self._seen(self.bakery.packer.build(job)))
        images.tag([made.id, *_snapshot_ids(made)], {TEMPLATE_TAG: str(template)})
        return made.id

    def _is_readable(self, image: FoundImage) -> bool:
        """Whether EBS direct gives its blocks: it reads no public snapshots, and none of other accounts."""
        ids = _snapshot_ids(image)
        found = self.bakery.images.snapshots(ids)
        ours = all(name in found and found[name].owner == self.request.account for name in ids)
        return ours and not image.is_public

    def _seen(self, ami: str) -> FoundImage:
        found = self.bakery.images.image(ami)
        if found is None:
            raise ConflictError(f"AMI {ami}", "does not exist (any more), or this account may not see it")
        return found

    def _available(self, image: FoundImage) -> FoundImage:
        if not self._becomes_available(image):
            raise TargetError(image.subject, "did not become available", hint="Look at it in EC2, then run this again.")
        return self._seen(image.id)

    def _becomes_available(self, image: FoundImage) -> bool:
        """Wait for a pending AMI; whether it is available in the end."""
        patience, state = self.bakery.patience, image.state
        started = patience.clock()
        while state in ("pending", "transient"):
            elapsed = patience.clock() - started
            if elapsed > patience.deadline_s:
                raise TargetError(image.subject, f"is still {state} after {elapsed:.0f} s")
            patience.pause(image.subject, [state], elapsed_s=elapsed)
            found = self.bakery.images.image(image.id)
            state = "gone" if found is None else found.state
        return state == "available"

    def _say(self, text: str) -> None:
        self.bakery.emit(Noted(text=f"{self.request.subject}: {text}"))


def _snapshot_ids(image: FoundImage) -> list[str]:
    return [one.snapshot for one in image.snapshots]
