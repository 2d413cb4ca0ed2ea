"""A registry over another one: each request goes on as it came, but for what a class below this one changes."""

from __future__ import annotations

from bundler.domain.digest import Digest
from bundler.domain.oci import Descriptor
from bundler.domain.reference import Reference
from bundler.pacing import Bearing
from bundler.ports import ImageRegistry, Reopen


class RegistryLayer:
    """Fits ports.ImageRegistry, and says what each method does."""

    def __init__(self, registry: ImageRegistry) -> None:
        self.registry = registry

    def manifest_digest(self, reference: Reference) -> Digest | None:
        """Return the digest that the registry has under a reference, None for none."""
        return self.registry.manifest_digest(reference)

    def has_blob(self, name: Reference, digest: Digest) -> bool:
        """Whether a repository has a blob."""
        return self.registry.has_blob(name, digest)

    def is_new(self, name: Reference) -> bool:
        """Whether a repository is known to have no tag."""
        return self.registry.is_new(name)

    def bearing(self, name: Reference) -> Bearing:
        """What the registry bears."""
        return self.registry.bearing(name)

    def upload_blob(self, name: Reference, blob: Descriptor, content: Reopen, *, mount_from: str | None = None) -> bool:
        """Give a repository a blob; True where a mount saved the bytes."""
        return self.registry.upload_blob(name, blob, content, mount_from=mount_from)

    def put_manifest(self, reference: Reference, raw: bytes, media_type: str) -> Digest:
        """Put a manifest; return the digest that it got."""
        return self.registry.put_manifest(reference, raw, media_type)
