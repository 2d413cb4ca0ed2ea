"""An AMI of the lock -> an AMI of this account that can be carried: baked, adopted, copied, or ours already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from bundler.atomic import publish
from bundler.copying import copied
from bundler.domain.ami import AmiAttributes, BakedAmi, LockedAmi, NodeFacts
from bundler.domain.bake import BAKE_TAG, ami_description, ami_name, client_token
from bundler.domain.digest import Digest
from bundler.domain.events import Emit, Noted, silent
from bundler.domain.leftover import Leftover
from bundler.domain.machine_image import FoundImage, ImageCopy, attributes_of, require_portable
from bundler.domain.node_facts import facts_in_tags, facts_tags
from bundler.domain.packer_job import PackerJob
from bundler.domain.snapshot import FoundSnapshot
from bundler.errors import BundleError, ConflictError, LocalResourceError, LockChangedError, PolicyError, TargetError
from bundler.retry import Patience
from bundler.transfer import to_the_end

PHASE = "bake"
TEMPLATE_TAG = "bundle:template"
"""On what a team's own template made; its value is the digest of template and variables."""
_FAILED = ("failed", "error", "invalid", "deregistered")
_LOOK = "Look at it in EC2, then run this again."


class Images(Protocol):
    """AMIs and snapshots of the builder's account and Region."""

    def image(self, ami: str) -> FoundImage | None:
        """Return an AMI, None where this account does not see it."""
        ...

    def own_named(self, name: str) -> FoundImage | None:
        """Return the account's own AMI of that name, None where there is none."""
        ...

    def own_tagged(self, key: str, value: str) -> tuple[FoundImage, ...]:
        """Return the account's own AMIs with that tag, the oldest first."""
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

    def need(self) -> None:
        """Make sure that it can build AMIs.

        Raises:
            MissingToolError: Packer, or its plugin, is not installed.
        """
        ...

    def build(self, job: PackerJob) -> str:
        """Run a template; return the id of the AMI.

        Raises:
            PackerError: with the step that failed; nothing of the build is left.
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
        recorded: what the lock says that it became: that very AMI is wanted.
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
    recorded: BakedAmi | None = None

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
        FindingsError: what was baked is not fit for the bundle; it is removed.
        PolicyError: it may not be carried.
        ConflictError: an AMI of that name is somebody else's.
        LockChangedError: the AMI that the lock records is gone, or the lock does not say what to bake on.
        TargetError: it does not become available.
    """
    run = _Bake(request, bakery)
    if not request.ami.is_baked:
        image, facts = run.own_copy(), None
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
        with self.bakery.packer.alone(self.request.inputs):
            self._clean("a build that was cut off left it")
            image = self._adopted() or self._built()
            self.bakery.images.tag([image.id, *_snapshot_ids(image)], {BAKE_TAG: str(self.request.inputs)})
            facts = self._facts(image)
            self.bakery.images.tag([image.id], facts_tags(self.request.facts_file.read_bytes()))
            return image, facts

    def recorded(self, record: BakedAmi) -> FoundImage:
        """The AMI that the lock records. Another bake would be another AMI, so none is made."""
        images = self.bakery.images
        found = images.image(record.ami)
        if found is None:
            named = images.own_named(ami_name(self.request.ami, record.inputs))
            found = named if named is not None and _is_of(record.inputs, named) else None
        if found is None or found.owner != self.request.account:
            cause = f"is recorded by the lock for account {record.account}, and is not in {self.request.account}"
            hint = "Build with that account's credentials, or bake it anew: bundle build --rebake"
            raise LockChangedError(f"AMI {record.ami}", cause, hint=hint)
        return self._available(found)

    def own_copy(self) -> FoundImage:
        """The AMI itself where its snapshots are ours and not public; else the copy that we make of it, once.

        The copy is looked for first: it is enough where the AMI that it was made of is deregistered since.
        """
        source, inputs = self.request.ami.source, str(self.request.inputs)
        if source is None:
            raise self._unsaid("source")
        images, name = self.bakery.images, ami_name(self.request.ami, self.request.inputs)
        there = images.own_named(name)
        is_ours = there is not None and there.tags.get(BAKE_TAG) == inputs
        if there is not None and is_ours and there.state not in _FAILED:
            return self._available(there)
        found = self._seen(source.id)
        require_portable(found)
        if self._is_readable(found):
            return self._available(found)
        if there is not None and not is_ours:
            raise _taken(name, there)
        if there is not None:
            self._say(f"removing {there.subject}: the copy failed")
            images.remove(there)
        return self._available(self._copied(found, name))

    def _copied(self, source: FoundImage, name: str) -> FoundImage:
        request, bakery = self.request, self.bakery
        self._say(f"copying {source.subject} into account {request.account}: its snapshots are not ours")

        def wanted(attempt: int) -> ImageCopy:
            return ImageCopy(
                source=source.id,
                region=request.region,
                name=name,
                token=client_token(str(request.inputs), request.account, request.region, str(attempt)),
                tags={BAKE_TAG: str(request.inputs)},
            )

        return copied(wanted, images=bakery.images, patience=bakery.patience, emit=bakery.emit)

    def _clean(self, why: str = "") -> None:
        """Take away what a run has left; whoever holds the run alone knows that nobody works with it."""
        for leftover in self.bakery.builders.leftovers(self.request.inputs):
            if why:
                self._say(f"removing {leftover}: {why}")
            self.bakery.builders.remove(leftover)

    def _adopted(self) -> FoundImage | None:
        """The AMI that an earlier run finished, None where it has to be baked (again)."""
        request, images = self.request, self.bakery.images
        name = ami_name(request.ami, request.inputs)
        found = images.own_named(name)
        if found is None:
            return None
        if not _is_of(request.inputs, found):
            raise _taken(name, found)
        self._recall(found)
        why = self._unfit(found)
        if why:
            self._say(f"removing {found.subject}: {why}")
            images.remove(found)
            return None
        self._say(f"{found.subject} is baked already")
        return self._seen(found.id)

    def _recall(self, found: FoundImage) -> None:
        """Bring what the AMI said of itself to this host, where another one baked it."""
        path, said = self.request.facts_file, facts_in_tags(found.tags)
        if not path.is_file() and said is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            publish(path, said)

    def _unfit(self, found: FoundImage) -> str:
        """Why an AMI that bears the name of this bake has to be baked again, empty where it has not."""
        if self.request.again:
            return "it is to be baked again"
        if not self.request.facts_file.is_file():
            return "what it said of itself is not on this host, so it is baked again"
        return "" if self._becomes_available(found) else "it never became available"

    def _built(self) -> FoundImage:
        try:
            made = self._seen(self.bakery.packer.build(self._job()))
        except BaseException as error:
            self._clean_after(error)
            raise
        self._clean()
        return self._available(made)

    def _clean_after(self, error: BaseException) -> None:
        """Take away what a build that failed has left; where that fails, too, the first error says so."""
        try:
            with to_the_end():
                self._clean()
        except BundleError as second:
            left = f"Of the build something may be left in AWS ({second}); the next run removes it."
            if isinstance(error, BundleError):
                error.safe = left
            self.bakery.emit(Noted(text=f"{self.request.subject}: {left}", warning=True))

    def _job(self) -> PackerJob:
        request = self.request
        self.bakery.packer.need()  # before gigabytes are made ready for it
        source = self._team_source() if request.ami.kind == "template" else self._source()
        request.facts_file.parent.mkdir(parents=True, exist_ok=True)
        request.facts_file.unlink(missing_ok=True)
        payload = request.payload()
        return PackerJob(
            name=request.subject,
            run=request.inputs,
            folder=request.template,
            file="template.json",
            variables={
                **request.variables,
                "security_group_id": request.variables.get("security_group_id") or self._group(),
                "source_ami": source,
                "root_device": self._seen(source).root_device,
                "ami_name": ami_name(request.ami, request.inputs),
                "ami_description": ami_description(request.inputs),
                "run_tag": str(request.inputs),
                "payload_dir": str(payload),
                "facts_file": str(request.facts_file),
            },
        )

    def _source(self) -> str:
        if self.request.ami.source is None:
            raise self._unsaid("source")
        return self.request.ami.source.id

    def _group(self) -> str:
        return self.bakery.builders.group(self.request.inputs, self.request.variables.get("subnet_id") or None)

    def _team_source(self) -> str:
        """What the team's own template makes: found by its tag, or built now."""
        job, template = self.request.team, self.request.ami.template
        if job is None or template is None:
            raise self._unsaid("template")
        images = self.bakery.images
        found = [image for image in images.own_tagged(TEMPLATE_TAG, str(template)) if image.state == "available"]
        if found and not self.request.again:
            self._say(f"your template made {found[-1].subject} before")
            return found[-1].id
        made = self._available(self._seen(self.bakery.packer.build(job)))
        images.tag([made.id, *_snapshot_ids(made)], {TEMPLATE_TAG: str(template)})
        return made.id

    def _facts(self, image: FoundImage) -> NodeFacts:
        """What the AMI says of itself. One that is not fit never becomes it: floors and all are among its inputs."""
        path = self.request.facts_file
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise LocalResourceError(str(path), f"cannot be read: {error.strerror}") from error
        try:
            return self.request.check(raw)
        except BundleError:
            self._say(f"removing {image.subject}: it is not fit for the bundle")
            with to_the_end():
                self.bakery.images.remove(image)
            raise

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
            raise TargetError(image.subject, "did not become available", hint=_LOOK)
        return self._seen(image.id)

    def _becomes_available(self, image: FoundImage) -> bool:
        """Wait for a pending AMI; whether it is available in the end."""
        patience, state = self.bakery.patience, image.state
        started = patience.clock()
        while state in ("pending", "transient"):
            elapsed = patience.clock() - started
            if elapsed > patience.deadline_s:
                raise TargetError(image.subject, f"is still {state} after {elapsed:.0f} s", hint=_LOOK)
            patience.pause(image.subject, [state], elapsed_s=elapsed)
            found = self.bakery.images.image(image.id)
            state = "gone" if found is None else found.state
        return state == "available"

    def _unsaid(self, what: str) -> LockChangedError:
        return LockChangedError(
            f"AMI {self.request.subject}", f"has no {what} in the lock", hint="Make the lock again: bundle lock"
        )

    def _say(self, text: str) -> None:
        self.bakery.emit(Noted(text=f"{self.request.subject}: {text}"))


def _attributes(image: FoundImage, images: Images) -> AmiAttributes:
    try:
        return attributes_of(image, uefi_data=images.uefi_data(image.id))
    except ValidationError as error:
        first = error.errors()[0]
        cause = f"has attributes that this version does not know: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        hint = "Take another AMI, or a newer version of this tool."
        raise PolicyError(image.subject, cause, hint=hint) from error


def _taken(name: str, by: FoundImage) -> ConflictError:
    hint = f"Look what it is; to give the name back: aws ec2 deregister-image --image-id {by.id}"
    return ConflictError(f"AMI name {name}", f"is taken by {by.id}, which no bake of this bundle made", hint=hint)


def _is_of(inputs: Digest, image: FoundImage) -> bool:
    """Whether an AMI that bears the name of a bake is the bake's.

    Packer gives it description and tags once it is available (ModifyImageAttribute, CreateTags), minutes after
    CreateImage: killed in between, it bears neither, and the name alone, with 64 bits of the inputs, tells.
    """
    if image.description == ami_description(inputs) or image.tags.get(BAKE_TAG) == str(inputs):
        return True
    return not image.description and not image.tags


def _snapshot_ids(image: FoundImage) -> list[str]:
    return [one.snapshot for one in image.snapshots]
