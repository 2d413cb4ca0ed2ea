"""A blob of the archive's pool, as the lock names it."""

from __future__ import annotations

from pydantic import Field

from bundler.domain.oci import MAX_BLOB_BYTES, Descriptor
from bundler.domain.schema import Built, Line, Sha256


class Blob(Built):
    """Media type, digest and size (bytes) of content in the archive's pool."""

    media_type: Line
    digest: Sha256
    size: int = Field(ge=0, le=MAX_BLOB_BYTES, strict=True)

    @classmethod
    def of(cls, descriptor: Descriptor) -> Blob:
        """The same as a lock entry."""
        return cls(media_type=descriptor.media_type, digest=descriptor.digest, size=descriptor.size)

    @property
    def descriptor(self) -> Descriptor:
        """The same as an OCI descriptor."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=self.size)
