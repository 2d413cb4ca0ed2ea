"""A blob that comes in pieces: kept when it is finished, and nothing of it before."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from bundler import cache as module
from bundler.cache import Cache
from bundler.domain.digest import Digest
from bundler.errors import DigestError, LocalResourceError


def files(folder: Path) -> list[str]:
    return [path.name for path in (folder / "blobs" / "sha256").iterdir()]


def test_it_is_kept_under_its_digest(tmp_path: Path) -> None:
    with Cache(tmp_path).begin() as blob:
        blob.write(b"ab")
        blob.write(b"c")
        assert blob.finish() == (Digest.of(b"abc"), 3)
    assert files(tmp_path) == [hashlib.sha256(b"abc").hexdigest()]


def test_what_is_not_finished_or_not_expected_leaves_nothing(tmp_path: Path) -> None:
    with Cache(tmp_path).begin() as blob:
        blob.write(b"abc")
    with pytest.raises(DigestError), Cache(tmp_path).begin() as blob:
        blob.finish(expect=Digest.of(b"other"))
    assert files(tmp_path) == []


def test_large_ones_go_to_the_disk_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(module, "SYNC_BYTES", 4)
    monkeypatch.setattr(os, "fdatasync", lambda handle: synced.append(os.fstat(handle).st_size))
    with Cache(tmp_path).begin() as blob:
        for piece in (b"ab", b"cdef", b"g"):
            blob.write(piece)
        blob.finish()
    assert synced == [6]


def test_a_disk_that_is_full_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "SYNC_BYTES", 1)
    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(LocalResourceError, match="No space left"), Cache(tmp_path).begin() as blob:
        blob.write(b"abc")
    assert files(tmp_path) == []
