"""Blobs that a delta does not carry and the site's registry holds: found before any write, and brought where needed.

A blob that the target repository lacks is mounted from one that has it. Where the registry mounts nothing (ECR, unless
its account setting BLOB_MOUNTING is on), it is read from there, checked, and sent.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Protocol

from bundler.archive.reader import Archive
from bundler.archive.root import AMI_BASE
from bundler.domain.digest import Digest
from bundler.domain.events import counted
from bundler.domain.image_map import PrivateRegistry
from bundler.domain.oci import Descriptor
from bundler.domain.reference import Reference
from bundler.errors import AbsentContentError, BundleError, LocalResourceError
from bundler.ports import ImageRegistry, Reopen, Sink
from bundler.stages.push import Push
from bundler.transfer import Pace, parallel_map
from bundler.workflows.registry_layer import RegistryLayer

CHUNK_BYTES = 1 << 20


class BlobReads(Protocol):
    """A registry that blobs can be read from."""

    def read_blob(self, name: Reference, blob: Descriptor, sink: Sink, *, restart: Callable[[], None]) -> None:
        """Send a blob's bytes to `sink`, in order and verified."""
        ...


class SiteRegistry(ImageRegistry, BlobReads, Protocol):
    """The registry of a site: written to, and read from for a delta."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """One blob that has to be at the site: where to look for it, and what needs it."""

    blob: Descriptor
    places: list[Reference] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)


def locate(
    archive: Archive, missing: Sequence[Push], *, target: PrivateRegistry, registry: ImageRegistry, pace: Pace
) -> dict[Digest, Reference]:
    """Return where the registry holds each blob that these pushes need and the archive does not carry.

    Raises:
        AbsentContentError: it lacks some; all of them are named, and the images that need them.
    """
    wanted = list(_wanted(archive, missing, target).values())

    def find(one: _Wanted) -> Reference | None:
        return next((place for place in one.places if registry.has_blob(place, one.blob.digest)), None)

    found = parallel_map(find, wanted, workers=pace.workers)
    lost = [one for one, place in zip(wanted, found, strict=True) if place is None]
    if lost:
        raise _absent(archive, lost, target)
    return {one.blob.digest: place for one, place in zip(wanted, found, strict=True) if place is not None}


def _wanted(archive: Archive, missing: Sequence[Push], target: PrivateRegistry) -> dict[Digest, _Wanted]:
    """Each absent blob that is needed; looked for where it goes, then where the base had it."""
    homes = {one.digest: one.repository for one in archive.requires if one.role != AMI_BASE}
    found: dict[Digest, _Wanted] = {}
    for item in missing if homes else ():
        for blob in item.blobs:
            if blob.digest in homes:
                one = found.setdefault(blob.digest, _Wanted(blob=blob.descriptor))
                one.places.append(item.target)
                one.sources.append(item.source)
    for digest, one in found.items():
        home = homes[digest]
        places = [*one.places, *([] if home is None else [target.holding(home)])]
        one.places[:] = {place.name: place for place in places}.values()
    return found


def _absent(archive: Archive, lost: Sequence[_Wanted], target: PrivateRegistry) -> AbsentContentError:
    images = sorted({source for one in lost for source in one.sources})
    lines = [
        f"- {one.blob.digest} ({one.blob.size} bytes), for {', '.join(sorted(set(one.sources)))}"
        for one in sorted(lost, key=lambda one: one.blob.digest)
    ]
    against = archive.root.against
    made = "an earlier bundle" if against is None else f"{against.name} ({against.digest})"
    return AbsentContentError(
        archive.source.name,
        f"is a delta, and {f'{target.host}/{target.prefix}'.rstrip('/')} lacks {counted(len(lost), 'blob')} that it"
        f" does not carry, of {counted(len(images), 'image')}:\n" + "\n".join(lines),
        hint=f"It was made against {made}: install that first. Or carry all of it: build without --against; or what"
        " this site lacks: bundle receipt here, then build --against the receipt.",
    )


def with_placed(registry: ImageRegistry, placed: Mapping[Digest, Reference], *, source: BlobReads) -> ImageRegistry:
    """Return a registry that takes what is placed from there, and everything else as it is given.

    Args:
        registry: is written to.
        placed: where it holds what the archive does not carry.
        source: the same registry, to be read from.
    """
    return _PlacedRegistry(registry, placed, source) if placed else registry


class _NotMountedError(BundleError):
    """The registry asks for the bytes of a blob that only it has."""


class _PlacedRegistry(RegistryLayer):
    """A registry whose own blobs stand in for what a delta lacks."""

    def __init__(self, registry: ImageRegistry, placed: Mapping[Digest, Reference], source: BlobReads) -> None:
        super().__init__(registry)
        self._placed = placed
        self._source = source

    def upload_blob(self, name: Reference, blob: Descriptor, content: Reopen, *, mount_from: str | None = None) -> bool:
        """Give a repository a blob; True where none of its bytes had to be sent."""
        place = self._placed.get(blob.digest)
        if place is None:
            return super().upload_blob(name, blob, content, mount_from=mount_from)
        try:
            return super().upload_blob(name, blob, _refuse, mount_from=place.repository)
        except _NotMountedError:
            return self._copy(name, blob, place)

    def _copy(self, name: Reference, blob: Descriptor, place: Reference) -> bool:
        """Read a blob whole before its upload begins: no request to a host waits for another one to the same host."""
        try:
            with tempfile.TemporaryFile() as file:
                self._source.read_blob(place, blob, partial(_keep, file), restart=partial(_empty, file))
                return super().upload_blob(name, blob, lambda start: _pieces(file, start))
        except OSError as error:
            cause = f"cannot hold {blob.digest}, {blob.size} bytes, on its way: {error.strerror}"
            raise LocalResourceError(tempfile.gettempdir(), cause) from error


def _refuse(start: int) -> Iterator[memoryview]:
    raise _NotMountedError(f"byte {start}", "is asked for")


def _keep(file: IO[bytes], piece: memoryview) -> None:
    file.write(piece)


def _empty(file: IO[bytes]) -> None:
    file.seek(0)
    file.truncate()


def _pieces(file: IO[bytes], start: int) -> Iterator[memoryview]:
    file.seek(start)
    while piece := file.read(CHUNK_BYTES):
        yield memoryview(piece)
