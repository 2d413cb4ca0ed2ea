"""Definition -> Lock: every tag becomes a digest, and every blob gets its size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from bundler.cache import Cache
from bundler.domain.blob import Blob
from bundler.domain.digest import Digest
from bundler.domain.events import ItemDone, TransferPlanned
from bundler.domain.lock import Evidence, LockedImage, LockedManifest
from bundler.domain.oci import (
    ATTESTATION_REFERENCE,
    Descriptor,
    Index,
    Manifest,
    Platform,
    derive_index,
    parse_config_platform,
    parse_diff_ids,
)
from bundler.domain.reference import Reference
from bundler.errors import FormatError, LimitError, NotFoundUpstreamError
from bundler.ports import ImageSource
from bundler.transfer import Pace, parallel_map

IMAGE_CONFIG_TYPES = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)
MAX_CONFIG_BYTES = 8 << 20
ImageOrigin = Literal["registry", "layout", "docker-archive", "docker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedImage:
    """One image to resolve: for which platforms, from which source, and who asks for it."""

    reference: Reference
    platforms: tuple[Platform, ...]
    source: ImageSource
    origin: ImageOrigin = "registry"
    evidence: tuple[Evidence, ...] = ()


def resolve(wanted: Sequence[WantedImage], *, cache: Cache, pace: Pace = Pace()) -> tuple[LockedImage, ...]:
    """Return each image pinned by digest, in the order of its name; manifests and configs go to the cache.

    Raises:
        NotFoundUpstreamError: an image, tag or wanted platform does not exist upstream.
        FormatError: what upstream sends is not an image.
    """
    pace.emit(TransferPlanned(phase="resolve", total_bytes=0, items=len(wanted)))

    def one(image: WantedImage) -> LockedImage:
        locked = _Resolver(image=image, cache=cache).run()
        pace.emit(ItemDone(phase="resolve", item=str(image.reference)))
        return locked

    images = parallel_map(one, wanted, workers=pace.workers)
    return tuple(sorted(images, key=lambda image: str(image.reference)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resolver:
    image: WantedImage
    cache: Cache

    def run(self) -> LockedImage:
        found = self.image.source.manifest(self.image.reference)
        self.cache.put(found.raw)
        if isinstance(found, Manifest):
            return self._single(found)
        return self._multiple(found)

    def _single(self, found: Manifest) -> LockedImage:
        locked = self._manifest(found, None)
        platform = locked.platform
        for wanted in self.image.platforms:
            if platform is None or not platform.matches(wanted):
                raise self._missing(wanted, [] if platform is None else [platform])
        return self._locked(_blob_of(found), "manifest", [locked])

    def _multiple(self, found: Index) -> LockedImage:
        chosen = choose_children(found, self.image.platforms)
        if isinstance(chosen, Platform):
            raise self._missing(chosen, [m.platform for m in found.manifests if m.platform and not m.is_attestation])
        manifests = [self._child(descriptor) for descriptor in chosen]
        upstream = _blob_of(found)
        if len(chosen) == len(found.manifests):
            return self._locked(upstream, "index", manifests)
        derived = derive_index(found, keep=[descriptor.digest for descriptor in chosen])
        target = Blob(media_type=found.media_type, digest=self.cache.put(derived), size=len(derived))
        return self._locked(target, "derived", manifests, upstream=upstream)

    def _child(self, descriptor: Descriptor) -> LockedManifest:
        reference = self.image.reference.pinned(descriptor.digest)
        found = self.image.source.manifest(reference)
        if not isinstance(found, Manifest):
            raise LimitError(str(reference), "is an index inside an index")
        if len(found.raw) != descriptor.size:
            raise FormatError(str(reference), f"has {len(found.raw)} bytes, its index says {descriptor.size}")
        self.cache.put(found.raw)
        return self._manifest(found, descriptor)

    def _manifest(self, found: Manifest, descriptor: Descriptor | None) -> LockedManifest:
        attests = _attested(descriptor) if descriptor is not None else None
        stated = descriptor.platform if descriptor is not None else None
        platform = None if attests is not None else self._platform(found, stated)
        return LockedManifest(
            media_type=found.media_type,
            digest=found.digest,
            size=len(found.raw),
            platform=platform,
            attests=attests,
            blobs=tuple(Blob.of(blob) for blob in found.blobs),
        )

    def _platform(self, found: Manifest, stated: Platform | None) -> Platform:
        """The platform that the image's own config states; an index that says otherwise is refused."""
        subject = str(self.image.reference.pinned(found.digest))
        if found.config.media_type not in IMAGE_CONFIG_TYPES:
            raise FormatError(subject, f"has a config of type {found.config.media_type}, which is not an image's")
        config = self._config(found.config, subject)
        own = parse_config_platform(config, subject=subject)
        if len(parse_diff_ids(config, subject=subject)) != len(found.layers):
            raise FormatError(subject, "its config and its manifest count different numbers of layers")
        if stated is not None and (stated.os, stated.architecture) != (own.os, own.architecture):
            raise FormatError(subject, f"its index says {stated}, its config says {own}")
        return stated or own

    def _config(self, blob: Descriptor, subject: str) -> bytes:
        if blob.size > MAX_CONFIG_BYTES:
            raise LimitError(subject, f"has a config of {blob.size} bytes; at most {MAX_CONFIG_BYTES} are allowed")
        kept = self.cache.get(blob.digest)
        if kept is not None:
            return kept
        content = bytearray()
        self.image.source.read_blob(self.image.reference, blob, content.extend, restart=content.clear)
        self.cache.put(bytes(content))
        return bytes(content)

    def _locked(
        self,
        target: Blob,
        form: Literal["manifest", "index", "derived"],
        manifests: Iterable[LockedManifest],
        *,
        upstream: Blob | None = None,
    ) -> LockedImage:
        return LockedImage(
            reference=self.image.reference,
            target=target,
            form=form,
            upstream=upstream,
            manifests=tuple(sorted(manifests, key=lambda manifest: (str(manifest.platform), manifest.digest))),
            origin=self.image.origin,
            image_id=_image_id(self.image.origin, manifests),
            evidence=self.image.evidence,
        )

    def _missing(self, wanted: Platform, offered: Iterable[Platform]) -> NotFoundUpstreamError:
        names = ", ".join(sorted(str(platform) for platform in offered)) or "none"
        asked_by = "; asked for by " + self.image.evidence[0].by if self.image.evidence else ""
        return NotFoundUpstreamError(
            str(self.image.reference),
            f"has no platform {wanted} (it offers {names}){asked_by}",
            hint="Take the platform out of the definition, or name an image that has it.",
        )


