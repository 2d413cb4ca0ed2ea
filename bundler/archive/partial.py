"""`STEM.tar.partial`: one process's file with all of its space reserved, which becomes the archive by rename."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
from pathlib import Path

from bundler.atomic import sync_folder
from bundler.errors import LocalResourceError, LockedError

WRITE_OUT_BYTES = 32 << 20
_SYNC_FILE_RANGE_WRITE = 2
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class PartialFile:
    """The file behind an archive that is being built. Every failure of the disk is a LocalResourceError."""

    def __init__(self, final: Path) -> None:
        self.final = final
        self.path = final.with_name(final.name + ".partial")
        self._handle = -1
        self._unsent = 0

    def open(self, size: int) -> None:
        """Take the file for this process alone and reserve `size` bytes, before anything is fetched.

        Raises:
            LockedError: another build of the same archive is running.
            LocalResourceError: not enough space; says how much is missing.
        """
        try:
            self._handle = self._take()
        except OSError as error:
            raise self._disk_error(error) from error
        try:
            self._reserve(size)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file; it stays for the next run."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def write(self, content: memoryview | bytes, offset: int) -> None:
        """Put `content` at `offset`, all of it."""
        view = memoryview(content)
        try:
            while view:
                count = os.pwrite(self._handle, view, offset)
                view, offset = view[count:], offset + count
                self._unsent += count  # not exact among threads, and need not be
        except OSError as error:
            raise self._disk_error(error) from error
        if self._unsent >= WRITE_OUT_BYTES:
            self._unsent = 0
            _write_out(self._handle)

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes there; space that was only reserved reads as zeros."""
        try:
            return os.pread(self._handle, length, offset)
        except OSError as error:
            raise self._disk_error(error) from error

    def sync(self) -> None:
        """Make the content durable."""
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise self._disk_error(error) from error

    def rename(self) -> None:
        """Give the file its final name."""
        try:
            self.path.replace(self.final)
        except OSError as error:
            raise self._disk_error(error) from error

    def sync_name(self) -> None:
        """Make the final name durable."""
        try:
            sync_folder(self.final.parent)
        except OSError as error:
            raise self._disk_error(error) from error

    def _take(self) -> int:
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A file that lost this name while we waited for it is another build's finished archive: not ours.
                if self._has_name(handle):
                    return handle
            except BlockingIOError as error:
                os.close(handle)
                hint = "Wait until it has ended, then run the same command again."
                raise LockedError(str(self.path), "another build of this archive is running", hint=hint) from error
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)

    def _has_name(self, handle: int) -> bool:
        try:
            return os.path.samestat(self.path.stat(), os.fstat(handle))
        except FileNotFoundError:
            return False

    def _reserve(self, size: int) -> None:
        before = os.fstat(self._handle).st_size
        try:
            _allocate(self._handle, size)
            if before > size:
                os.ftruncate(self._handle, size)
        except OSError as error:
            if error.errno in NO_SPACE:
                raise self._no_space(error, size, before) from error
            raise self._disk_error(error) from error

    def _no_space(self, error: OSError, size: int, before: int) -> LocalResourceError:
        """Give back what the failed reservation took; a file that held nothing before goes away."""
        if before == 0:
            self.path.unlink(missing_ok=True)
        os.ftruncate(self._handle, before)
        held = os.fstat(self._handle).st_blocks * 512
        disk = os.fstatvfs(self._handle)
        free = disk.f_frsize * (disk.f_bfree if os.geteuid() == 0 else disk.f_bavail)
        lacking = size - held - free
        reason = f"{lacking} bytes are missing there" if lacking > 0 else f"{error.strerror}"
        return LocalResourceError(
            str(self.final.parent),
            f"has no room for an archive of {size} bytes: {reason}",
            safe="Nothing was fetched." if before == 0 else "What an earlier run fetched is kept.",
            hint="Make room, or name another folder with --out, then run the same command again.",
        )

    def _disk_error(self, error: OSError) -> LocalResourceError:
        return LocalResourceError(
            str(self.path),
            f"cannot be used: {error.strerror}",
            safe="What was fetched completely is kept.",
            hint="Repair or free the disk, then run the same command again.",
        )


def _allocate(handle: int, size: int) -> None:
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        os.ftruncate(handle, size)


def _write_out(handle: int) -> None:
    """Let the disk begin with what is in memory (sync_file_range(2)), so that the last fsync has little left to do.

    Where a file system or libc has no such call, that fsync takes longer, and that is all.
    """
    call = getattr(_libc(), "sync_file_range", None)
    if call is not None:
        call(handle, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
