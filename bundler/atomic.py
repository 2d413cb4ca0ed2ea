"""The one way to give a file its final name: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from bundler.errors import ConflictError, LocalResourceError


def publish(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Give `path` the content `content`, or leave it as it was: temporary file, fsync, rename, fsync of the folder.

    Raises:
        LocalResourceError: the disk is full, the folder is missing or not writable.
    """
    publish_stream(path, [content], mode=mode)


def publish_stream(path: Path, chunks: Iterable[bytes | memoryview], *, mode: int = 0o644) -> None:
    """The same for content that arrives in chunks; where they end in an error, `path` stays as it was.

    Raises:
        LocalResourceError: the disk is full, the folder is missing or not writable.
    """
    _publish(path, chunks, mode, lambda temporary: temporary.replace(path))


def publish_new(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """The same for a name that must not exist yet; what has it already is never replaced.

    Raises:
        ConflictError: something has the name.
        LocalResourceError: the disk is full, the folder is missing or not writable.
    """

    def link(temporary: Path) -> None:
        try:
            path.hardlink_to(temporary)
        except FileExistsError as error:
            raise ConflictError(str(path), "exists already") from error
        temporary.unlink()

    _publish(path, [content], mode, link)


def refuse_unwritable(path: Path) -> None:
    """Do nothing, unless `path` cannot be given content: for whoever has to know before long work.

    Raises:
        LocalResourceError: it is a folder; or its folder is missing, not writable or full.
    """
    if path.is_dir():
        raise LocalResourceError(str(path), f"cannot be written: {os.strerror(errno.EISDIR)}")
    _publish(path, (), 0o600, lambda temporary: temporary.unlink())


def _publish(path: Path, chunks: Iterable[bytes | memoryview], mode: int, give_name: Callable[[Path], object]) -> None:
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            give_name(temporary)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise LocalResourceError(str(path), f"cannot be written: {error.strerror}") from error


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
