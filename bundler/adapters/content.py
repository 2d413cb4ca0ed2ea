"""Bytes that must be what their digest and size say, checked while they stream."""

from __future__ import annotations

import hashlib

from bundler.domain.digest import Digest
from bundler.domain.oci import Descriptor
from bundler.errors import DigestError


class Checked:
    """Counts and hashes a blob as it passes."""

    def __init__(self, blob: Descriptor, *, subject: str) -> None:
        self.count = 0
        self._blob = blob
        self._subject = subject
        self._sha256 = hashlib.sha256()

    @property
    def left(self) -> int:
        """Bytes that are still to come."""
        return self._blob.size - self.count

    def add(self, piece: memoryview) -> None:
        """Take the next bytes.

        Raises:
            DigestError: they are more than the blob has.
        """
        if len(piece) > self.left:
            raise DigestError(
                self._subject, f"is longer than the {self._blob.size} bytes stated for {self._blob.digest}"
            )
        self._sha256.update(piece)
        self.count += len(piece)

    def finish(self) -> None:
        """Say that the end has been reached.

        Raises:
            DigestError: too early, or with other content.
        """
        if self.left:
            raise DigestError(
                self._subject, f"ends after {self.count} of {self._blob.size} bytes of {self._blob.digest}"
            )
        found = Digest("sha256:" + self._sha256.hexdigest())
        if found != self._blob.digest:
            raise DigestError(self._subject, f"holds {found} where {self._blob.digest} is stated")

    def copy(self) -> Checked:
        """Return an equal one that counts on by itself."""
        twin = Checked(self._blob, subject=self._subject)
        twin.count, twin._sha256 = self.count, self._sha256.copy()
        return twin
