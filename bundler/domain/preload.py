"""Which images an AMI holds before its first pod, and under which names: those that pods will ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bundler.domain.ami import LockedAmi, Target
from bundler.domain.blob import Blob
from bundler.domain.digest import Digest
from bundler.domain.image_map import PrivateRegistry
from bundler.domain.lock import Lock, LockedImage, LockedManifest
from bundler.domain.oci import Platform
from bundler.domain.partition import DNS_SUFFIXES
from bundler.domain.reference import Reference
from bundler.errors import DefinitionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Preload:
    """One image for one AMI.

    Attributes:
        target: what the names mean: an index, or the manifest itself.
        manifest: the manifest of the AMI's platform, the only one whose content is there.
        names: all names of it in containerd.
    """

    target: Blob
    manifest: LockedManifest
    names: tuple[str, ...]

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """Everything that is carried of it."""
        everything = (self.target, self.manifest.blob, *self.manifest.blobs)
        return tuple({blob.digest: blob for blob in everything}.values())


def plan_preload(ami: LockedAmi, lock: Lock) -> tuple[Preload, ...]:
    """Return what is preloaded, sorted by digest; images with the same content are one.

    Raises:
        DefinitionError: the bundle does not hold an image, or not for the AMI's architecture.
    """
    found: dict[Digest, Preload] = {}
    for reference in ami.preload:
        image = _held(reference, lock, ami)
        before = found.get(image.target.digest)
        names = (*(before.names if before else ()), *names_of(image, lock.targets))
        found[image.target.digest] = Preload(
            target=image.target, manifest=_manifest(image, ami), names=tuple(dict.fromkeys(names))
        )
    return tuple(found[digest] for digest in sorted(found))


def names_of(image: LockedImage, targets: Sequence[Target]) -> tuple[str, ...]:
    """Return `REPO@sha256:…` and `REPO:TAG` in every target's registry.

    Without targets it is the image's own name: the preload then carries content only.
    """
    places = [registry_of(target).image(image.reference) for target in targets] or [image.reference]
    pinned = [f"{place.name}@{image.target.digest}" for place in places]
    tagged = [place.tagged for place in places if place.tag is not None]
    return tuple(dict.fromkeys(pinned + tagged))


def registry_of(target: Target) -> PrivateRegistry:
    """Return the private registry of a target: ECR of its account and Region."""
    host = f"{target.account}.dkr.ecr.{target.region}.{DNS_SUFFIXES[target.partition]}"
    return PrivateRegistry(host=host, prefix=target.prefix)


def expected_names(preloads: Iterable[Preload]) -> Mapping[str, Digest]:
    """Return the digest that each preloaded name must have on the AMI."""
    return {name: preload.target.digest for preload in preloads for name in preload.names}


def _held(reference: Reference, lock: Lock, ami: LockedAmi) -> LockedImage:
    image = lock.image(reference)
    if image is None:
        hint = "Add it to the definition (images, with a reason), or take it from preload; then: bundle lock"
        raise DefinitionError(f"AMI {ami.name}", f"preloads {reference}, which the bundle does not hold", hint=hint)
    return image


def _manifest(image: LockedImage, ami: LockedAmi) -> LockedManifest:
    wanted = Platform(os="linux", architecture=ami.architecture)
    for manifest in image.manifests:
        if manifest.platform is not None and manifest.platform.matches(wanted):
            return manifest
    cause = f"preloads {image.reference}, which the bundle does not hold for {wanted}"
    raise DefinitionError(f"AMI {ami.name}", cause, hint=f"Add {wanted} to the image's platforms; then: bundle lock")
