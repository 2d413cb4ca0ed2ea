"""Repair: only what is damaged is fetched, the damaged stays until the right is there, copies are never written to."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bundler.archive.members import Member
from bundler.cache import Cache
from bundler.domain.digest import Digest
from bundler.domain.lock import Lock
from bundler.errors import BundleError, DigestError, FormatError, LocalResourceError, LockedError, UsageError
from bundler.stages.fetch import Place
from bundler.wiring import complete_root
from bundler.wiring import repair as wiring
from bundler.wiring.repair import repaired
from bundler.workflows.repair import RepairOutcome, RepairRequest
from tests.fakes.archives import Sample, sample
from tests.fakes.sliced import PART_BYTES, Sliced, around, sliced

SAMPLE = sample()
ROOT = SAMPLE.layout.root.digest
BLOBS = [member for member in SAMPLE.layout.blobs if member.size]


class Killed(BaseException):
    """What SIGKILL does, where a test can see it."""


@pytest.fixture
def cut(tmp_path: Path) -> Sliced:
    (tmp_path / "site").mkdir()
    return sliced(SAMPLE, tmp_path / "site")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    (tmp_path / "copy").mkdir()
    return SAMPLE.build(tmp_path / "copy")


@pytest.fixture
def single(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    return SAMPLE.build(tmp_path / "site")


def repair(name: Path, *copies: Path, cache: Path | None = None, **changes: object) -> RepairOutcome:
    request = RepairRequest(path=name, **changes)  # type: ignore[arg-type]
    return repaired(str(name), [str(one) for one in copies], request, around(cache=cache or name.parent / "none"))


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def whole(cut: Sliced) -> bytes:
    return b"".join(cut.path(part.number).read_bytes() for part in cut.parts)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_right_parts_are_left_alone(cut: Sliced, copy: Path) -> None:
    before = {path: path.stat().st_ino for path in cut.folder.iterdir()}
    assert repair(cut.table_path, copy) == RepairOutcome(root=ROOT)
    assert {path: path.stat().st_ino for path in cut.folder.iterdir()} == before


def test_each_damaged_missing_and_cut_part_is_mended_and_no_other(cut: Sliced, copy: Path) -> None:
    before = contents(cut.folder)
    cut.flip(0)
    cut.path(1).unlink()
    cut.path(2).write_bytes(cut.path(2).read_bytes()[:100])
    outcome = repair(cut.table_path, copy)
    assert outcome.mended == tuple(part.name for part in cut.parts[:3])
    assert outcome.written == tuple(cut.path(part.number) for part in cut.parts[:3])
    assert contents(cut.folder) == before
    assert complete_root(cut.table_path, around()) == ROOT


def inside(cut: Sliced) -> tuple[int, Member]:
    """A member that stands in one part, and which."""
    step = cut.table.part_bytes
    member = next(one for one in reversed(BLOBS) if one.header_offset // step == (one.end - 1) // step)
    return member.header_offset // step, member


def test_of_a_damaged_part_only_the_damaged_members_are_fetched(cut: Sliced, copy: Path) -> None:
    number, member = inside(cut)
    cut.flip(number, at=member.offset - number * cut.table.part_bytes)
    outcome = repair(cut.table_path, copy)
    assert outcome.fetched_bytes == member.end - member.header_offset
    assert whole(cut) == cut.whole


def test_a_missing_part_is_fetched_and_no_byte_more(cut: Sliced, copy: Path) -> None:
    cut.path(1).unlink()
    assert repair(cut.table_path, copy).fetched_bytes == PART_BYTES
    assert whole(cut) == cut.whole


@pytest.mark.parametrize("form", ["file", "folder of the file", "table", "folder of parts", "part"])
def test_a_copy_is_named_as_people_name_it(cut: Sliced, tmp_path: Path, form: str) -> None:
    (tmp_path / "copy").mkdir()
    if "file" in form:
        named = SAMPLE.build(tmp_path / "copy")
    else:
        other = sliced(SAMPLE, tmp_path / "copy", part_bytes=PART_BYTES if "folder" in form else 30_000)
        named = other.path(1) if form == "part" else other.table_path
    before = contents(tmp_path / "copy")
    cut.flip(1)
    repair(cut.table_path, named.parent if "folder" in form else named)
    assert whole(cut) == cut.whole
    assert contents(tmp_path / "copy") == before


def test_a_folder_with_nothing_but_the_part_will_do(cut: Sliced, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    shutil.copy(cut.path(1), disk)
    cut.path(1).unlink()
    repair(cut.table_path, disk)
    assert whole(cut) == cut.whole
    with pytest.raises(UsageError, match=r"holds no copy of sample-7\.tar, and no part"):
        repair(cut.table_path, tmp_path)


def test_two_copies_that_are_both_damaged_make_a_right_one(cut: Sliced, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    second = Path(shutil.copy(copy, tmp_path / "second"))
    flip(copy, cut.parts[1].offset + 20_000)
    flip(second, cut.parts[0].offset + 20_000)
    cut.path(0).unlink()
    cut.path(1).unlink()
    repair(cut.table_path, copy, second)
    assert whole(cut) == cut.whole


def test_a_copy_with_the_same_damage_changes_nothing(cut: Sliced, copy: Path) -> None:
    number, member = inside(cut)
    flip(copy, member.offset)
    cut.flip(number, at=member.offset - number * cut.table.part_bytes)
    before = contents(cut.folder)
    with pytest.raises(DigestError, match="in this copy either") as caught:
        repair(cut.table_path, copy)
    assert "What was damaged stays" in caught.value.safe
    assert contents(cut.folder) == before


def test_a_copy_of_another_bundle_is_refused_unread(cut: Sliced, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = sample(sequence=8).build(tmp_path / "other")
    cut.flip(1)
    with pytest.raises(DigestError, match="is another bundle"):
        repair(cut.table_path, other)


def test_with_out_only_the_mended_part_is_written_and_counts_before_the_damaged_one(
    cut: Sliced, copy: Path, tmp_path: Path
) -> None:
    cut.flip(1)
    before = contents(cut.folder)
    out = tmp_path / "out"
    out.mkdir()
    outcome = repair(cut.table_path, copy, out=out)
    assert outcome.written == (out / cut.parts[1].name,)
    assert names(out) == {cut.parts[1].name}
    assert contents(cut.folder) == before
    assert complete_root(cut.table_path, around(out)) == ROOT


def upstream(asked: list[Digest], made: Sample = SAMPLE) -> Callable[..., object]:
    """Registries that hold every blob, and a list of what was asked for."""

    def make(*_: object) -> object:
        def run(lock: Lock, blobs: Sequence[tuple[Digest, int]], place: Callable[[Digest], Place]) -> None:
            for digest, _ in blobs:
                asked.append(digest)
                there = place(digest)
                there.write(made.blobs[digest])
                there.commit()

        return run

    return make


@pytest.mark.parametrize("split", [True, False])
def test_without_a_copy_content_comes_from_the_cache_then_from_upstream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: bool
) -> None:
    (tmp_path / "site").mkdir()
    asked: list[Digest] = []
    monkeypatch.setattr(wiring, "_upstream", upstream(asked))
    one, two = BLOBS[-1], BLOBS[-2]
    cache = Cache(tmp_path / "cache")
    cache.put(SAMPLE.blobs[one.digest])
    if split:
        cut = sliced(SAMPLE, tmp_path / "site")
        for member in (one, two):
            number = member.offset // PART_BYTES
            cut.flip(number, at=member.offset - number * PART_BYTES)
        outcome = repair(cut.table_path, cache=tmp_path / "cache")
        assert whole(cut) == cut.whole
        assert names(cut.folder) == {cut.table_path.name, *(part.name for part in cut.parts)}
    else:
        path = SAMPLE.build(tmp_path / "site")
        right = path.read_bytes()
        for member in (one, two):
            flip(path, member.offset)
        outcome = repair(path, cache=tmp_path / "cache")
        assert path.read_bytes() == right
        assert names(path.parent) == {path.name}
    assert asked == [two.digest]
    assert outcome.fetched_bytes == two.size


def test_what_only_this_tool_makes_needs_a_copy(single: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "_upstream", upstream([]))
    right = single.read_bytes()
    closure = next(member for member in SAMPLE.layout.members if member.path == "closure.json")
    flip(single, closure.offset)
    with pytest.raises(DigestError, match="no copy has it right") as caught:
        repair(single)
    assert caught.value.subject == "closure.json"
    repair(single, copy)
    assert single.read_bytes() == right


def test_a_single_archive_is_mended_in_place_by_its_members(single: Path, copy: Path) -> None:
    right, inode = single.read_bytes(), single.stat().st_ino
    content, header, padding = BLOBS[0], BLOBS[3], next(one for one in BLOBS if one.size % 512)
    flip(single, content.offset)
    flip(single, header.header_offset)
    flip(single, padding.offset + padding.size)
    outcome = repair(single, copy)
    assert {*outcome.mended} == {content.path, header.path, padding.path}
    assert single.read_bytes() == right
    assert single.stat().st_ino == inode
    assert outcome.fetched_bytes == sum(one.size for one in {content, header, padding})
    assert names(single.parent) == {single.name}


@pytest.mark.parametrize("size", [-1, -20_000, 700, "member 0", "root", "members"])
def test_an_archive_whose_beginning_or_end_is_damaged_needs_a_copy_and_becomes_right(
    single: Path, copy: Path, size: int | str
) -> None:
    right = single.read_bytes()
    if isinstance(size, int):
        single.write_bytes(right[:size] if size < 0 else right + bytes(size))
    else:
        flip(single, {"member 0": 0, "root": 600, "members": SAMPLE.layout.members[1].offset}[size])
    expect = ROOT if size in ("member 0", "root") else None
    repair(single, copy, expect=expect)
    assert single.read_bytes() == right


def test_an_archive_that_cannot_say_what_it_was_needs_to_be_told(single: Path, copy: Path) -> None:
    flip(single, 0)
    with pytest.raises(UsageError, match="cannot know which archive") as caught:
        repair(single, copy)
    assert "--expect" in caught.value.hint
    with pytest.raises(DigestError, match="is another bundle"):
        repair(single, copy, expect=Digest.of(b"other"))
    with pytest.raises(DigestError, match="names the root"):
        repair(copy, single, expect=Digest.of(b"other"))


def test_a_cut_archive_without_a_copy_says_what_it_needs(single: Path) -> None:
    single.write_bytes(single.read_bytes()[:-600])
    with pytest.raises(FormatError, match="is cut, or does not say") as caught:
        repair(single)
    assert caught.value.hint == "Name a copy that is whole: --from COPY"


def test_a_single_archive_on_a_medium_that_is_not_written_to_is_mended_into_a_folder(
    single: Path, copy: Path, tmp_path: Path
) -> None:
    right = single.read_bytes()
    flip(single, BLOBS[0].offset)
    damaged = single.read_bytes()
    out = tmp_path / "out"
    out.mkdir()
    outcome = repair(single, copy, out=out)
    assert outcome.fetched_bytes == BLOBS[0].size
    assert contents(out) == {single.name: right}
    assert single.read_bytes() == damaged


@pytest.mark.parametrize("form", ["parts", "file", "file, out", "parts, out"])
def test_killed_anywhere_it_goes_on_and_what_was_there_stays_until_then(tmp_path: Path, copy: Path, form: str) -> None:
    """With an archive in place, the right content is on the disk before the first damaged byte is written over."""

    def attempt(number: int, failpoint: Callable[[str], None]) -> tuple[Path, Path | None, Callable[[], object]]:
        folder, out = tmp_path / f"{number}", tmp_path / f"{number}-out" if "out" in form else None
        if not folder.exists():
            folder.mkdir()
            if out is not None:
                out.mkdir()
            made = sliced(SAMPLE, folder).table_path if "parts" in form else SAMPLE.build(folder)
            if "parts" in form:
                flip(folder / "sample-7.tar.001", 20_000)
                (folder / "sample-7.tar.002").unlink()
            else:
                flip(made, BLOBS[0].offset)
                flip(made, BLOBS[-1].offset)
        made = folder / ("sample-7.parts.json" if "parts" in form else "sample-7.tar")
        return folder, out, lambda: repair(made, copy, out=out, failpoint=failpoint)

    passed: list[str] = []
    folder, out, run = attempt(0, passed.append)
    run()
    expected = contents(folder), contents(out) if out else None
    assert len(passed) >= 4
    for stop in range(len(passed)):
        count = [0]

        def kill(name: str, count: list[int] = count, stop: int = stop) -> None:
            count[0] += 1
            if count[0] == stop + 1:
                raise Killed

        folder, out, run = attempt(stop + 1, kill)
        before = contents(folder)
        with pytest.raises(Killed):
            run()
        for name, content in contents(folder).items() if "file" not in form else ():
            assert ".repair" in name or content in (before.get(name), expected[0].get(name))
        run()
        assert (contents(folder), contents(out) if out else None) == expected


def test_after_a_kill_what_was_fetched_is_not_fetched_again(single: Path, copy: Path) -> None:
    for member in (BLOBS[0], BLOBS[-1]):
        flip(single, member.offset)

    def kill(name: str) -> None:
        if name == "written":
            raise Killed

    with pytest.raises(Killed):
        repair(single, copy, failpoint=kill)
    assert repair(single, copy).fetched_bytes == 0


def test_bytes_that_an_earlier_run_left_wrong_are_written_anew(cut: Sliced, copy: Path) -> None:
    cut.path(1).unlink()
    (cut.folder / "sample-7.tar.001.repair").write_bytes(random.Random(1).randbytes(5000))
    repair(cut.table_path, copy)
    assert whole(cut) == cut.whole


def test_without_room_what_was_damaged_stays(cut: Sliced, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut.flip(1)
    damaged = cut.path(1).read_bytes()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(LocalResourceError, match="No space left") as caught:
        repair(cut.table_path, copy)
    assert "--out DIR" in caught.value.hint
    assert cut.path(1).read_bytes() == damaged


def test_two_repairs_of_one_archive_do_not_meet(cut: Sliced, copy: Path) -> None:
    cut.flip(1)

    def again(name: str) -> None:
        if name == "begun":
            repair(cut.table_path, copy)

    with pytest.raises(LockedError, match="another repair"):
        repair(cut.table_path, copy, failpoint=again)


def test_an_archive_in_s3_is_not_mended_there() -> None:
    request = RepairRequest(path=Path("x"))
    with pytest.raises(UsageError, match="is in S3") as caught:
        repaired("s3://bucket/a-1.tar", (), request, around())
    assert "bundle ship" in caught.value.hint


def test_any_flips_anywhere_are_mended_or_refused_and_never_made_worse(single: Path, copy: Path) -> None:
    right, chance = single.read_bytes(), random.Random(8)
    for _ in range(60):
        raw = bytearray(right)
        for _ in range(chance.randrange(1, 6)):
            raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        if chance.random() < 0.2:
            del raw[chance.randrange(len(raw)) :]
        single.write_bytes(raw)
        try:
            repair(single, copy, expect=ROOT)
        except BundleError as error:
            assert error.exit_code in (2, 3)
            assert single.read_bytes() == raw
        else:
            assert single.read_bytes() == right
