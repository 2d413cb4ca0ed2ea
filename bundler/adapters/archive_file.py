"""An archive on a local disk: one descriptor for everything, opened read-only; the medium is never changed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from bundler.adapters.buffers import BUFFER_BYTES, Buffers
from bundler.errors import FormatError, LocalResourceError, UnreadableError, UsageError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class ArchiveFile:
    """The bytes of a regular file by offset (ports.ByteSource); safe for several threads at once.

    What is verified and what is used are bytes of the same open file, whatever happens to its name meanwhile.
    """

    def __init__(self, name: str, handle: int, size: int) -> None:
        self.name = name
        self.size = size
        self._handle = handle
        self._buffers = Buffers()

    @classmethod
    def open(cls, path: Path) -> ArchiveFile:
        """Open `path` read-only.

        Raises:
            UsageError: there is no such file.
            FormatError: a folder, pipe or device, or empty.
            LocalResourceError: it may not be read.
        """
        try:
            # O_NONBLOCK: a pipe without a writer is refused below, and is not waited for.
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UsageError(str(path), "does not exist", hint="Correct the path of the archive.") from error
        except OSError as error:
            raise _not_opened(path, error) from error
        try:
            return cls(str(path), handle, _regular_size(str(path), handle))
        except BaseException:
            os.close(handle)
            raise

    def __enter__(self) -> ArchiveFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        handle, self._handle = self._handle, -1
        self._buffers.clear()
        if handle >= 0:
            os.close(handle)

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`.

        Raises:
            FormatError: the file ends before.
            UnreadableError: the disk fails.
        """
        if offset + length > self.size:  # before memory is taken for a length that a damaged file made up
            raise self._ends(offset + length)
        parts: list[bytes] = []
        while length:
            parts.append(self._read(offset, length))
            offset, length = offset + len(parts[-1]), length - len(parts[-1])
        return b"".join(parts)

    def stream(self, offset: int, length: int) -> Iterator[memoryview]:
        """Yield exactly `length` bytes from `offset`, in chunks of at most 1 MiB in one buffer that is used again.

        Raises:
            FormatError: the file ends before.
            UnreadableError: the disk fails.
        """
        if length < BUFFER_BYTES:
            yield from self._chunks(memoryview(bytearray(length)), offset, length)
        else:
            with self._buffers.lend() as buffer:
                yield from self._chunks(buffer, offset, length)

    def _chunks(self, buffer: memoryview, offset: int, length: int) -> Iterator[memoryview]:
        end = offset + length
        while offset < end:
            chunk = buffer[: min(len(buffer), end - offset)]
            self._fill(chunk, offset)
            yield chunk
            offset += len(chunk)

    def _read(self, offset: int, length: int) -> bytes:
        try:
            content = os.pread(self._handle, length, offset)
        except OSError as error:
            raise self._unreadable(offset, error) from error
        if not content:
            raise self._ends(offset + length)
        return content

    def _fill(self, view: memoryview, offset: int) -> None:
        while view:
            try:
                count = os.preadv(self._handle, [view], offset)
            except OSError as error:
                raise self._unreadable(offset, error) from error
            if not count:
                raise self._ends(offset + len(view))
            view, offset = view[count:], offset + count

    def _unreadable(self, offset: int, error: OSError) -> UnreadableError:
        return UnreadableError(self.name, f"cannot be read at byte {offset}: {error.strerror}")

    def _ends(self, wanted: int) -> FormatError:
        return FormatError(
            self.name,
            f"is cut: it has {self.size} bytes, at least {wanted} are needed",
            hint="The archive is damaged: copy it across again.",
        )


def _not_opened(path: Path, error: OSError) -> LocalResourceError:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        hint = "Allow more open files, one for each part of each copy: ulimit -n 4096"
    else:
        hint = "Let it be read, then run the same command again."
    return LocalResourceError(str(path), f"cannot be opened: {error.strerror}", hint=hint)


def _regular_size(name: str, handle: int) -> int:
    status = os.fstat(handle)
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise FormatError(name, f"is {_KINDS.get(kind, 'something else')}, not an archive")
    if not status.st_size:
        raise FormatError(name, "is empty", hint="Copy the archive across again.")
    return status.st_size
