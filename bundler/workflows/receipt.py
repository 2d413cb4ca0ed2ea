"""`bundle receipt`: what a site's registry and its AMIs hold now, read from the world; nothing is written there."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bundler.domain.digest import Digest
from bundler.domain.events import Emit, ItemDone, Noted, PhaseDone, PhaseStarted, TransferPlanned, counted
from bundler.domain.image_map import PrivateRegistry
from bundler.domain.machine_image import FoundImage
from bundler.domain.oci import Index, Manifest
from bundler.domain.parents import INDEX_TAG
from bundler.domain.receipt import HeldAmi, HeldBlob, HeldRepository, HeldTag, Receipt, is_tag
from bundler.domain.reference import Reference, is_repository
from bundler.domain.restored import AMI_TAG
from bundler.domain.site import Site
from bundler.domain.snapshot import FoundSnapshot
from bundler.errors import FormatError, LimitError, NotFoundUpstreamError
from bundler.transfer import Pace, parallel_map

PHASE = "receipt"
_NAME = re.compile(r"(?P<name>[a-z0-9](?:[a-z0-9-]{0,51}[a-z0-9])?)-(?P<architecture>amd64|arm64)-[0-9a-f]{12}\Z")


class Repositories(Protocol):
    """The ECR API."""

    def below(self, prefix: str) -> tuple[str, ...]:
        """Return the names of all repositories below a prefix."""
        ...

    def held(self, name: str) -> tuple[tuple[str, str], ...]:
        """Return the digest and the tag ("" where it has none) of every image in a repository."""
        ...


class Manifests(Protocol):
    """The registry."""

    def manifest(self, reference: Reference) -> Manifest | Index:
        """Return a manifest by digest, verified."""
        ...


class Images(Protocol):
    """EC2, as far as AMIs go."""

    def own_with_tag(self, key: str) -> tuple[FoundImage, ...]:
        """Return the account's own AMIs that have a tag."""
        ...

    def snapshots(self, ids: Collection[str]) -> dict[str, FoundSnapshot]:
        """Return those of these snapshots that there are."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptSources:
    """Where it is read from."""

    repositories: Repositories
    registry: Manifests
    images: Images


def make_receipt(site: Site, *, sources: ReceiptSources, pace: Pace) -> Receipt:
    """Return what the site holds below its prefix, and the AMIs that were restored in its account and Region.

    Raises:
        AccessError: something may not be read.
        DigestError: the registry's content is not what its digest says.
    """
    pace.emit(PhaseStarted(phase=PHASE, detail=f"{site.registry_host}/{site.registry.prefix}"))
    names = sources.repositories.below(site.registry.prefix)
    private = PrivateRegistry(host=site.registry_host, prefix=site.registry.prefix)
    pace.emit(TransferPlanned(phase=PHASE, total_bytes=0, items=len(names)))

    def look(name: str) -> _Repository | None:
        found = _repository(name, private, sources, pace.emit)
        pace.emit(ItemDone(phase=PHASE, item=name, how="read"))
        return found

    repositories = _held([one for one in parallel_map(look, names, workers=pace.workers) if one is not None])
    amis = _amis(sources.images)
    told = f"{counted(len(repositories), 'repository', 'repositories')}, {counted(len(amis), 'AMI')}"
    pace.emit(PhaseDone(phase=PHASE, detail=told))
    return Receipt(
        account=site.account,
        region=site.region,
        cluster=site.cluster.name,
        prefix=site.registry.prefix,
        repositories=repositories,
        amis=amis,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Repository:
    """What a repository says of itself: `blobs` as its manifests state them, the size in bytes."""

    name: str
    tags: Mapping[str, Digest]
    blobs: Collection[tuple[Digest, int]]


def _held(found: Sequence[_Repository]) -> tuple[HeldRepository, ...]:
    """Return what a receipt can say of them: a blob that has several sizes is left out, as somebody is wrong there."""
    sizes: dict[Digest, set[int]] = {}
    for digest, size in (blob for one in found for blob in one.blobs):
        sizes.setdefault(digest, set()).add(size)
    return tuple(
        HeldRepository(
            name=one.name,
            tags=tuple(HeldTag(tag=tag, digest=one.tags[tag]) for tag in sorted(one.tags)),
            blobs=tuple(
                HeldBlob(digest=digest, size=size) for digest, size in sorted(one.blobs) if len(sizes[digest]) == 1
            ),
        )
        for one in sorted(found, key=lambda one: one.name)
    )


def _repository(name: str, private: PrivateRegistry, sources: ReceiptSources, emit: Emit) -> _Repository | None:
    """What one repository holds; None where that is nothing, or nothing that a bundle could have pushed there."""
    path = name.removeprefix(f"{private.prefix}/")
    held = sources.repositories.held(name)
    if not held or not is_repository(path):
        return None
    place = private.holding(path)
    blobs: set[tuple[Digest, int]] = set()
    there: dict[str, Digest] = {}
    strange: list[FormatError | LimitError] = []
    for text in sorted({digest for digest, _ in held}):
        try:
            digest = Digest.parse(text)
            there[text] = digest
            found = sources.registry.manifest(place.pinned(digest))
        except NotFoundUpstreamError:  # a lifecycle rule took it meanwhile
            del there[text]
        except (FormatError, LimitError) as error:  # something else than an image or chart, which we never pushed
            strange.append(error)
        else:
            if isinstance(found, Manifest):
                blobs.update((blob.digest, blob.size) for blob in found.blobs)
    if strange:
        what = f"{counted(len(strange), 'manifest')} of {name} left out, as of no image or chart: {strange[0].cause}"
        emit(Noted(text=what, warning=True))
    tags = {tag: there[digest] for digest, tag in held if is_tag(tag) and digest in there}
    return _Repository(name=path, tags=tags, blobs=blobs)


def _amis(images: Images) -> tuple[HeldAmi, ...]:
    """AMIs that install registered and that can be begun with: all their snapshots are complete and of one index."""
    found = [one for one in images.own_with_tag(AMI_TAG) if one.state == "available"]
    known: dict[str, FoundSnapshot] = {}
    for one in found:
        known |= images.snapshots([device.snapshot for device in one.devices])
    held = (_ami(one, known) for one in found)
    return tuple(
        sorted({one for one in held if one is not None}, key=lambda one: (one.name, one.architecture, one.index))
    )


def _ami(image: FoundImage, known: Mapping[str, FoundSnapshot]) -> HeldAmi | None:
    name = _NAME.match(image.name)
    snapshots = [known.get(device.snapshot) for device in image.devices]
    ours = {one.tags.get(INDEX_TAG, "") for one in snapshots if one is not None and one.state == "completed"}
    if name is None or None in snapshots or len(ours) != 1:
        return None
    try:
        index = Digest.parse(ours.pop())
    except FormatError:
        return None
    return HeldAmi.model_validate({"name": name["name"], "architecture": name["architecture"], "index": index})
