"""A medium with bytes that the disk does not give back: damage like any other, named, and mended from a copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from bundler.adapters.archive_file import ArchiveFile
from bundler.errors import DigestError, LocalResourceError, UnreadableError
from bundler.ports import ByteSource
from bundler.transfer import Pace
from bundler.wiring.parts import parts_found, parts_source
from bundler.workflows.repair import RepairRequest, repair_file, repair_parts
from tests.fakes.archives import sample
from tests.fakes.sliced import Sliced, sliced

SAMPLE = sample()
ROOT = SAMPLE.layout.root.digest
LARGEST = max(SAMPLE.layout.blobs, key=lambda member: member.size)


class Scratched:
    """A file with a hole that cannot be read."""

    def __init__(self, inner: ArchiveFile, start: int, end: int) -> None:
        self.name = inner.name
        self.size = inner.size
        self._inner = inner
        self._hole = start, end

    def read_at(self, offset: int, length: int) -> bytes:
        return b"".join(map(bytes, self.stream(offset, length)))

    def stream(self, offset: int, length: int) -> Iterator[memoryview]:
        start, end = self._hole
        if offset < end and start < offset + length:
            raise UnreadableError(self.name, f"cannot be read at byte {start}: Input/output error")
        yield from self._inner.stream(offset, length)


@pytest.fixture
def cut(tmp_path: Path) -> Sliced:
    (tmp_path / "site").mkdir()
    return sliced(SAMPLE, tmp_path / "site")


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[ArchiveFile]:
    (tmp_path / "copy").mkdir()
    with ArchiveFile.open(SAMPLE.build(tmp_path / "copy")) as opened:
        yield opened


@contextmanager
def scratched(name: str, *, parts: tuple[int, ...], at: int = 20_000) -> Iterator[ByteSource]:
    """Open a file; of these parts 4096 bytes cannot be read."""
    with ArchiveFile.open(Path(name)) as opened:
        is_hit = any(name.endswith(f".{number:03d}") for number in parts)
        yield Scratched(opened, at, at + 4096) if is_hit else opened


def whole(name: str) -> AbstractContextManager[ByteSource]:
    return ArchiveFile.open(Path(name))


@pytest.mark.parametrize("at", [0, 20_000, 39_000])
def test_parts_that_cannot_be_read_are_mended_from_a_copy(cut: Sliced, copy: ArchiveFile, at: int) -> None:
    request = RepairRequest(path=cut.table_path, copies=(copy,))
    with parts_found(
        str(cut.table_path), (), open_one=lambda name: scratched(name, parts=(0, 2), at=at), pace=Pace()
    ) as source:
        outcome = repair_parts(source, request, pace=Pace())
    assert outcome.mended == ("sample-7.tar.000", "sample-7.tar.002")
    assert b"".join(cut.path(part.number).read_bytes() for part in cut.parts) == cut.whole


@pytest.mark.parametrize("at", [0, LARGEST.offset, SAMPLE.layout.total_bytes - 500])
def test_a_file_that_cannot_be_read_somewhere_is_mended_from_a_copy(
    tmp_path: Path, cut: Sliced, copy: ArchiveFile, at: int
) -> None:
    (tmp_path / "out").mkdir()
    request = RepairRequest(path=Path(copy.name), copies=(copy,), out=tmp_path / "out", expect=ROOT)
    outcome = repair_file(Scratched(copy, at, at + 100), request, pace=Pace())
    assert outcome.written[0].read_bytes() == cut.whole


def test_a_copy_that_cannot_be_read_is_passed_over(cut: Sliced, copy: ArchiveFile) -> None:
    cut.flip(1)
    others = (Scratched(copy, 0, copy.size), Scratched(copy, LARGEST.offset, copy.size), copy)
    request = RepairRequest(path=cut.table_path, copies=others)
    with parts_found(str(cut.table_path), (), open_one=whole, pace=Pace()) as source:
        assert repair_parts(source, request, pace=Pace()).mended == ("sample-7.tar.001",)
    assert cut.path(1).read_bytes() == cut.whole[40_000:80_000]


def test_verify_names_every_part_that_cannot_be_read(cut: Sliced) -> None:

    def opener(name: str) -> AbstractContextManager[ByteSource]:
        return scratched(name, parts=(0, 2))

    with (
        pytest.raises(DigestError, match=r"tar\.000 cannot be read at byte 20000.*tar\.002 cannot be read") as caught,
        parts_source(str(cut.table_path), (), open_one=opener, pace=Pace(), thorough=True) as source,
    ):
        source.read_at(0, source.size)
    assert "--from COPY" in caught.value.hint


def test_a_disk_that_cannot_be_written_to_is_no_damage_of_a_copy(cut: Sliced, copy: ArchiveFile) -> None:
    """Every copy would be tried in vain."""
    cut.path(1).unlink()
    (cut.folder / "sample-7.tar.001.repair").mkdir()
    request = RepairRequest(path=cut.table_path, copies=(copy,))
    with (
        parts_found(str(cut.table_path), (), open_one=whole, pace=Pace()) as source,
        pytest.raises(LocalResourceError, match="cannot be mended"),
    ):
        repair_parts(source, request, pace=Pace())
