"""A registry under the lock of a site: who lost the lock writes no more."""

from __future__ import annotations

from bundler.domain.digest import Digest
from bundler.domain.oci import Descriptor
from bundler.domain.reference import Reference
from bundler.journal import Journal
from bundler.ports import ImageRegistry, Reopen


class HeldRegistry:
    """A registry that is only written to while the lock of the site is ours: a push takes long enough to lose it."""

    def __init__(self, registry: ImageRegistry, journal: Journal) -> None:
        self._registry = registry
        self._journal = journal

    def manifest_digest(self, reference: Reference) -> Digest | None:
        """Return the digest that the registry has under a reference, None for none."""
        return self._registry.manifest_digest(reference)

    def has_blob(self, name: Reference, digest: Digest) -> bool:
        """Whether a repository has a blob."""
        return self._registry.has_blob(name, digest)

    def is_new(self, name: Reference) -> bool:
        """Whether a repository is known to have no tag."""
        return self._registry.is_new(name)

    def upload_blob(self, name: Reference, blob: Descriptor, content: Reopen, *, mount_from: str | None = None) -> bool:
        """Upload a blob; whether it was sent."""
        self._journal.check()
        return self._registry.upload_blob(name, blob, content, mount_from=mount_from)

    def put_manifest(self, reference: Reference, raw: bytes, media_type: str) -> Digest:
        """Put a manifest; return the digest that the registry says."""
        self._journal.check()
        return self._registry.put_manifest(reference, raw, media_type)
