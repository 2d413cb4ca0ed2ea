"""Blobs by digest on the builder's disk (BUNDLE_CACHE_DIR, else `$XDG_CACHE_HOME/eks-bundler`): it only saves time."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from bundler.atomic import sync_folder
from bundler.domain.digest import Digest
from bundler.errors import DigestError, LocalResourceError

CHUNK_BYTES = 1 << 20
SYNC_BYTES = 32 << 20
_UNFINISHED = ".new"
_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of blobs; what is read from it is hashed again, and a damaged entry is dropped."""

    folder: Path

    def path(self, digest: Digest) -> Path:
        """Where the blob stands, or would."""
        return self.folder.joinpath("blobs", "sha256", digest.hex)

    def has(self, digest: Digest) -> bool:
        """Whether an entry with that name exists; only reading tells whether it is right."""
        return self.path(digest).is_file()

    def get(self, digest: Digest) -> bytes | None:
        """Return a small blob whole, None when it is absent or damaged (then it is dropped)."""
        try:
            content = self.path(digest).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(digest, error) from error
        if Digest.of(content) == digest:
            return content
        self.drop(digest)
        return None

    def read(self, digest: Digest) -> Iterator[bytes]:
        """Yield a blob in chunks of 1 MiB.

        Raises:
            DigestError: after the last chunk, when the content is not what the digest names; the entry is dropped.
            FileNotFoundError: no such entry.
            LocalResourceError: the disk does not give it.
        """
        sha256 = hashlib.sha256()
        try:
            with self.path(digest).open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    sha256.update(chunk)
                    yield chunk
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._unreadable(digest, error) from error
        if sha256.hexdigest() != digest.hex:
            self.drop(digest)
            raise DigestError(str(self.path(digest)), "the cache entry was damaged and has been dropped")

    def _unreadable(self, digest: Digest, error: OSError) -> LocalResourceError:
        hint = "The cache only saves time: remove it, or make it readable; then run the same command again."
        return LocalResourceError(str(self.path(digest)), f"cannot be read: {error.strerror}", hint=hint)

    def put(self, content: bytes) -> Digest:
        """Keep a small blob; return its digest."""
        return self.add([content])[0]

    def add(self, chunks: Iterable[bytes], *, expect: Digest | None = None) -> tuple[Digest, int]:
        """Keep a blob that arrives in chunks; return digest and size in bytes.

        Raises:
            DigestError: it is not `expect`; nothing is kept.
            LocalResourceError: the disk is full or not writable.
        """
        with self.begin() as blob:
            for chunk in chunks:
                blob.write(chunk)
            return blob.finish(expect=expect)

    def begin(self) -> NewBlob:
        """Begin a blob that comes in pieces; leaving its `with` before it is finished leaves nothing.

        What processes that were killed have left is removed.

        Raises:
            LocalResourceError: the folder is not writable.
        """
        folder = self.path(Digest("sha256:" + "0" * 64)).parent / _UNFINISHED
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / _LOCK).open("wb") as lock:
                if _locked(lock.fileno()):
                    _remove_orphans(folder)
                handle, name = tempfile.mkstemp(dir=folder)
                _locked(handle)
        except OSError as error:
            raise _unwritable(folder, error) from error
        return NewBlob(self, Path(name), os.fdopen(handle, "wb"))

    def drop(self, digest: Digest) -> None:
        """Forget a blob."""
        with suppress(FileNotFoundError):
            self.path(digest).unlink()


class NewBlob:
    """A blob on its way into a cache, hashed as it comes."""

    def __init__(self, cache: Cache, temporary: Path, file: BinaryIO) -> None:
        self._cache = cache
        self._temporary = temporary
        self._file = file
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._unsynced = 0

    def __enter__(self) -> NewBlob:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop()

    def drop(self) -> None:
        """Leave nothing of it, unless it is finished."""
        self._temporary.unlink(missing_ok=True)
        with suppress(OSError):  # what a full disk did not take is not wanted any more
            self._file.close()

    def write(self, chunk: bytes | memoryview) -> None:
        """Add to it; what is large goes to the disk on the way, so that the end is no long wait.

        Raises:
            LocalResourceError: the disk is full.
        """
        self._sha256.update(chunk)
        try:
            self._size += self._file.write(chunk)
            self._unsynced += len(chunk)
            if self._unsynced >= SYNC_BYTES:
                self._file.flush()
                os.fdatasync(self._file.fileno())
                self._unsynced = 0
        except OSError as error:
            raise _unwritable(self._temporary.parent, error) from error

    def restart(self) -> None:
        """Forget what came so far."""
        self._file.seek(0)
        self._file.truncate()
        self._sha256, self._size = hashlib.sha256(), 0

    def finish(self, *, expect: Digest | None = None) -> tuple[Digest, int]:
        """Keep it under its digest; return digest and size in bytes.

        Raises:
            DigestError: it is not `expect`; nothing is kept.
            LocalResourceError: the disk is full.
        """
        digest = Digest("sha256:" + self._sha256.hexdigest())
        if expect is not None and digest != expect:
            raise DigestError(str(expect), f"the content received has the digest {digest}")
        path = self._cache.path(digest)
        try:
            with self._file:  # held until it has its name: what nobody holds is taken for an orphan
                self._file.flush()
                os.fsync(self._file.fileno())
                self._temporary.replace(path)
            sync_folder(path.parent)
        except OSError as error:
            raise _unwritable(path.parent, error) from error
        return digest, self._size


class CachePlace:
    """The place of one blob whose digest is known; it is there after `commit`, and nothing of it before."""

    def __init__(self, cache: Cache, digest: Digest) -> None:
        self._blob = cache.begin()
        self._digest = digest
        weakref.finalize(self, self._blob.drop)

    def write(self, chunk: memoryview | bytes) -> None:
        """Take the next bytes.

        Raises:
            LocalResourceError: the disk is full.
        """
        self._blob.write(chunk)

    def restart(self) -> None:
        """Forget what was written."""
        self._blob.restart()

    def commit(self) -> None:
        """Check the digest, then let the blob count.

        Raises:
            DigestError: the content is not what the digest names; nothing is kept.
            LocalResourceError: the disk is full.
        """
        self._blob.finish(expect=self._digest)


def _remove_orphans(folder: Path) -> None:
    """Remove unfinished blobs that nobody writes any more: a process holds its own, and lets go of them when it ends.

    Whoever calls this holds the lock of the folder, so that no file is seen between its creation and its own lock.
    """
    for path in folder.iterdir():
        if path.name == _LOCK:
            continue
        with suppress(OSError), path.open("r+b") as file:  # NFS locks only what is open for writing (flock(2))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _locked(handle: int) -> bool:
    """Lock a file; False on a file system that knows no locks: there nothing is taken for an orphan."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            return False
        raise
    return True


def _unwritable(folder: Path, error: OSError) -> LocalResourceError:
    return LocalResourceError(str(folder), f"cannot be written: {error.strerror}")
