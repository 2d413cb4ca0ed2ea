"""Parts where they are: in any folder, without joining; rows A24 to A29, each naming the part (reliability 1.3)."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundler.archive.reader import Archive, open_archive
from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, Event
from bundler.errors import DigestError, FormatError, RefusedError, SignatureError, UntrustedError, UsageError
from bundler.ports import ByteSource
from bundler.wiring import archive_source, complete_root, root_of
from tests.fakes.archives import Sample, blob_path, sample, signer
from tests.fakes.sliced import Sliced, around, sliced

SAMPLE = sample()
ROOT = SAMPLE.layout.root.digest


@pytest.fixture
def cut(tmp_path: Path) -> Sliced:
    return sliced(SAMPLE, tmp_path)


def check(cut: Sliced, *places: Path, name: Path | None = None, thorough: bool = True) -> Digest:
    """Open the archive and read all of it."""
    with archive_source(str(name or cut.table_path), around(*places), thorough=thorough) as source:
        archive: Archive = open_archive(source, SAMPLE.trust)
        archive.verify_all()
        return archive.root.digest


def test_parts_are_read_as_the_archive_that_they_are(cut: Sliced) -> None:
    assert check(cut) == ROOT
    assert check(cut, name=cut.path(1)) == ROOT
    with archive_source(str(cut.table_path), around()) as source:
        assert b"".join(map(bytes, source.stream(0, source.size))) == cut.whole
    assert complete_root(cut.table_path, around()) == ROOT
    assert root_of(str(cut.table_path), around()) == ROOT


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_any_range_over_any_border_is_right(cut: Sliced, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(cut.whole)))
    length = data.draw(st.integers(0, len(cut.whole) - start))
    with archive_source(str(cut.table_path), around()) as source:
        assert source.read_at(start, length) == cut.whole[start : start + length]
        assert b"".join(map(bytes, source.stream(start, length))) == cut.whole[start : start + length]
        with pytest.raises(FormatError, match="ends after"):
            source.read_at(start, len(cut.whole) - start + 1)


def test_parts_and_table_may_be_in_several_folders(cut: Sliced, tmp_path: Path) -> None:
    disks = [tmp_path / f"disk {number}" for number in range(3)]
    for number, disk in enumerate(disks):
        disk.mkdir()
        for part in cut.parts[number::3]:
            cut.path(part.number).rename(disk / part.name)
    assert check(cut, *disks) == ROOT
    cut.table_path.rename(disks[1] / cut.table_path.name)
    assert check(cut, *disks, name=tmp_path / cut.table_path.name) == ROOT


def test_a_good_copy_in_another_folder_serves_where_the_first_is_cut(cut: Sliced, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(cut.path(1), other)
    cut.path(1).write_bytes(b"cut")
    assert check(cut, other) == ROOT


def test_many_parts_in_many_folders_need_no_more_files_than_a_process_may_open(tmp_path: Path) -> None:
    """A shell allows 1024 and a process more; 512 parts that stand in two folders are as many."""
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
        cut = sliced(SAMPLE, folder, part_bytes=6000)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + len(cut.parts), hard))
    try:
        assert check(cut, *folders) == ROOT
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_file_is_no_folder_of_parts(cut: Sliced) -> None:
    assert check(cut, cut.path(1)) == ROOT


def refused(cut: Sliced, kind: type[RefusedError], words: str, *, thorough: bool = True) -> RefusedError:
    with pytest.raises(RefusedError, match=words) as caught:
        check(cut, thorough=thorough)
    assert type(caught.value) is kind
    assert caught.value.subject == str(cut.table_path)
    return caught.value


def test_a24_the_last_part_is_missing(cut: Sliced) -> None:
    last = cut.parts[-1]
    cut.path(last.number).unlink()
    error = refused(cut, FormatError, f"{last.name} is missing")
    assert error.hint.startswith(f"Send {last.name} again")


def test_a25_parts_in_the_middle_are_missing_and_both_are_named(cut: Sliced) -> None:
    cut.path(1).unlink()
    cut.path(2).unlink()
    refused(cut, FormatError, r"\.tar\.001 is missing; sample-7\.tar\.002 is missing", thorough=False)


def test_a26_a_part_of_another_bundle_is_named(cut: Sliced, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = sliced(sample(sequence=8), tmp_path / "other")
    shutil.copy(other.path(1), cut.path(1))
    refused(cut, DigestError, r"\.tar\.001 is damaged, or a part of another bundle")


def test_a27_a_part_that_is_there_twice_is_named(cut: Sliced) -> None:
    shutil.copy(cut.path(1), cut.path(2))
    refused(cut, FormatError, r"\.tar\.002 holds what belongs into sample-7\.tar\.001")


def test_a28_part_0_of_the_older_bundle_is_refused_before_anything_is_used(cut: Sliced, tmp_path: Path) -> None:
    (tmp_path / "older").mkdir()
    older = sliced(sample(sequence=6), tmp_path / "older")
    shutil.copy(older.path(0), cut.path(0))
    refused(cut, DigestError, r"\.tar\.000 begins another bundle", thorough=False)
    refused(cut, DigestError, r"\.tar\.000 is damaged, or a part of another bundle")


def test_a29_a_part_without_a_byte_is_named(cut: Sliced) -> None:
    cut.path(1).write_bytes(b"")
    refused(cut, FormatError, r"\.tar\.001 is empty; it must have 40000 bytes")


def test_parts_that_are_cut_or_too_long_are_named(cut: Sliced) -> None:
    cut.path(0).write_bytes(cut.path(0).read_bytes()[:-1])
    cut.path(2).write_bytes(cut.path(2).read_bytes() + b"more")
    refused(cut, FormatError, r"\.000 is cut: it has 39999 bytes of 40000; .*\.002 has 4 bytes after its end")


def test_verify_names_every_damaged_part_and_the_missing_ones_too(cut: Sliced) -> None:
    cut.flip(0, at=5_000)
    cut.flip(1)
    cut.path(2).unlink()
    error = refused(cut, DigestError, r"\.000 is damaged.*\.001 is damaged.*\.002 is missing")
    assert "sample-7.tar.000, sample-7.tar.001, sample-7.tar.002 again" in error.hint
    assert f"bundle repair {cut.table_path} --from COPY" in error.hint


def test_damage_that_is_met_on_the_way_names_its_part_without_reading_the_others(cut: Sliced) -> None:
    member = next(one for one in SAMPLE.layout.members if one.path == blob_path(SAMPLE, "layer"))
    number = member.offset // cut.table.part_bytes
    cut.flip(number, at=member.offset % cut.table.part_bytes)
    with (
        pytest.raises(DigestError, match=f"is damaged, in {cut.parts[number].name}") as caught,
        archive_source(str(cut.table_path), around()) as source,
    ):
        open_archive(source, SAMPLE.trust).read(member.digest)
    assert caught.value.hint == f"Find every damaged part: bundle verify {cut.table_path}"


def test_a_signature_that_is_not_trusted_is_no_damage(cut: Sliced) -> None:
    stranger = Sample(lock=SAMPLE.lock, blobs=SAMPLE.blobs, signer=signer(9))
    with (
        pytest.raises(SignatureError, match="0 valid signatures"),
        archive_source(str(cut.table_path), around(), thorough=True) as source,
    ):
        open_archive(source, stranger.trust)


def heard(cut: Sliced, body: Callable[[ByteSource], object]) -> int:
    """How many bytes of parts are read to find out why an archive is refused."""
    events: list[Event] = []
    surroundings = replace(around(), emit=events.append)
    with (
        pytest.raises(RefusedError),
        archive_source(str(cut.table_path), surroundings, thorough=True) as source,
    ):
        body(source)
    return sum(event.count for event in events if isinstance(event, BytesMoved) and event.phase == "parts")


def test_parts_are_read_again_only_where_damage_can_be_the_reason(cut: Sliced) -> None:
    stranger = Sample(lock=SAMPLE.lock, blobs=SAMPLE.blobs, signer=signer(9))

    def untrusted(_: ByteSource) -> object:
        raise UntrustedError("trust", "none was accepted")

    def elsewhere(_: ByteSource) -> object:
        raise DigestError("ami-0123", "holds other blocks")

    assert heard(cut, untrusted) == heard(cut, elsewhere) == 0
    assert heard(cut, lambda source: open_archive(source, stranger.trust)) == cut.parts[0].size
    cut.flip(1)
    assert heard(cut, lambda source: open_archive(source, SAMPLE.trust).verify_all()) == len(cut.whole)


def test_the_name_of_the_archive_leads_to_its_parts(cut: Sliced) -> None:
    with pytest.raises(UsageError, match="is there in parts") as caught:
        check(cut, name=cut.folder / cut.table.archive.name)
    assert caught.value.hint == f"Name their table: {cut.table_path}"


def test_without_a_table_the_parts_are_no_archive(cut: Sliced) -> None:
    first = cut.path(0)
    cut.table_path.unlink()
    with pytest.raises(UsageError, match="does not exist"):
        check(cut, name=first)


def test_a_damaged_table_is_to_be_sent_again_and_it_alone(cut: Sliced) -> None:
    cut.table_path.write_bytes(cut.table_path.read_bytes()[:-1])
    with pytest.raises(FormatError) as caught:
        check(cut)
    assert caught.value.hint == "Send this file again: it is small. The parts themselves may be right."
    assert complete_root(cut.table_path, around()) is None