def choose_children(index: Index, platforms: Sequence[Platform]) -> tuple[Descriptor, ...] | Platform:
    """Return the children to carry, with the attestations that annotate them, or the platform that is not there."""
    images = [child for child in index.manifests if not child.is_attestation]
    chosen: dict[Digest, Descriptor] = {}
    for wanted in platforms:
        fitting = [child for child in images if child.platform is not None and child.platform.matches(wanted)]
        if not fitting:
            return wanted
        chosen.update((child.digest, child) for child in fitting)
    attestations = [child for child in index.manifests if child.is_attestation and _attested(child) in chosen]
    return (*chosen.values(), *attestations)


def _attested(descriptor: Descriptor) -> Digest | None:
    if not descriptor.is_attestation:
        return None
    return Digest.parse(descriptor.annotations.get(ATTESTATION_REFERENCE, ""))


def _blob_of(found: Manifest | Index) -> Blob:
    return Blob(media_type=found.media_type, digest=found.digest, size=len(found.raw))


def _image_id(origin: ImageOrigin, manifests: Iterable[LockedManifest]) -> Digest | None:
    """A Docker image id is the digest of its config (image-spec config.md, ImageID)."""
    if origin not in ("docker", "docker-archive"):
        return None
    return next(iter(manifests)).blobs[0].digest
