"""Blobs by digest on the builder's disk (BUNDLE_CACHE_DIR, else `$XDG_CACHE_HOME/eks-bundler`): it only saves time."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bundler.atomic import sync_folder
from bundler.domain.digest import Digest
from bundler.errors import DigestError, LocalResourceError

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of blobs; what is read from it is hashed again, and a damaged entry is dropped."""

    folder: Path

    def path(self, digest: Digest) -> Path:
        """Where the blob stands, or would."""
        return self.folder / "blobs" / "sha256" / digest.hex

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
        folder = self.path(Digest("sha256:" + "0" * 64)).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=folder, prefix=".new-")
        except OSError as error:
            raise LocalResourceError(str(folder), f"cannot be written: {error.strerror}") from error
        temporary, sha256, size = Path(name), hashlib.sha256(), 0
        try:
            with os.fdopen(handle, "wb") as file:
                for chunk in chunks:
                    sha256.update(chunk)
                    size += file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            digest = Digest("sha256:" + sha256.hexdigest())
            if expect is not None and digest != expect:
                raise DigestError(str(expect), f"the content received has the digest {digest}")
            temporary.replace(self.path(digest))
            sync_folder(folder)
        except OSError as error:
            raise LocalResourceError(str(folder), f"cannot be written: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)
        return digest, size

    def drop(self, digest: Digest) -> None:
        """Forget a blob."""
        with suppress(FileNotFoundError):
            self.path(digest).unlink()


class CachePlace:
    """The place of one blob that comes in pieces; it is there after `commit`, and nothing of it before."""

    def __init__(self, cache: Cache, digest: Digest) -> None:
        self._path = cache.path(digest)
        self._digest = digest
        self._sha256 = hashlib.sha256()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.NamedTemporaryFile(dir=self._path.parent, prefix=".new-")  # noqa: SIM115 - commit closes it
        except OSError as error:
            raise self._unwritable(error) from error

    def write(self, chunk: memoryview | bytes) -> None:
        """Take the next bytes.

        Raises:
            LocalResourceError: the disk is full.
        """
        self._sha256.update(chunk)
        try:
            self._file.write(chunk)
        except OSError as error:
            raise self._unwritable(error) from error

    def restart(self) -> None:
        """Forget what was written."""
        self._file.seek(0)
        self._file.truncate()
        self._sha256 = hashlib.sha256()

    def commit(self) -> None:
        """Check the digest, then let the blob count.

        Raises:
            DigestError: the content is not what the digest names; nothing is kept.
            LocalResourceError: the disk is full.
        """
        try:
            with self._file as file:
                if self._sha256.hexdigest() != self._digest.hex:
                    raise DigestError(
                        str(self._digest), f"the content has the digest sha256:{self._sha256.hexdigest()}"
                    )
                file.flush()
                os.fsync(file.fileno())
                with suppress(FileExistsError):
                    os.link(file.name, self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> LocalResourceError:
        return LocalResourceError(str(self._path.parent), f"cannot be written: {error.strerror}")
