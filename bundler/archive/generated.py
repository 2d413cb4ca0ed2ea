"""The content of the members that we write ourselves, made whenever it is read.

Lock and members.jsonl have hundreds of bytes a blob: kept while a hundred thousand are fetched, they would be most of
what a build needs.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping

from bundler.domain.digest import Digest

CHUNK_BYTES = 1 << 20
Made = Callable[[], Iterable[bytes]]
"""Gives the content in pieces, the same each time."""


class Generated(Mapping[str, bytes]):
    """Path -> content, which is made anew each time."""

    def __init__(self, makers: Mapping[str, Made]) -> None:
        self._makers = makers

    def __getitem__(self, path: str) -> bytes:
        joined = io.BytesIO()
        joined.writelines(self._makers[path]())
        return joined.getvalue()

    def __contains__(self, path: object) -> bool:
        return path in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield the content in chunks of about 1 MiB."""
        return _chunked(self._makers[path]())


def measured(made: Made) -> tuple[int, Digest]:
    """Return size in bytes and digest of content that is never there as a whole."""
    size, sha256 = 0, hashlib.sha256()
    for chunk in _chunked(made()):
        sha256.update(chunk)
        size += len(chunk)
    return size, Digest("sha256:" + sha256.hexdigest())


def _chunked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in fewer pieces: each costs a call to hash and to write, which a line is not worth."""
    waiting: list[bytes] = []
    count = 0
    for piece in pieces:
        waiting.append(piece)
        count += len(piece)
        if count >= CHUNK_BYTES:
            yield b"".join(waiting)
            waiting, count = [], 0
    if waiting:
        yield b"".join(waiting)
