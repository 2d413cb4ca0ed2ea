"""Slicing: parts that are the archive, never twice the disk, and no moment at which a byte is lost."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from bundler.archive.slicing import finish_slicing, slice_archive, table_path
from bundler.archive.writer import no_failpoint
from bundler.domain.parts import parse_table
from bundler.errors import ConflictError, DigestError, FormatError, LocalResourceError, LockedError
from tests.fakes.archives import sample
from tests.fakes.sliced import PART_BYTES, sliced

SAMPLE = sample()
ROOT = SAMPLE.layout.root.digest


class Killed(BaseException):
    """What SIGKILL does, where a test can see it."""


def test_the_parts_are_the_archive_and_the_archive_is_gone(tmp_path: Path) -> None:
    cut = sliced(SAMPLE, tmp_path)
    assert len(cut.parts) > 2
    assert b"".join(cut.path(part.number).read_bytes() for part in cut.parts) == cut.whole
    assert cut.table.archive.sha256 == hashlib.sha256(cut.whole).hexdigest()
    assert cut.table.root == ROOT
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"sample-7.parts.json", *(part.name for part in cut.parts)}


def test_an_archive_below_the_size_is_one_part_that_was_not_copied(tmp_path: Path) -> None:
    archive = SAMPLE.build(tmp_path)
    inode = archive.stat().st_ino
    slice_archive(archive, root=ROOT, part_bytes=1 << 30, failpoint=no_failpoint)
    assert (tmp_path / "sample-7.tar.000").stat().st_ino == inode


def test_never_more_than_one_part_stands_twice_on_the_disk(tmp_path: Path) -> None:
    archive = SAMPLE.build(tmp_path)
    size = archive.stat().st_size
    seen = list[int]()

    def look(name: str) -> None:
        seen.append(sum(path.stat().st_size for path in tmp_path.iterdir() if ".json" not in path.name))

    slice_archive(archive, root=ROOT, part_bytes=PART_BYTES, failpoint=look)
    assert min(seen) == size
    assert max(seen) <= size + PART_BYTES


def failpoints(folder: Path) -> int:
    """How many failpoints a slicing passes."""
    folder.mkdir()
    names = list[str]()
    slice_archive(SAMPLE.build(folder), root=ROOT, part_bytes=PART_BYTES, failpoint=names.append)
    return len(names)


def test_killed_anywhere_it_goes_on_and_nothing_half_made_has_a_final_name(tmp_path: Path) -> None:
    count = failpoints(tmp_path / "undisturbed")
    expected = {path.name: path.read_bytes() for path in (tmp_path / "undisturbed").iterdir()}
    assert count > 12
    for stop in range(count):
        folder = tmp_path / str(stop)
        folder.mkdir()
        archive = SAMPLE.build(folder)
        whole = archive.read_bytes()
        passed = list[str]()

        def kill(name: str, passed: list[str] = passed, stop: int = stop) -> None:
            passed.append(name)
            if len(passed) == stop + 1:
                raise Killed

        with pytest.raises(Killed):
            slice_archive(archive, root=ROOT, part_bytes=PART_BYTES, failpoint=kill)
        if archive.exists():
            assert archive.read_bytes() == whole
        for path in folder.glob("*.tar.[0-9][0-9][0-9]"):
            assert path.read_bytes() == expected[path.name]
        if table_path(archive).exists():
            assert {path.name for path in folder.iterdir()} == expected.keys()
        if finish_slicing(archive, failpoint=no_failpoint) is None and archive.exists():
            slice_archive(archive, root=ROOT, part_bytes=PART_BYTES, failpoint=no_failpoint)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected


def test_parts_of_an_earlier_archive_do_not_stay_beside_those_of_this_one(tmp_path: Path) -> None:
    (tmp_path / "sample-7.parts.json").write_bytes(b"old")
    for number in (0, 1, 40, 999):
        (tmp_path / f"sample-7.tar.{number:03d}").write_bytes(b"old")
    cut = sliced(SAMPLE, tmp_path)
    assert {path.name for path in tmp_path.glob("*.tar.*")} == {part.name for part in cut.parts}
    assert parse_table(cut.table_path.read_bytes(), source="t") == cut.table


def test_without_room_for_a_part_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = SAMPLE.build(tmp_path)
    whole = archive.read_bytes()
    write = os.write

    def full(handle: int, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(LocalResourceError, match="No space left") as caught:
        slice_archive(archive, root=ROOT, part_bytes=PART_BYTES, failpoint=no_failpoint)
    assert "Every byte of the archive is kept" in caught.value.safe
    assert list(tmp_path.glob("*.tar.*.partial")) == []
    monkeypatch.setattr(os, "write", write)
    assert finish_slicing(archive, failpoint=no_failpoint) is not None
    assert b"".join(path.read_bytes() for path in sorted(tmp_path.glob("*.tar.*"))) == whole


def test_two_processes_do_not_cut_one_archive(tmp_path: Path) -> None:
    archive = SAMPLE.build(tmp_path)

    def again(name: str) -> None:
        if name == "cut":
            finish_slicing(archive, failpoint=no_failpoint)

    with pytest.raises(LockedError, match="another process"):
        slice_archive(archive, root=ROOT, part_bytes=PART_BYTES, failpoint=again)


def test_a_disk_that_forgets_between_two_reads_is_noticed(tmp_path: Path) -> None:
    archive = SAMPLE.build(tmp_path)

    def flip(name: str) -> None:
        if name == "taken":
            rest = tmp_path / "sample-7.tar.slicing"
            raw = bytearray(rest.read_bytes())
            raw[-5000] ^= 1
            rest.write_bytes(raw)

    with pytest.raises(DigestError, match="read otherwise than before"):
        slice_archive(archive, root=ROOT, part_bytes=PART_BYTES, failpoint=flip)


def test_a_second_slicing_changes_nothing_of_the_first(tmp_path: Path) -> None:
    """With another size it once put its plan in the place of the first one's, and good parts were removed by it."""
    archive = SAMPLE.build(tmp_path)
    whole, refused = archive.read_bytes(), list[str]()

    def second(name: str) -> None:
        if name in ("planned", "taken", "cut"):
            for slicing in (
                lambda: slice_archive(archive, root=ROOT, part_bytes=4 * PART_BYTES, failpoint=no_failpoint),
                lambda: finish_slicing(archive, failpoint=no_failpoint),
            ):
                with pytest.raises((LockedError, LocalResourceError)):
                    slicing()
                refused.append(name)

    table = slice_archive(archive, root=ROOT, part_bytes=PART_BYTES, failpoint=second)
    assert len(refused) > 6
    parts = parse_table(table.read_bytes(), source="x").parts
    assert b"".join((tmp_path / f"sample-7.tar.{number:03}").read_bytes() for number in range(len(parts))) == whole


