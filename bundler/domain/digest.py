"""Content digests (OCI image-spec, descriptor.md §digests); only sha256 is accepted."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from bundler.errors import FormatError

_FORM = re.compile(r"sha256:[0-9a-f]{64}\Z")


def is_digest(text: str) -> bool:
    """Whether `text` spells a digest."""
    return _FORM.match(text) is not None


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A SHA-256 content digest in its one legal spelling, `sha256:` and 64 lower-case hex digits."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Return the digest that `text` spells.

        Raises:
            FormatError: any other algorithm, case, length or trailing character.
        """
        if not is_digest(text):
            raise FormatError(repr(text[:100]), "is not a sha256 digest")
        return cls(text)

    @classmethod
    def of(cls, content: bytes) -> Digest:
        """Return the digest of `content`."""
        return cls("sha256:" + hashlib.sha256(content).hexdigest())

    @classmethod
    def of_pieces(cls, pieces: Iterable[bytes]) -> Digest:
        """Return the digest of content that is never there as a whole."""
        sha256 = hashlib.sha256()
        for piece in pieces:
            sha256.update(piece)
        return cls("sha256:" + sha256.hexdigest())

    @property
    def hex(self) -> str:
        """The 64 hex digits."""
        return self.text[7:]

    @property
    def short(self) -> str:
        """The first twelve hex digits: enough for a person, never for a machine."""
        return self.text[7:19]

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text
