"""Lock -> blobs, straight to their final place in the archive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol, TypeGuard, runtime_checkable

from bundler.cache import Cache
from bundler.domain.blob_names import blob_names
from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, Emit, ItemDone, TransferPlanned
from bundler.domain.lock import Lock, LockedImage
from bundler.domain.oci import Descriptor, Index, derive_index
from bundler.domain.reference import Reference
from bundler.errors import (
    DigestError,
    LockChangedError,
    MissingToolError,
    NetworkError,
    NotFoundUpstreamError,
)
from bundler.ports import ImageSource, RangeSource
from bundler.transfer import Once, Pace, check_stopped, drain

RANGED_BYTES = 32 << 20
"""Larger blobs come in parts."""
PART_BYTES = 16 << 20
FIRST_PART_BYTES = 4 << 20
CLEAN_TRIES = 3

SourceOf = Callable[[LockedImage], ImageSource]


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """Where blobs come from: the cache (manifests, configs, charts, tools, exported images), else upstream."""

    cache: Cache
    source_of: SourceOf


class Place(Protocol):
    """The place of one blob: bytes are hashed on the way, and count only after `commit`."""

    def write(self, chunk: memoryview | bytes) -> None:
        """Take the next bytes."""
        ...

    def restart(self) -> None:
        """Forget what was written; the blob begins again."""
        ...

    def commit(self) -> None:
        """Check size and digest, then let the blob count.

        Raises:
            DigestError: the content is not what the digest names.
        """
        ...


@runtime_checkable
class RangePlace(Place, Protocol):
    """A place that takes a blob's bytes in any order, from several threads."""

    def gaps(self) -> Sequence[tuple[int, int]]:
        """Return the spans that are missing, ascending: an earlier run may have left the others."""
        ...

    def put(self, offset: int, chunk: memoryview | bytes) -> int:
        """Take the bytes from `offset` on; return how many of them were not there."""
        ...

    def rest(self) -> None:
        """Note what is there: whoever put it goes elsewhere."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """Where one blob can be had upstream."""

    image: LockedImage
    reference: Reference
    is_manifest: bool


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A blob that nothing has been done for."""

    digest: Digest
    size: int

    @property
    def rank(self) -> tuple[int, int, str]:
        return 0, 0, self.digest.text


@dataclass(slots=True, kw_only=True)
class _Ranged:
    """A blob that comes in parts, from a source into a place that both know parts.

    Attributes:
        left: parts that are still to come.
    """

    blob: Descriptor
    origin: _Origin
    source: RangeSource
    place: RangePlace
    counted: _Counted
    clean_tries: int = CLEAN_TRIES
    left: int = 0
    lock: Once = field(default_factory=Once)

    def put(self, offset: int, chunk: memoryview) -> None:
        """Take the bytes from `offset` on."""
        check_stopped()
        self.counted.count(self.place.put(offset, chunk))

    def lacks(self, start: int, stop: int) -> bool:
        """Whether any of these bytes is still to come: an answer to another part may have brought them."""
        return any(first < stop and start < last for first, last in self.place.gaps())

    def is_last(self) -> bool:
        """Count one part as done."""
        with self.lock:
            self.left -= 1
            return not self.left


@dataclass(frozen=True, slots=True)
class _Part:
    """A span of a blob."""

    ranged: _Ranged
    start: int
    stop: int

    @property
    def rank(self) -> tuple[int, int, str]:
        return 0, self.start, self.ranged.blob.digest.text


@dataclass(frozen=True, slots=True)
class _Others:
    """The blobs that are not large, the next one last; a worker takes one, and comes back for another.

    They wait here and not among the tasks: there may be a hundred thousand.
    """

    left: list[_Wanted]

    @property
    def rank(self) -> tuple[int, int, str]:
        return 1, 0, ""


_Task = _Wanted | _Part | _Others


