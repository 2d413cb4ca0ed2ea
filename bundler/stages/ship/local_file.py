"""A file on its way into S3: open once, read by any number of threads, refused where it changes; and a part of it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from bundler.domain.digest import Digest
from bundler.domain.shipment import Part, Slot
from bundler.errors import ConflictError, DigestError, LocalResourceError, UnreadableError, UsageError
from bundler.transfer import check_stopped

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK_BYTES = 1 << 20


class LocalFile:
    """A file that is open, and what it looked like when it was opened; any number of threads may read it."""

    def __init__(self, path: Path, handle: int, *, expect: Digest | None = None, hint: str = "") -> None:
        status = os.fstat(handle)
        self.path = path
        self.size = status.st_size
        self._expect = expect
        self._hint = hint
        self._handle = handle
        self._changed_ns = status.st_mtime_ns

    @classmethod
    def open(cls, path: Path, *, expect: Digest | None = None, hint: str = "") -> LocalFile:
        """Open `path`.

        Args:
            path: the file.
            expect: what its SHA-256 must be; no object is made of another one.
            hint: what to do where it is another one.

        Raises:
            UsageError: no such file, or an empty one.
            LocalResourceError: it cannot be read.
        """
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise UsageError(str(path), "does not exist") from error
        except OSError as error:
            raise LocalResourceError(str(path), f"cannot be read: {error.strerror}") from error
        opened = cls(path, handle, expect=expect, hint=hint)
        if not opened.size:
            opened.close()
            raise UsageError(str(path), "is empty")
        return opened

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill `view` from `offset`; return how many bytes there were.

        Raises:
            UnreadableError: the disk fails.
        """
        try:
            return os.preadv(self._handle, [view], offset)
        except OSError as error:
            raise UnreadableError(str(self.path), f"cannot be read at byte {offset}: {error.strerror}") from error

    def chunks(self, place: Slot | Part) -> Iterator[memoryview]:
        """Yield a part in chunks of at most 1 MiB in one buffer that is used again.

        Raises:
            ConflictError: the file became shorter.
            UnreadableError: the disk fails.
        """
        buffer = memoryview(bytearray(min(CHUNK_BYTES, place.size)))
        offset, end = place.offset, place.offset + place.size
        while offset < end:
            check_stopped()
            count = self.read_into(buffer[: min(len(buffer), end - offset)], offset)
            if not count:
                raise self._changed()
            yield buffer[:count]
            offset += count

    def refuse_changed(self) -> None:
        """Do nothing, unless somebody wrote to the file, or put another one in its place.

        Raises:
            ConflictError: so it is.
        """
        try:
            found = [os.fstat(self._handle), self.path.stat()]
        except OSError as error:
            raise self._changed() from error
        if any((status.st_size, status.st_mtime_ns) != (self.size, self._changed_ns) for status in found):
            raise self._changed()

    def refuse_other(self, found: Digest) -> None:
        """Do nothing, unless the file has another SHA-256 than it must have.

        Raises:
            DigestError: so it is.
        """
        if self._expect is not None and found != self._expect:
            raise DigestError(str(self.path), "is damaged, or a part of another bundle", hint=self._hint)

    def _changed(self) -> ConflictError:
        hint = "Let nothing write to it, then run the same command again."
        return ConflictError(str(self.path), "changed while it was sent", hint=hint)


class Slice(io.RawIOBase):
    """A part of a file that looks like a file.

    Where the file became shorter it is filled up: S3 refuses the part by its digest, and nobody waits for the rest.
    """

    def __init__(self, local: LocalFile, part: Part, reached: Callable[[int], None]) -> None:
        super().__init__()
        self._local = local
        self._part = part
        self._reached = reached
        self._position = 0

    def __len__(self) -> int:
        return self._part.size

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Bytes from the start of the part."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place in the part."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._part.size}[whence]
        self._position = max(0, min(self._part.size, base + offset))
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer` with what comes next; return how many bytes that are."""
        view = memoryview(buffer).cast("B")[: self._part.size - self._position]
        if not view:
            return 0
        self._reached(self._position)
        count = self._local.read_into(view, self._part.offset + self._position)
        view[count:] = bytes(len(view) - count)
        self._position += len(view)
        return len(view)
