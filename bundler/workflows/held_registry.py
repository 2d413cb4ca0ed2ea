"""A registry under the lock of a site: who lost the lock writes no more."""

from __future__ import annotations

from bundler.domain.digest import Digest
from bundler.domain.oci import Descriptor
from bundler.domain.reference import Reference
from bundler.journal import Journal
from bundler.ports import ImageRegistry, Reopen
from bundler.workflows.registry_layer import RegistryLayer


class HeldRegistry(RegistryLayer):
    """A registry that is only written to while the lock of the site is ours: a push takes long enough to lose it."""

    def __init__(self, registry: ImageRegistry, journal: Journal) -> None:
        super().__init__(registry)
        self._journal = journal

    def upload_blob(self, name: Reference, blob: Descriptor, content: Reopen, *, mount_from: str | None = None) -> bool:
        """Upload a blob, while the lock is ours."""
        self._journal.check()
        return super().upload_blob(name, blob, content, mount_from=mount_from)

    def put_manifest(self, reference: Reference, raw: bytes, media_type: str) -> Digest:
        """Put a manifest, while the lock is ours."""
        self._journal.check()
        return super().put_manifest(reference, raw, media_type)