def fetch(
    lock: Lock,
    missing: Iterable[tuple[Digest, int]],
    *,
    place: Callable[[Digest], Place],
    supply: Supply,
    pace: Pace = Pace(),
) -> None:
    """Give every missing blob its content: from the cache, else from upstream by digest.

    Large blobs come in parts, so that no worker is left with one alone: all of them a part at a time, in order, for the
    hash follows the parts. Then the others, largest first.

    Args:
        lock: names the blobs.
        missing: digest and size in bytes of each blob whose place is still empty.
        place: opens the place of a blob.
        supply: the cache, and upstream behind it.
        pace: transfers at a time, and who hears of it.

    Raises:
        DigestError: upstream's content is not what the lock names.
        LockChangedError: the cache lost a blob that nothing can bring again.
    """
    wanted = [_Wanted(digest, size) for digest, size in missing]
    pace.emit(TransferPlanned(phase="fetch", total_bytes=sum(task.size for task in wanted), items=len(wanted)))
    large = [task for task in wanted if task.size > RANGED_BYTES]
    others = [task for task in wanted if task.size <= RANGED_BYTES]
    others.sort(key=lambda task: task.digest.text, reverse=True)
    others.sort(key=lambda task: task.size)  # twice: keys of both would be there for all of them
    fetcher = _Fetcher(origins=_origins(lock), names=blob_names(lock), place=place, supply=supply, emit=pace.emit)
    tasks: list[_Task] = [*large, *(_Others(others) for _ in range(min(pace.workers, len(others))))]
    del wanted
    drain(fetcher.work, tasks, rank=lambda task: task.rank, workers=pace.workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fetcher:
    origins: Mapping[Digest, _Origin]
    names: Mapping[Digest, str]
    place: Callable[[Digest], Place]
    supply: Supply
    emit: Emit

    def _name(self, digest: Digest) -> str:
        """The image, chart, tool or file that a blob belongs to, in a word."""
        origin = self.origins.get(digest)
        if origin is None:
            return self.names.get(digest, "")
        return origin.reference.tagged.rsplit("/", 1)[-1]

    def work(self, task: _Task) -> Sequence[_Task]:
        if isinstance(task, _Part):
            return self._part(task)
        if isinstance(task, _Wanted):
            return self._begin(task)
        try:
            wanted = task.left.pop()
        except IndexError:
            return ()
        return [*self._begin(wanted), task]

    def _begin(self, wanted: _Wanted) -> Sequence[_Task]:
        """Bring a blob, or its first part; return its other parts."""
        digest, place = wanted.digest, self.place(wanted.digest)
        label = f"{digest.short} {self._name(digest)}".rstrip()
        counted = _Counted(place, label=label, emit=self.emit)
        self.emit(BytesMoved(phase="fetch", item=label, count=0))
        if self.supply.cache.has(digest) and self._from_cache(digest, counted):
            return ()
        origin = self.origins.get(digest)
        if origin is None:
            raise LockChangedError(str(digest), "is in the lock, but neither in the cache nor upstream")
        if origin.is_manifest:
            with _naming_exported(origin.image):
                raw = self._manifest(origin, digest)
            counted.write(memoryview(raw))
            counted.commit()
            return ()
        blob = Descriptor(media_type="application/octet-stream", digest=digest, size=wanted.size)
        source = self.supply.source_of(origin.image)
        if _gives_ranges(source) and _takes_ranges(place):
            ranged = _Ranged(blob=blob, origin=origin, source=source, place=place, counted=counted)
            counted.count(blob.size - sum(stop - start for start, stop in place.gaps()), kept=True)
            return self._parts(ranged)
        with _naming_exported(origin.image):
            source.read_blob(origin.reference, blob, counted.write, restart=counted.restart)
        counted.commit()
        return ()

    def _parts(self, ranged: _Ranged) -> Sequence[_Task]:
        """Bring the first part; return the others, where the source knows parts at all."""
        first, *others = _cut(ranged.place.gaps(), ranged.blob.size) or [(0, 0)]
        ranged.left = 1 + len(others)
        if self._read(ranged, *first) > first[1]:
            ranged.left, others = 1, []
        ranged.place.rest()
        parts = [_Part(ranged, start, stop) for start, stop in others]
        return parts if not ranged.is_last() else self._finish(ranged)

    def _part(self, part: _Part) -> Sequence[_Task]:
        if part.ranged.lacks(part.start, part.stop):
            self._read(part.ranged, part.start, part.stop)
            part.ranged.place.rest()
        return self._finish(part.ranged) if part.ranged.is_last() else ()

    def _read(self, ranged: _Ranged, start: int, stop: int) -> int:
        if start == stop:
            return stop
        return ranged.source.read_range(ranged.origin.reference, ranged.blob, start, stop, ranged.put)

    def _finish(self, ranged: _Ranged) -> Sequence[_Task]:
        """Check the whole; other content than stated is asked for again, twice, from the start."""
        try:
            ranged.counted.commit()
        except DigestError:
            ranged.clean_tries -= 1
            if not ranged.clean_tries:
                raise
            ranged.counted.restart()
            return self._parts(ranged)
        return ()

    def _from_cache(self, digest: Digest, place: _Counted) -> bool:
        try:
            for chunk in self.supply.cache.read(digest):
                place.write(memoryview(chunk))
        except (DigestError, FileNotFoundError):
            place.restart()
            return False
        place.commit()
        return True

    def _manifest(self, origin: _Origin, digest: Digest) -> bytes:
        """Bytes of a manifest by digest; a derived index is made again from the upstream index it comes from."""
        source, image = self.supply.source_of(origin.image), origin.image
        if image.form != "derived" or digest != image.target.digest or image.upstream is None:
            return source.manifest(origin.reference.pinned(digest)).raw
        upstream = source.manifest(origin.reference.pinned(image.upstream.digest))
        if not isinstance(upstream, Index):
            raise DigestError(str(origin.reference), "the upstream index is not an index any more")
        return derive_index(upstream, keep=[manifest.digest for manifest in image.manifests])


@cache
def _offers(kind: type, protocol: type) -> bool:
    """Whether objects of a type have what a protocol asks for: asked once a type, for it costs as much as a request."""
    return issubclass(kind, protocol)


def _gives_ranges(source: ImageSource) -> TypeGuard[RangeSource]:
    return _offers(type(source), RangeSource)


def _takes_ranges(place: Place) -> TypeGuard[RangePlace]:
    return _offers(type(place), RangePlace)


def _cut(gaps: Iterable[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """Return the spans to ask for: all of a small gap at once, a large blob's first part small, to learn of it soon."""
    if size <= RANGED_BYTES:
        return list(gaps)
    cut: list[tuple[int, int]] = []
    for start, stop in gaps:
        at = start
        while at < stop:
            end = min(at + (PART_BYTES if cut else FIRST_PART_BYTES), stop)
            cut.append((at, end))
            at = end
    return cut


@contextmanager
def _naming_exported(image: LockedImage) -> Iterator[None]:
    """Name the image id where an exported image is lost: neither in the cache, nor where it came from."""
    try:
        yield
    except (NotFoundUpstreamError, NetworkError, MissingToolError) as error:
        if image.origin not in ("docker", "docker-archive"):
            raise
        subject, lost = str(image.reference), f"the exported image {image.image_id} is not in the cache"
        if not isinstance(error, NotFoundUpstreamError):
            raise type(error)(subject, f"{lost}, and cannot be exported again: {error}", hint=error.hint) from error
        raise LockChangedError(
            subject,
            f"{lost}, nor to be had again: {error.cause}",
            hint="Load that image again, or accept the one that is there: bundle lock --update",
        ) from error


def _origins(lock: Lock) -> dict[Digest, _Origin]:
    found: dict[Digest, _Origin] = {}
    for image in lock.images:
        whole, part = (_Origin(image=image, reference=image.reference, is_manifest=each) for each in (True, False))
        found.setdefault(image.target.digest, whole)
        if image.upstream is not None:
            found.setdefault(image.upstream.digest, whole)
        for manifest in image.manifests:
            found.setdefault(manifest.digest, whole)
            for blob in manifest.blobs:
                found.setdefault(blob.digest, part)
    return found


class _Counted:
    """A place that reports its bytes, and takes them back when it starts again."""

    def __init__(self, place: Place, *, label: str, emit: Emit) -> None:
        self._place = place
        self._label = label
        self._emit = emit
        self._count = 0
        self._lock = Once()

    def write(self, chunk: memoryview) -> None:
        check_stopped()
        self._place.write(chunk)
        self.count(len(chunk))

    def count(self, count: int, *, kept: bool = False) -> None:
        with self._lock:
            self._count += count
        if count:
            self._emit(BytesMoved(phase="fetch", item=self._label, count=count, kept=kept))

    def restart(self) -> None:
        self._place.restart()
        self.count(-self._count)

    def commit(self) -> None:
        self._place.commit()
        self._emit(ItemDone(phase="fetch", item=self._label))
