"""The archive on a local disk: exact reads, one descriptor, nothing changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bundler.adapters.archive_file import ArchiveFile
from bundler.adapters.buffers import BUFFER_BYTES
from bundler.errors import FormatError, LocalResourceError, UnreadableError
from bundler.ports import ByteSource
from bundler.transfer import parallel_map
from tests.fakes.images import layer_bytes

CONTENT = layer_bytes("archive", BUFFER_BYTES + 1000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.tar"
    path.write_bytes(CONTENT)
    return path


def test_it_is_a_byte_source(path: Path) -> None:
    with ArchiveFile.open(path) as file:
        source: ByteSource = file
        assert (source.name, source.size) == (str(path), len(CONTENT))


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 0), (0, 5), (7, BUFFER_BYTES), (0, len(CONTENT)), (len(CONTENT), 0)]
)
def test_exactly_what_was_asked_for_is_read(path: Path, offset: int, length: int) -> None:
    with ArchiveFile.open(path) as file:
        assert file.read_at(offset, length) == CONTENT[offset : offset + length]
        chunks = [bytes(chunk) for chunk in file.stream(offset, length)]
    assert b"".join(chunks) == CONTENT[offset : offset + length]
    assert all(len(chunk) <= BUFFER_BYTES for chunk in chunks)


def test_streams_at_one_time_have_a_buffer_each_and_later_ones_take_these_again(path: Path) -> None:
    with ArchiveFile.open(path) as file:
        first, second = file.stream(0, BUFFER_BYTES), file.stream(1000, BUFFER_BYTES)
        a, b = next(first), next(second)
        assert (bytes(a), bytes(b)) == (CONTENT[:BUFFER_BYTES], CONTENT[1000 : 1000 + BUFFER_BYTES])
        buffers = {id(a.obj), id(b.obj)}
        first.close()
        second.close()
        for _ in range(5):
            assert {id(chunk.obj) for chunk in file.stream(0, len(CONTENT))} <= buffers


@pytest.mark.parametrize(("offset", "length"), [(0, len(CONTENT) + 1), (len(CONTENT), 1), (1 << 60, 1), (0, 1 << 60)])
def test_what_lies_behind_the_end_is_refused_without_taking_memory(path: Path, offset: int, length: int) -> None:
    with ArchiveFile.open(path) as file:
        with pytest.raises(FormatError, match="is cut"):
            file.read_at(offset, length)
        with pytest.raises(FormatError, match="is cut"):
            for _ in file.stream(offset, length):
                pass


def test_a_file_that_shrinks_under_our_hands_is_cut(path: Path) -> None:
    with ArchiveFile.open(path) as file:
        os.truncate(path, 10)
        with pytest.raises(FormatError, match="is cut"):
            file.read_at(0, 20)


def test_reading_changes_nothing_and_needs_no_right_to_write(path: Path) -> None:
    path.chmod(0o444)
    before = path.stat()
    with ArchiveFile.open(path) as file:
        file.read_at(0, 10)
        descriptor = file._handle
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(descriptor, b"x", 0)
    after = path.stat()
    assert (before.st_mtime_ns, before.st_size, before.st_mode) == (after.st_mtime_ns, after.st_size, after.st_mode)


def test_several_threads_read_at_once(path: Path) -> None:
    with ArchiveFile.open(path) as file:
        offsets = range(0, len(CONTENT) - 5000, 5000)
        parts = parallel_map(lambda at: b"".join(map(bytes, file.stream(at, 5000))), offsets, workers=4)
    assert parts == [CONTENT[at : at + 5000] for at in offsets]


def test_a_closed_file_is_closed(path: Path) -> None:
    file = ArchiveFile.open(path)
    file.close()
    file.close()
    with pytest.raises(UnreadableError, match="cannot be read at byte 3"):
        file.read_at(3, 1)


def test_a_file_that_may_not_be_opened_is_the_hosts_problem(tmp_path: Path) -> None:
    with pytest.raises(LocalResourceError, match="cannot be opened"):
        ArchiveFile.open(tmp_path / ("x" * 300))
