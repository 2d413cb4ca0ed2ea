"""Where each image of the bundle is in the private registry, and how its repository there is named (DESIGN §6)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bundler.domain.digest import Digest
from bundler.domain.ecr_host import EcrHost
from bundler.domain.lock import Lock
from bundler.domain.reference import Reference, is_host, is_repository
from bundler.domain.repository import MAX_PREFIX
from bundler.errors import DefinitionError, FormatError

MAX_REPOSITORY = 256
_ECR_REPOSITORY = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*(/[a-z0-9]+([._-][a-z0-9]+)*)*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateRegistry:
    """A registry and the prefix that everything is pushed below, e.g. ECR's host and `eks`; "" for no prefix."""

    host: str
    prefix: str

    @classmethod
    def parse(cls, text: str) -> PrivateRegistry:
        """Return what `HOST[:PORT][/PREFIX]` means.

        Raises:
            FormatError: it is not that; what may be a password is in no message.
        """
        host, _, prefix = text.partition("/")
        prefix = prefix.strip("/")
        if is_host(host) and (not prefix or is_repository(prefix)):
            return cls(host=host, prefix=prefix)
        raise FormatError(
            repr(("…" if "@" in text else "") + text.rpartition("@")[2][:200]), "is not HOST[:PORT]/PREFIX"
        )

    def image(self, source: Reference) -> Reference:
        """Return `HOST/PREFIX/<source host>/<path>`, with the source's tag (`:` in a host becomes `-`)."""
        path = f"{source.registry.lower().replace(':', '-')}/{source.repository}"
        return Reference(registry=self.host, repository=self._below(path), tag=source.tag)

    def chart(self, reference: str) -> Reference:
        """Return where the chart `charts/<name>:<version>` is pushed to."""
        path, _, tag = reference.partition(":")
        return Reference(registry=self.host, repository=self._below(path), tag=tag)

    def holding(self, path: str) -> Reference:
        """Return the repository at a path below the prefix, without a tag."""
        return Reference(registry=self.host, repository=self._below(path))

    def _below(self, path: str) -> str:
        return f"{self.prefix}/{path}" if self.prefix else path


ANY_ECR = PrivateRegistry(host="000000000000.dkr.ecr.us-east-1.amazonaws.com", prefix="p" * MAX_PREFIX)
"""Stands for every site's registry: a name that fits below its prefix fits below all."""


def check_names(lock: Lock, registry: PrivateRegistry, *, source: str) -> None:
    """Check that the registry takes every repository name, and that no two images or charts share one by accident.

    Raises:
        DefinitionError: over 256 characters, a name that ECR refuses, or two sources for one repository.
    """
    owners: dict[str, str] = {}
    is_ecr = EcrHost.parse(registry.host) is not None
    named = [(registry.image(image.reference).repository, image.reference.name) for image in lock.images]
    named += [(registry.chart(chart.reference).repository, f"charts/{chart.name}") for chart in lock.charts]
    for repository, owner in named:
        _check_name(repository, owner, source, is_ecr=is_ecr)
        _claim(owners, repository, owner, source)


def _check_name(repository: str, owner: str, source: str, *, is_ecr: bool) -> None:
    if len(repository) > MAX_REPOSITORY:
        cause = f"{owner} needs the repository {repository}, which has {len(repository)} characters"
        hint = "Take the image from a registry where its name is shorter."
        raise DefinitionError(source, f"{cause}; ECR takes at most {MAX_REPOSITORY}", hint=hint)
    if is_ecr and not _ECR_REPOSITORY.match(repository):
        cause = f"{owner} needs the repository {repository}, a name that ECR does not take"
        hint = "Copy the image to a name in which single `.`, `_` and `-` stand between letters and digits."
        raise DefinitionError(source, cause, hint=hint)


def _claim(owners: dict[str, str], repository: str, owner: str, source: str) -> None:
    other = owners.setdefault(repository, owner)
    if other != owner:
        raise DefinitionError(source, f"{owner} and {other} would share the private repository {repository}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateImage:
    """One image of the bundle.

    Attributes:
        source: its name in the lock, with tag.
        digests: every digest that means this image: index, derived index, platform manifests.
        target: private reference, tag and digest.
    """

    source: Reference
    digests: frozenset[Digest]
    target: Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageMap:
    """Every image of the bundle by the name that charts use for it."""

    host: str
    by_name: Mapping[str, tuple[PrivateImage, ...]]

    @classmethod
    def of(cls, host: str, images: Iterable[PrivateImage]) -> ImageMap:
        """Return the map of `images` in the private registry `host`."""
        by_name: dict[str, tuple[PrivateImage, ...]] = {}
        for image in images:
            by_name[image.source.name] = (*by_name.get(image.source.name, ()), image)
        return cls(host=host, by_name=by_name)

    @property
    def images(self) -> tuple[PrivateImage, ...]:
        """All images, in the order they came."""
        return tuple(image for group in self.by_name.values() for image in group)

    def target(self, reference: Reference) -> Reference | None:
        """The private reference of what `reference` means, None when the bundle does not hold it."""
        for image in self.by_name.get(reference.name, ()):
            if reference.digest in image.digests if reference.digest else reference.tag == image.source.tag:
                return image.target
        return None

    def held(self, reference: Reference) -> PrivateImage | None:
        """The image that the private `reference` is, by name and digest; a tag beside a digest says nothing."""
        wanted = (reference.name, reference.digest)
        return next((image for image in self.images if (image.target.name, image.target.digest) == wanted), None)

    def holds(self, reference: Reference) -> bool:
        """Whether `reference` is one of the private ones, pinned by digest."""
        return self.held(reference) is not None

    def has(self, text: str) -> bool:
        """The same for text that may be no reference."""
        try:
            return self.holds(Reference.parse(text))
        except FormatError:
            return False


def image_map(lock: Lock, references: Mapping[str, Reference], *, host: str) -> ImageMap:
    """Return the map of the lock's images.

    Args:
        lock: the bundle's.
        references: name in the lock -> private reference with tag and digest, as push left it there.
        host: the private registry.
    """
    return ImageMap.of(
        host,
        (
            PrivateImage(
                source=image.reference,
                digests=frozenset(
                    digest
                    for digest in (
                        image.target.digest,
                        image.reference.digest,
                        image.upstream.digest if image.upstream else None,
                        *(manifest.digest for manifest in image.manifests if manifest.platform is not None),
                    )
                    if digest is not None
                ),
                target=references[str(image.reference)],
            )
            for image in lock.images
        ),
    )