@pytest.mark.parametrize("raw", [b"", b"{}", b"garbage"])
def test_a_plan_that_cannot_be_read_says_what_to_remove(tmp_path: Path, raw: bytes) -> None:
    archive = SAMPLE.build(tmp_path)
    archive.rename(tmp_path / "sample-7.tar.slicing")
    plan = tmp_path / "sample-7.parts.json.partial"
    plan.write_bytes(raw)
    with pytest.raises(FormatError, match="parts") as caught:
        finish_slicing(archive, failpoint=no_failpoint)
    assert f"Remove {tmp_path}/sample-7.tar.slicing and {plan}, then build again." in caught.value.hint


def test_what_stands_in_the_way_of_a_part_is_named(tmp_path: Path) -> None:
    archive = SAMPLE.build(tmp_path)
    whole, blocked = archive.read_bytes(), tmp_path / "sample-7.tar.001"
    blocked.mkdir()
    with pytest.raises(LocalResourceError) as caught:
        slice_archive(archive, root=ROOT, part_bytes=40_000, failpoint=no_failpoint)
    assert str(blocked) in caught.value.cause
    assert "room" not in caught.value.hint
    blocked.rmdir()
    assert finish_slicing(archive, failpoint=no_failpoint) is not None
    assert b"".join(path.read_bytes() for path in sorted(tmp_path.glob("*.tar.*"))) == whole


def test_a_plan_that_does_not_fit_the_parts_removes_none(tmp_path: Path) -> None:
    cut = sliced(SAMPLE, tmp_path)
    archive = tmp_path / "sample-7.tar"
    cut.path(1).write_bytes(b"other")
    table_path(archive).rename(tmp_path / "sample-7.parts.json.partial")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ConflictError, match="is not the part"):
        finish_slicing(archive, failpoint=no_failpoint)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
