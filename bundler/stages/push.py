"""Archive -> private registry: blobs largest first, images as soon as they are whole, tags last, digests read back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from bundler.crew import MOST, Crew
from bundler.domain.blob import Blob
from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, ItemDone, TransferPlanned
from bundler.domain.lock import Lock, LockedManifest
from bundler.domain.plan import Action, Plan
from bundler.domain.reference import Reference
from bundler.domain.schedule import Job, Schedule
from bundler.errors import ConflictError, DigestError
from bundler.ports import ImageRegistry
from bundler.transfer import Pace, parallel_map

SMALL_BYTES = 64 << 10
"""Up to here a blob is a matter of its requests, not of its bytes."""
CHILDREN = 4
"""Manifests of one image that are put at a time; many images are under way already."""
WORTH_OPENING = 4
"""From so many small blobs of a repository on, one question whether it has tags saves more than it costs."""


class BlobReader(Protocol):
    """The archive with a verified root, as far as push needs it."""

    def holds(self, digest: Digest) -> bool:
        """Whether the archive itself can give a blob."""
        ...

    def read(self, key: Digest) -> bytes:
        """Return a small blob whole, verified."""
        ...

    def pieces(self, key: Digest, start: int = 0) -> Iterator[memoryview]:
        """Yield a blob from an offset, each piece valid until the next; whoever takes it checks it."""
        ...

    def check(self, key: Digest) -> None:
        """Read a blob again, for its own sake.

        Raises:
            DigestError: it is damaged.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """One image or chart on its way to one repository.

    Attributes:
        source: its name in the bundle, for people.
        target: `registry/repository:tag` to push to; the tag may change where it is taken and immutable.
        manifests: every manifest, the last one that names the others; it gets the tag.
        blobs: config and layers, each once.
    """

    source: str
    target: Reference
    manifests: tuple[Blob, ...]
    blobs: tuple[Blob, ...]

    @property
    def digest(self) -> Digest:
        """What the tag will name."""
        return self.manifests[-1].digest


@dataclass(frozen=True, slots=True, kw_only=True)
class PushPlan:
    """What has to be pushed, and what is there already.

    Attributes:
        placed: where the registry holds each blob that is needed and that the archive, a delta, does not carry.
    """

    missing: tuple[Push, ...] = ()
    present: tuple[Push, ...] = ()
    placed: Mapping[Digest, Reference] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        """The same for people and for `--plan`."""
        return Plan(
            actions=tuple(Action(phase="push", verb="upload", target=push.source) for push in self.missing),
            unchanged=tuple(push.source for push in self.present),
        )

    @property
    def repositories(self) -> tuple[str, ...]:
        """Every repository that the bundle uses, sorted."""
        return tuple(sorted({push.target.repository for push in (*self.missing, *self.present)}))

    @property
    def references(self) -> Mapping[str, Reference]:
        """Name in the bundle -> private reference, tag and digest."""
        return {push.source: push.target.pinned(push.digest) for push in (*self.missing, *self.present)}


def pushes_of(
    lock: Lock, *, image_target: Callable[[Reference], Reference], chart_target: Callable[[str], Reference]
) -> tuple[Push, ...]:
    """Return one push per image and chart of the lock, in the order of the lock.

    Where two of them would give one tag to different digests, the later one gets `<tag>-<digest12>`.
    """
    images = [
        _push(str(image.reference), image_target(image.reference), image.manifests, tail=image.target)
        for image in lock.images
    ]
    charts = [
        _push(chart.reference, chart_target(chart.reference), (chart.manifest,), tail=chart.manifest.blob)
        for chart in lock.charts
    ]
    owners: dict[Reference, Digest] = {}
    return tuple(
        one if owners.setdefault(one.target, one.digest) == one.digest else replace(one, target=beside_tag(one))
        for one in (*images, *charts)
    )


def _push(source: str, target: Reference, manifests: Sequence[LockedManifest], *, tail: Blob) -> Push:
    blobs = {blob.digest: blob for manifest in manifests for blob in manifest.blobs}
    ordered = {manifest.digest: manifest.blob for manifest in manifests}
    ordered.pop(tail.digest, None)
    return Push(
        source=source,
        target=target if target.tag is not None else replace(target, tag=f"sha256-{tail.digest.short}"),
        manifests=(*ordered.values(), tail),
        blobs=tuple(blobs.values()),
    )


def plan_push(pushes: Sequence[Push], *, present: Mapping[Reference, Digest], immutable: bool) -> PushPlan:
    """Return what is missing, given the digest that each target's tag has now.

    A taken tag that may not move gets `<tag>-<digest12>` beside it, and references follow.
    """
    missing, there = [], []
    for push in pushes:
        held = present.get(push.target)
        if held == push.digest:
            there.append(push)
        elif held is None or not immutable:
            missing.append(push)
        else:
            beside = replace(push, target=beside_tag(push))
            (there if present.get(beside.target) == push.digest else missing).append(beside)
    return PushPlan(missing=tuple(missing), present=tuple(there))


