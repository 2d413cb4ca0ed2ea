"""Building: resume after a kill at every point, one builder at a time, a full disk, no unfinished final name."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from bundler.archive.reader import open_archive
from bundler.archive.writer import ArchiveWriter
from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, Event, TransferPlanned
from bundler.envelope import Signer
from bundler.errors import BundleError, DigestError, LocalResourceError, LockedError, SignatureError
from bundler.transfer import Pace
from tests.fakes.archives import MemorySource, Sample, sample, signer

SAMPLE = sample()
NAME = "sample-7.tar"
# Python 3.12 warns of any fork beside a thread; the children here only build, and end without coming back.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def golden(folder: Path) -> bytes:
    folder.mkdir()
    return SAMPLE.build(folder).read_bytes()


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a process of its own; return its wait status."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


class Counter:
    """A failpoint that kills the process the nth time it is passed, and otherwise counts."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at = kill_at
        self.names: list[str] = []

    def __call__(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def test_two_builds_of_one_lock_are_byte_identical(tmp_path: Path) -> None:
    first = golden(tmp_path / "one")
    before = os.umask(0o077)
    try:
        second = golden(tmp_path / "two")
    finally:
        os.umask(before)
    assert first == second


def test_nothing_is_left_beside_a_finished_archive(tmp_path: Path) -> None:
    SAMPLE.build(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def points() -> list[str]:
    counter = Counter()
    with tempfile.TemporaryDirectory() as folder:
        SAMPLE.build(Path(folder), failpoint=counter)
    return counter.names


POINTS = points()


def test_every_kind_of_failpoint_is_passed() -> None:
    assert list(dict.fromkeys(POINTS)) == ["reserved", "content", "header", "generated", "signed", "synced", "renamed"]


@pytest.mark.parametrize("number", range(1, len(POINTS) + 1))
def test_a_build_killed_at_any_point_goes_on_to_the_same_bytes(tmp_path: Path, number: int) -> None:
    wanted = golden(tmp_path / "undisturbed")
    folder = tmp_path / "killed"
    folder.mkdir()
    status = in_child(lambda: SAMPLE.build(folder, failpoint=Counter(kill_at=number)))
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    done = POINTS[:number].count("header")
    named = (folder / NAME).exists()
    assert named == (POINTS[number - 1] == "renamed")
    if named:
        assert (folder / NAME).read_bytes() == wanted
    else:
        with ArchiveWriter(folder / NAME, SAMPLE.layout) as writer:
            assert len(writer.missing()) == max(0, len(SAMPLE.layout.blobs) - done)
    assert SAMPLE.build(folder).read_bytes() == wanted
    assert [path.name for path in folder.iterdir()] == [NAME]


def test_a_build_killed_again_and_again_finishes(tmp_path: Path) -> None:
    for number in (2, 3, 5, 4, 9, 3):
        in_child(lambda number=number: SAMPLE.build(tmp_path, failpoint=Counter(kill_at=number)))
    assert SAMPLE.build(tmp_path).read_bytes() == golden(tmp_path / "undisturbed")


def unfinished(folder: Path, made: Sample = SAMPLE) -> Path:
    """A build that has all its blobs and was not sealed."""
    with ArchiveWriter(folder / NAME, made.layout) as writer:
        for member in writer.missing():
            place = writer.write_at(member)
            place.write(made.blobs[member.digest])
            place.commit()
    return folder / f"{NAME}.partial"


@pytest.mark.parametrize("place", ["content", "padding", "header"])
def test_what_the_disk_lost_meanwhile_is_fetched_again(tmp_path: Path, place: str) -> None:
    partial = unfinished(tmp_path)
    member = next(member for member in SAMPLE.layout.blobs if member.role == "layer")
    offset = {"content": member.offset, "padding": member.offset + member.size, "header": member.header_offset}[place]
    with partial.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff")
    with ArchiveWriter(tmp_path / NAME, SAMPLE.layout) as writer:
        assert [found.digest for found in writer.missing()] == [member.digest]
    assert SAMPLE.build(tmp_path).read_bytes() == golden(tmp_path / "undisturbed")


def test_resuming_says_what_it_reads_again(tmp_path: Path) -> None:
    unfinished(tmp_path)
    events: list[Event] = []
    with ArchiveWriter(tmp_path / NAME, SAMPLE.layout) as writer:
        assert writer.missing(pace=Pace(emit=events.append)) == ()
    total = sum(member.size for member in SAMPLE.layout.blobs)
    assert events[0] == TransferPlanned(phase="resume", total_bytes=total, items=len(SAMPLE.layout.blobs))
    assert sum(event.count for event in events if isinstance(event, BytesMoved)) == total


def test_a_partial_of_another_layout_gives_what_it_has_in_the_right_place_and_no_more(tmp_path: Path) -> None:
    other = sample(sequence=8, tools=())
    unfinished(tmp_path, other)
    assert SAMPLE.build(tmp_path).read_bytes() == golden(tmp_path / "undisturbed")


def test_a_longer_partial_is_cut(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.partial").write_bytes(b"\xff" * (2 * SAMPLE.layout.total_bytes))
    assert SAMPLE.build(tmp_path).read_bytes() == golden(tmp_path / "undisturbed")


def test_content_with_another_digest_never_counts(tmp_path: Path) -> None:
    member = next(member for member in SAMPLE.layout.blobs if member.role == "layer")
    with ArchiveWriter(tmp_path / NAME, SAMPLE.layout) as writer:
        place = writer.write_at(member)
        place.write(bytes(member.size))
        with pytest.raises(DigestError, match="is not what arrived") as caught:
            place.commit()
        assert caught.value.exit_code == 3
    with ArchiveWriter(tmp_path / NAME, SAMPLE.layout) as writer:
        assert member in writer.missing()


def test_content_that_is_too_long_is_stopped_before_it_leaves_its_place(tmp_path: Path) -> None:
    first, second = SAMPLE.layout.blobs[:2]
    with ArchiveWriter(tmp_path / NAME, SAMPLE.layout) as writer:
        place = writer.write_at(first)
        place.write(SAMPLE.blobs[first.digest])
        with pytest.raises(DigestError, match="more than"):
            place.write(b"\xff" * 600)
    raw = (tmp_path / f"{NAME}.partial").read_bytes()
    assert not any(raw[first.offset + first.size : second.offset])


def test_content_that_is_too_short_never_counts(tmp_path: Path) -> None:
    member = SAMPLE.layout.blobs[0]
    with ArchiveWriter(tmp_path / NAME, SAMPLE.layout) as writer:
        place = writer.write_at(member)
        place.write(SAMPLE.blobs[member.digest][:-1])
        with pytest.raises(DigestError, match="the lock says"):
            place.commit()


def test_a_restarted_member_forgets_what_came_before(tmp_path: Path) -> None:
    member = SAMPLE.layout.blobs[0]
    with ArchiveWriter(tmp_path / NAME, SAMPLE.layout) as writer:
        place = writer.write_at(member)
        place.write(b"half of somet")
        place.restart()
        place.write(SAMPLE.blobs[member.digest])
        place.commit()
        assert member not in ArchiveWriterView(writer).missing()


class ArchiveWriterView:
    """Asks the writer again, from disk."""

    def __init__(self, writer: ArchiveWriter) -> None:
        self.missing = writer.missing


def test_a_member_being_replaced_does_not_keep_its_old_header(tmp_path: Path) -> None:
    unfinished(tmp_path)
    member = SAMPLE.layout.blobs[0]
    with ArchiveWriter(tmp_path / NAME, SAMPLE.layout) as writer:
        writer.write_at(member).write(b"x")
    raw = (tmp_path / f"{NAME}.partial").read_bytes()
    assert not any(raw[member.header_offset : member.offset])


def test_a_build_with_gaps_cannot_be_sealed(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / NAME, SAMPLE.layout) as writer, pytest.raises(BundleError, match="no content yet"):
        writer.seal(SAMPLE.signer)
    assert not (tmp_path / NAME).exists()


def test_a_key_outside_the_trust_root_seals_nothing(tmp_path: Path) -> None:
    unfinished(tmp_path)
    with ArchiveWriter(tmp_path / NAME, SAMPLE.layout) as writer:
        assert writer.missing() == ()
        with pytest.raises(SignatureError):
            writer.seal(signer(9))
    assert not (tmp_path / NAME).exists()


def test_two_builds_of_one_archive_do_not_mix(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / NAME, SAMPLE.layout):
        with pytest.raises(LockedError, match="another build") as caught:
            ArchiveWriter(tmp_path / NAME, SAMPLE.layout).open()
        assert caught.value.exit_code == 7
    ArchiveWriter(tmp_path / NAME, SAMPLE.layout).open()


def test_a_builder_that_waited_does_not_write_into_the_finished_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our open and our lock the other build finishes: our descriptor then is its archive."""
    partial, real = unfinished(tmp_path), fcntl.flock
    turns = []

    def slow(handle: int, operation: int) -> None:
        real(handle, operation)
        if not turns:
            turns.append(partial.replace(tmp_path / "finished.tar"))

    monkeypatch.setattr(fcntl, "flock", slow)
    before = partial.read_bytes()
    with ArchiveWriter(tmp_path / NAME, SAMPLE.layout) as writer:
        assert len(writer.missing()) == len(SAMPLE.layout.blobs)
        writer.write_at(SAMPLE.layout.blobs[0]).write(b"x")
    assert (tmp_path / "finished.tar").read_bytes() == before


def test_a_link_under_the_partial_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / f"{NAME}.partial").symlink_to(tmp_path / "victim")
    with pytest.raises(LocalResourceError):
        ArchiveWriter(tmp_path / NAME, SAMPLE.layout).open()
    assert (tmp_path / "victim").read_bytes() == b"mine"


def limited(folder: Path, size: int, report: Path) -> Callable[[], None]:
    """A build under a limit of `size` bytes for a file (EFBIG, as on a full quota)."""

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            SAMPLE.build(folder)
        except LocalResourceError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            report.write_text(f"{error.exit_code}|{error}|{error.safe}|{error.hint}")

    return work


def test_too_little_room_is_noticed_before_anything_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    assert in_child(limited(folder, SAMPLE.layout.total_bytes - 1, tmp_path / "report")) == 0
    code, text, safe, hint = (tmp_path / "report").read_text().split("|")
    assert code == "6"
    assert f"has no room for an archive of {SAMPLE.layout.total_bytes} bytes" in text
    assert (safe, "--out" in hint) == ("Nothing was fetched.", True)
    assert list(folder.iterdir()) == []
    assert SAMPLE.build(folder).read_bytes() == golden(tmp_path / "undisturbed")


def test_too_little_room_for_a_larger_layout_keeps_the_partial(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / f"{NAME}.partial").write_bytes(b"x" * 1000)
    assert in_child(limited(folder, 2000, tmp_path / "report")) == 0
    assert "kept" in (tmp_path / "report").read_text()
    assert (folder / f"{NAME}.partial").stat().st_size == 1000


def test_a_folder_that_does_not_exist_is_the_disks_error(tmp_path: Path) -> None:
    with pytest.raises(LocalResourceError):
        ArchiveWriter(tmp_path / "nowhere" / NAME, SAMPLE.layout).open()


def test_a_sealed_archive_replaces_an_older_one_whole(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"older")
    archive = open_archive(MemorySource(SAMPLE.build(tmp_path).read_bytes()), SAMPLE.trust)
    assert archive.lock == SAMPLE.lock


def test_content_is_durable_before_it_is_named_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def spy_fsync(handle: int) -> None:
        calls.append(f"fsync {Path(f'/proc/self/fd/{handle}').readlink().name}")
        fsync(handle)

    def spy_replace(path: Path, target: Path) -> Path:
        calls.append(f"rename {path.name} {target.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    SAMPLE.build(tmp_path)
    assert calls == [f"fsync {NAME}.partial", f"rename {NAME}.partial {NAME}", f"fsync {tmp_path.name}"]


def test_ecdsa_keys_change_member_zero_and_nothing_else(tmp_path: Path) -> None:
    key = Signer(ec.generate_private_key(ec.SECP256R1()))
    made = Sample(lock=SAMPLE.lock, blobs=SAMPLE.blobs, signer=key)
    layout = made.layout
    archives = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with ArchiveWriter(tmp_path / name / NAME, layout) as writer:
            for member in writer.missing():
                place = writer.write_at(member)
                place.write(made.blobs[member.digest])
                place.commit()
            archives.append(writer.seal(key).read_bytes())
    slot = 512 + layout.slot_bytes
    assert archives[0][slot:] == archives[1][slot:]
    assert archives[0][:slot] != archives[1][:slot]


def test_the_identity_of_a_bundle_is_the_digest_of_what_was_signed(tmp_path: Path) -> None:
    archive = open_archive(MemorySource(SAMPLE.build(tmp_path).read_bytes()), SAMPLE.trust)
    assert archive.root.digest == SAMPLE.layout.root.digest
    assert archive.root.digest != Digest.of(archive.source.read_at(512, archive.slot_bytes))
