"""A blob that comes in pieces: kept when it is finished, and nothing of it before."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bundler import cache as module
from bundler.cache import Cache
from bundler.domain.digest import Digest
from bundler.errors import DigestError, LocalResourceError
from bundler.transfer import parallel_map


def files(folder: Path) -> list[str]:
    """All that a cache holds, whole or not; the lock is no content."""
    return [path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]


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


BEGUN = """
import sys, time
from pathlib import Path
from bundler.cache import Cache
blob = Cache(Path(sys.argv[1])).begin()
blob.write(b"x" * 70_000)
print("begun", flush=True)
time.sleep(60)
"""


@contextmanager
def writing(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process, in the middle of a blob."""
    process = subprocess.Popen([sys.executable, "-c", BEGUN, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"begun\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_what_a_killed_process_left_is_removed_by_the_next_blob(tmp_path: Path) -> None:
    with writing(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(files(tmp_path)) == 1
    digest = Cache(tmp_path).put(b"abc")
    assert files(tmp_path) == [digest.hex]


def test_what_another_process_or_thread_is_still_writing_is_left_alone(tmp_path: Path) -> None:
    with writing(tmp_path), Cache(tmp_path).begin() as ours:
        ours.write(b"ours")
        theirs = {*files(tmp_path)}
        digest = Cache(tmp_path).put(b"abc")
        assert len(theirs) == 2
        assert {*files(tmp_path)} == {*theirs, digest.hex}
        assert ours.finish() == (Digest.of(b"ours"), 4)


def test_blobs_that_end_while_others_begin_are_all_kept(tmp_path: Path) -> None:
    digests = parallel_map(lambda number: Cache(tmp_path).put(b"%d" % number), range(300), workers=16)
    assert sorted(files(tmp_path)) == sorted(digest.hex for digest in digests)