def beside_tag(push: Push) -> Reference:
    """The tag that is used where the wanted one is immutable and holds another digest."""
    return replace(push.target, tag=f"{str(push.target.tag)[:115]}-{push.digest.short}")


def observe(pushes: Sequence[Push], *, registry: ImageRegistry, pace: Pace = Pace()) -> dict[Reference, Digest]:
    """Return the digest of each target that the registry has: one question per image, two where a tag is taken."""
    held = _ask(sorted({push.target for push in pushes}), registry, pace)
    taken = {beside_tag(push) for push in pushes if held.get(push.target, push.digest) != push.digest}
    return held | _ask(sorted(taken), registry, pace)


def _ask(targets: Sequence[Reference], registry: ImageRegistry, pace: Pace) -> dict[Reference, Digest]:
    workers = 1 if pace.workers == 1 else MOST  # as many as the registry bears: its client says how many that are
    digests = parallel_map(registry.manifest_digest, targets, workers=workers)
    return {target: digest for target, digest in zip(targets, digests, strict=True) if digest is not None}


def push(
    plan: PushPlan,
    *,
    archive: BlobReader,
    registry: ImageRegistry,
    pace: Pace = Pace(),
) -> None:
    """Bring the registry everything that the plan misses, and read each digest back.

    There are no phases: a blob is mounted elsewhere as soon as it is somewhere, an image is finished as soon as its
    blobs are there. Killed anywhere, the next run asks the registry again and sends only what it lacks.

    Args:
        plan: what is missing, and what is there.
        archive: where content comes from.
        registry: where it goes.
        pace: large blobs at a time; of what is small there may be more, as far as the registry bears it.

    Raises:
        DigestError: the archive's content, or what the registry then says, is not what the lock names.
        ConflictError: a repository is missing, or an immutable tag holds another digest.
    """
    jobs = plan_jobs(plan)
    uploads = [job.work for job in jobs if isinstance(job.work, Upload)]
    total = sum(upload.blob.size for upload in uploads)
    pace.emit(TransferPlanned(phase="push", total_bytes=total, items=len(uploads)))
    del uploads
    pusher = _Pusher(archive=archive, registry=registry, pace=pace)
    if plan.missing:
        bearing = partial(registry.bearing, plan.missing[0].target)
        Crew(Schedule(jobs, rank=rank_of), do=pusher.do, workers=pace.workers, bearing=bearing).run()


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One blob on its way into one repository.

    Attributes:
        blob: what.
        target: where to; its repository counts.
        source: the image or chart it belongs to, for people.
        mount_from: a repository that has the blob by then.
        opens: the first small blob of a repository into which several go: nothing small gets there before it.
    """

    blob: Blob
    target: Reference
    source: str
    mount_from: str | None = None
    opens: bool = False

    @property
    def is_large(self) -> bool:
        """Whether its bytes take longer than its requests."""
        return self.blob.size > SMALL_BYTES

    @property
    def label(self) -> str:
        """What progress calls it."""
        return f"{self.blob.digest.short} {self.source}"


Work = Upload | Push


def plan_jobs(plan: PushPlan) -> list[Job[Work]]:
    """Return what is to be done, linked to what it needs.

    A blob goes to one repository by its bytes and to others by mounts, which need it there; an image needs its blobs.
    A blob of an image that is there already is mounted from that image's repository. Where several small blobs go to
    one repository, one of them goes before the others.
    """
    held = {blob.digest: push.target.repository for push in plan.present for blob in push.blobs}
    homes: dict[Digest, Job[Work]] = {}
    repositories: dict[str, dict[Digest, Job[Work]]] = {}
    tails = []
    for item in plan.missing:
        there = repositories.setdefault(item.target.repository, {})
        tail: Job[Work] = Job(work=item)
        for blob in item.blobs:
            job = there.get(blob.digest)
            if job is None:
                job = there[blob.digest] = _upload_job(blob, item, home=homes.get(blob.digest), held=held)
                homes.setdefault(blob.digest, job)
            tail.after(job)
        tails.append(tail)
    for there in repositories.values():
        _open_first(list(there.values()))
    return [job for there in repositories.values() for job in there.values()] + tails


def _upload_job(blob: Blob, item: Push, *, home: Job[Work] | None, held: Mapping[Digest, str]) -> Job[Work]:
    mount_from = held.get(blob.digest) if home is None else home.work.target.repository
    if mount_from == item.target.repository:
        mount_from = None
    upload = Upload(blob=blob, target=item.target, source=item.source, mount_from=mount_from)
    job: Job[Work] = Job(work=upload, is_large=upload.is_large)
    if home is not None:
        job.after(home)
    return job


def _open_first(jobs: Sequence[Job[Work]]) -> None:
    """Let one small blob, that comes by its bytes, go before the other small ones of a repository."""
    small = [job for job in jobs if not job.is_large]
    first = next((job for job in small if isinstance(job.work, Upload) and job.work.mount_from is None), None)
    if first is None or not isinstance(first.work, Upload) or len(small) < WORTH_OPENING:
        return
    first.work = replace(first.work, opens=True)
    for job in small:
        if job is not first:
            job.after(first)


def rank_of(work: Work) -> tuple[int, int, str]:
    """Order within a lane: what others wait for, images that can be finished, mounts, and then the largest."""
    if isinstance(work, Push):
        return 1, 0, str(work.target)
    kind = 0 if work.opens else 3 if work.mount_from is None else 2
    return kind, -work.blob.size, str(work.blob.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pusher:
    archive: BlobReader
    registry: ImageRegistry
    pace: Pace
    untouched: set[str] = field(default_factory=set)

    def do(self, work: Work) -> None:
        """Do one job."""
        if isinstance(work, Push):
            self.manifests(work)
        elif work.opens:
            self.opening(work)
        else:
            self.blob(work)

    def opening(self, upload: Upload) -> None:
        """Bring the blob that goes before the others, and learn whether any of them can be there."""
        is_new = self.registry.is_new(upload.target)
        if self.blob(upload) == "moved" and is_new:
            self.untouched.add(upload.target.repository)

    def blob(self, upload: Upload) -> str:
        """Bring one blob; return how it came."""
        if self._is_to_be_asked(upload) and self.registry.has_blob(upload.target, upload.blob.digest):
            return self._done(upload, "present")
        counter = _Counter(label=upload.label, pace=self.pace)
        content = partial(self._counted, upload.blob.digest, counter)
        try:
            mounted = self.registry.upload_blob(
                upload.target, upload.blob.descriptor, content, mount_from=upload.mount_from
            )
        except DigestError:
            if self.archive.holds(upload.blob.digest):
                self.archive.check(upload.blob.digest)  # names the member, where it is the archive that is damaged
            raise
        counter.end(0 if mounted else upload.blob.size)
        return self._done(upload, "mounted" if mounted else "moved")

    def _is_to_be_asked(self, upload: Upload) -> bool:
        """Whether it may be there: nothing small is in a repository that has no tag and lacked the first of its blobs.

        A mount finds it there by itself.
        """
        if upload.mount_from is not None:
            return False
        if upload.is_large or upload.target.repository not in self.untouched:
            return True
        return not self.archive.holds(upload.blob.digest)

    def _counted(self, digest: Digest, counter: _Counter, start: int) -> Iterator[memoryview]:
        counter.at(start)
        for chunk in self.archive.pieces(digest, start):
            yield chunk
            counter.add(len(chunk))

    def _done(self, upload: Upload, how: str) -> str:
        if how != "moved":
            self.pace.emit(BytesMoved(phase="push", item=upload.label, count=upload.blob.size, kept=True))
        self.pace.emit(ItemDone(phase="push", item=upload.label, how=how))
        return how

    def manifests(self, item: Push) -> None:
        """Put an image's manifests, the one with the tag last, and ask what the tag names then."""
        *children, last = item.manifests
        parallel_map(partial(self._put_child, item), children, workers=min(self.pace.workers, CHILDREN))
        self.registry.put_manifest(item.target, self.archive.read(last.digest), last.media_type)
        self._read_back(item)
        self.pace.emit(ItemDone(phase="push", item=str(item.target), how="tagged"))

    def _put_child(self, item: Push, manifest: Blob) -> None:
        target = replace(item.target, tag=None, digest=manifest.digest)
        self.registry.put_manifest(target, self.archive.read(manifest.digest), manifest.media_type)

    def _read_back(self, item: Push) -> None:
        held = self.registry.manifest_digest(item.target)
        if held is None:
            raise ConflictError(str(item.target), "is not there after the push: something else removes it")
        if held != item.digest:
            raise DigestError(str(item.target), f"was pushed as {item.digest}, the registry says {held}")


class _Counter:
    """Counts a blob's bytes once, however often its upload starts again."""

    def __init__(self, *, label: str, pace: Pace) -> None:
        self._label = label
        self._pace = pace
        self._reached = 0

    def at(self, offset: int) -> None:
        """What follows is from `offset` on; whoever takes the pieces need not come back after the last one."""
        self.add(offset - self._reached)

    def end(self, offset: int) -> None:
        """So much of it has moved: the rest of it, or what a try before a mount had counted, makes the difference."""
        if offset != self._reached:
            self.at(offset)

    def add(self, count: int) -> None:
        self._reached += count
        self._pace.emit(BytesMoved(phase="push", item=self._label, count=count))
