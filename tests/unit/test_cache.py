from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import IO

import pytest

from bundler.cache import Cache
from bundler.domain.digest import Digest
from bundler.errors import LocalResourceError


def test_a_blob_that_the_disk_does_not_give_is_named_with_what_to_do(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    path = cache.path(cache.put(b"blob"))
    path.unlink()
    path.symlink_to("/proc/self/mem")  # reading its beginning is EIO, as on a bad disk
    digest = Digest.parse(f"sha256:{path.name}")
    with pytest.raises(LocalResourceError) as caught:
        list(cache.read(digest))
    assert caught.value.subject == str(path)
    assert "remove it" in caught.value.hint


def test_a_blob_that_is_not_there_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(Cache(tmp_path).read(Digest.of(b"blob")))


def test_a_file_system_that_locks_only_what_is_open_for_writing_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS emulates flock by byte ranges: flock(2)."""
    real = fcntl.flock

    def flock(file: IO[bytes] | int, operation: int) -> None:
        handle = file if isinstance(file, int) else file.fileno()
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    cache = Cache(tmp_path)
    with cache.begin() as first, cache.begin() as second:
        for blob in (first, second):
            blob.write(b"blob")
            assert blob.finish()[0] == Digest.of(b"blob")


def test_a_file_system_without_locks_is_served_and_nothing_there_is_taken_for_an_orphan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    cache = Cache(tmp_path)
    with cache.begin() as first, cache.begin() as second:
        for blob in (first, second):
            blob.write(b"blob")
            assert blob.finish()[0] == Digest.of(b"blob")
