"""Archive -> private registry: blobs largest first, manifests children first, tags last, digests read back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from bundler.domain.blob import Blob
from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, ItemDone, TransferPlanned
from bundler.domain.lock import Lock, LockedManifest
from bundler.domain.oci import Descriptor
from bundler.domain.plan import Action, Plan
from bundler.domain.reference import Reference
from bundler.errors import ConflictError, DigestError
from bundler.ports import ImageRegistry
from bundler.transfer import Pace, parallel_map


class BlobReader(Protocol):
    """The verified archive, as far as push needs it."""

    def read(self, key: Digest) -> bytes:
        """Return a small blob whole, verified."""
        ...

    def stream(self, key: Digest, start: int = 0) -> Iterator[memoryview]:
        """Yield a blob from an offset."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """One image or chart on its way to one repository.

    Attributes:
        source: its name in the bundle, for people.
        target: `registry/repository:tag` to push to; the tag may change where it is taken and immutable.
        manifests: every manifest, children before the index that names them; the last one gets the tag.
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
        _push(chart.reference, chart_target(chart.reference), (chart.manifest,), tail=chart.manifest)
        for chart in lock.charts
    ]
    owners: dict[Reference, Digest] = {}
    return tuple(
        one if owners.setdefault(one.target, one.digest) == one.digest else replace(one, target=beside_tag(one))
        for one in (*images, *charts)
    )


def _push(source: str, target: Reference, manifests: Sequence[LockedManifest], *, tail: Blob) -> Push:
    blobs = {blob.digest: blob for manifest in manifests for blob in manifest.blobs}
    ordered = {manifest.digest: Blob.of(manifest.descriptor) for manifest in manifests}
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
    digests = parallel_map(registry.manifest_digest, targets, workers=pace.workers)
    return {target: digest for target, digest in zip(targets, digests, strict=True) if digest is not None}


def push(plan: PushPlan, *, archive: BlobReader, registry: ImageRegistry, pace: Pace = Pace()) -> None:
    """Bring the registry everything that the plan misses, and read each digest back.

    Killed anywhere, the next run asks the registry again and sends only what it lacks.

    Raises:
        DigestError: the archive's content, or what the registry then says, is not what the lock names.
        ConflictError: a repository is missing, or an immutable tag holds another digest.
    """
    first, others = _homes(plan.missing)
    uploads = sorted(first.values(), key=lambda upload: (-upload.blob.size, upload.blob.digest))
    total = sum(upload.blob.size for upload in uploads) + sum(upload.blob.size for upload in others)
    pace.emit(TransferPlanned(phase="push", total_bytes=total, items=len(uploads) + len(others)))
    pusher = _Pusher(archive=archive, registry=registry, pace=pace)
    parallel_map(pusher.blob, uploads, workers=pace.workers)
    parallel_map(pusher.blob, others, workers=pace.workers)
    parallel_map(pusher.manifests, plan.missing, workers=pace.workers)
    parallel_map(pusher.read_back, (*plan.missing, *plan.present), workers=pace.workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Upload:
    blob: Descriptor
    target: Reference
    mount_from: str | None = None


def _homes(pushes: Sequence[Push]) -> tuple[dict[Digest, _Upload], list[_Upload]]:
    """Each blob's first repository, where its bytes go, and the others, that may mount it from there."""
    first: dict[Digest, _Upload] = {}
    others: dict[tuple[Digest, str], _Upload] = {}
    for item in pushes:
        for blob in item.blobs:
            home = first.setdefault(blob.digest, _Upload(blob=blob.descriptor, target=item.target))
            if home.target.name != item.target.name:
                upload = _Upload(blob=blob.descriptor, target=item.target, mount_from=home.target.repository)
                others.setdefault((blob.digest, item.target.name), upload)
    return first, list(others.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pusher:
    archive: BlobReader
    registry: ImageRegistry
    pace: Pace

    def blob(self, upload: _Upload) -> None:
        digest, label = upload.blob.digest, upload.blob.digest.short
        if self.registry.has_blob(upload.target, digest):
            self._moved(label, upload.blob.size)
            self.pace.emit(ItemDone(phase="push", item=label, how="present"))
            return
        counter = _Counter(label=label, pace=self.pace)
        content = partial(self._counted, digest, counter)
        mounted = self.registry.upload_blob(upload.target, upload.blob, content, mount_from=upload.mount_from)
        if mounted:
            self._moved(label, upload.blob.size)
        self.pace.emit(ItemDone(phase="push", item=label, how="mounted" if mounted else "moved"))

    def _counted(self, digest: Digest, counter: _Counter, start: int) -> Iterator[memoryview]:
        counter.at(start)
        for chunk in self.archive.stream(digest, start):
            yield chunk
            counter.add(len(chunk))

    def _moved(self, label: str, count: int) -> None:
        self.pace.emit(BytesMoved(phase="push", item=label, count=count))

    def manifests(self, item: Push) -> None:
        for manifest in item.manifests[:-1]:
            target = replace(item.target, tag=None, digest=manifest.digest)
            self.registry.put_manifest(target, self.archive.read(manifest.digest), manifest.media_type)
        last = item.manifests[-1]
        self.registry.put_manifest(item.target, self.archive.read(last.digest), last.media_type)
        self.pace.emit(ItemDone(phase="push", item=str(item.target), how="tagged"))

    def read_back(self, item: Push) -> None:
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
        self.add(offset - self._reached)

    def add(self, count: int) -> None:
        self._reached += count
        if count:
            self._pace.emit(BytesMoved(phase="push", item=self._label, count=count))
