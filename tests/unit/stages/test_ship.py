"""Shipping: what a second try sends."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from bundler.domain import shipment
from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, Event, ItemDone
from bundler.domain.shipment import Part, S3Address, StoredObject, StoredPart, Upload
from bundler.errors import AccessError, ConflictError, DigestError, LocalResourceError, NetworkError, UsageError
from bundler.stages.ship import LocalFile, Slice, leftovers, observe, ship
from bundler.transfer import Pace
from bundler.workflows.ship import Identity, LocalPart, ShipRequest, ship_archive

ADDRESS = S3Address.parse("s3://bucket/in/a-1.tar")
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipment, "LEAST_PART_BYTES", MIB)


@dataclass
class Store:
    """S3 in memory; `fail_at` ends the connection at that part, counted from 1; `retry` reads each part twice."""

    objects: dict[str, tuple[bytes, StoredObject]] = field(default_factory=dict)
    unfinished: dict[str, dict[int, tuple[StoredPart, bytes]]] = field(default_factory=dict)
    sent: list[int] = field(default_factory=list)
    fail_at: int = 0
    retry: bool = False
    listable: bool = True

    def find(self, address: S3Address) -> StoredObject | None:
        return self.objects[str(address)][1] if str(address) in self.objects else None

    def uploads(self, address: S3Address) -> list[str]:
        if not self.listable:
            raise AccessError("s3:ListBucketMultipartUploads", "was denied")
        return list(reversed(self.unfinished))

    def upload(self, address: S3Address, upload_id: str) -> Upload:
        return Upload(id=upload_id, parts=tuple(part for part, _ in self.unfinished[upload_id].values()))

    def begin(self, address: S3Address) -> Upload:
        upload = Upload(id=f"u{len(self.unfinished) + 1}")
        self.unfinished[upload.id] = {}
        return upload

    def send(self, address: S3Address, upload: Upload, part: Part, content: Callable[[], BinaryIO]) -> StoredPart:
        if len(self.sent) + 1 == self.fail_at:
            raise NetworkError("s3", "cut")
        if self.retry:
            begun = content()
            begun.read(1000)
            begun.read(1000)
        raw = content().read()
        assert Digest.of(raw) == part.digest
        etag = hashlib.md5(raw, usedforsecurity=False).hexdigest()
        stored = StoredPart(number=part.number, size=len(raw), etag=etag, checksum=part.checksum)
        self.unfinished[upload.id][part.number] = (stored, raw)
        self.sent.append(part.number)
        return stored

    def complete(
        self, address: S3Address, upload: Upload, parts: Sequence[StoredPart], *, replaces: StoredObject | None
    ) -> None:
        assert self.find(address) == replaces
        held = self.unfinished.pop(upload.id)
        raw = b"".join(held[part.number][1] for part in parts)
        md5s = b"".join(bytes.fromhex(part.etag) for part in parts)
        etag = f"{hashlib.md5(md5s, usedforsecurity=False).hexdigest()}-{len(parts)}"
        self.objects[str(address)] = (raw, StoredObject(size=len(raw), etag=etag))

    def abort(self, address: S3Address, upload_id: str) -> None:
        del self.unfinished[upload_id]


def make_file(folder: Path, *, size: int = 5 * MIB // 2, name: str = "a-1.tar") -> Path:
    path = folder / name
    path.write_bytes(os.urandom(size))
    return path


def send(path: Path, store: Store, events: list[Event] | None = None) -> None:
    with LocalFile.open(path) as local:
        plan = observe(local, ADDRESS, store=store)
        pace = Pace(workers=1, emit=(events if events is not None else []).append)
        done = ship(plan, local, ADDRESS, store=store, pace=pace)
    assert done.shipment.digest == Digest.of(path.read_bytes())


def moved(events: list[Event]) -> int:
    return sum(event.count for event in events if isinstance(event, BytesMoved))


def test_the_object_has_the_bytes_of_the_file(tmp_path: Path) -> None:
    path, store, events = make_file(tmp_path), Store(), list[Event]()
    send(path, store, events)
    assert store.objects[str(ADDRESS)][0] == path.read_bytes()
    assert store.sent == [1, 2, 3]
    assert moved(events) == path.stat().st_size


def test_a_second_run_sends_nothing(tmp_path: Path) -> None:
    path, store = make_file(tmp_path), Store()
    send(path, store)
    send(path, store)
    assert store.sent == [1, 2, 3]


@pytest.mark.parametrize("fail_at", [1, 2, 3])
def test_after_a_cut_only_what_is_missing_is_sent(tmp_path: Path, fail_at: int) -> None:
    path, store = make_file(tmp_path), Store(fail_at=fail_at)
    with pytest.raises(NetworkError):
        send(path, store)
    store.fail_at = 0
    send(path, store)
    assert sorted(store.sent) == [1, 2, 3]
    assert store.objects[str(ADDRESS)][0] == path.read_bytes()
    assert not store.unfinished


def test_after_a_cut_the_parts_of_a_changed_file_are_sent_again(tmp_path: Path) -> None:
    path, store = make_file(tmp_path), Store(fail_at=3)
    with pytest.raises(NetworkError):
        send(path, store)
    store.fail_at = 0
    with path.open("r+b") as file:
        file.write(b"other")
    send(path, store)
    assert store.sent == [1, 2, 1, 3]
    assert store.objects[str(ADDRESS)][0] == path.read_bytes()


def test_another_object_of_that_name_is_replaced(tmp_path: Path) -> None:
    store = Store()
    send(make_file(tmp_path), store)
    path = make_file(tmp_path)
    send(path, store)
    assert store.objects[str(ADDRESS)][0] == path.read_bytes()


def test_progress_is_taken_back_when_a_part_starts_again(tmp_path: Path) -> None:
    path, store, events = make_file(tmp_path), Store(retry=True), list[Event]()
    send(path, store, events)
    assert moved(events) == path.stat().st_size
    assert any(event.count < 0 for event in events if isinstance(event, BytesMoved))


def touched(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def cut(path: Path) -> None:
    os.truncate(path, MIB + 5)


def exchanged(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(1, 1))
    other.rename(path)


@pytest.mark.parametrize("change", [touched, cut, exchanged, Path.unlink])
def test_a_file_that_changes_while_it_is_sent_makes_no_object(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path, store = make_file(tmp_path), Store()
    with LocalFile.open(path) as local:
        plan = observe(local, ADDRESS, store=store)
        change(path)
        with pytest.raises(ConflictError, match="changed while it was sent"):
            ship(plan, local, ADDRESS, store=store)
    assert not store.objects


def test_who_may_not_list_uploads_sends_everything(tmp_path: Path) -> None:
    path, store = make_file(tmp_path), Store(fail_at=2)
    with pytest.raises(NetworkError):
        send(path, store)
    store.fail_at, store.listable = 0, False
    send(path, store)
    assert store.sent == [1, 1, 2, 3]


@pytest.mark.parametrize(("clean", "left"), [(True, 0), (False, 1)])
def test_older_uploads_are_thrown_away_on_request(tmp_path: Path, clean: bool, left: int) -> None:
    store = Store()
    store.begin(ADDRESS)
    leftovers(ADDRESS, store=store, clean=clean)
    assert len(store.unfinished) == left


def test_a_file_that_is_absent_or_empty_is_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        LocalFile.open(tmp_path / "none")
    with pytest.raises(UsageError, match="is empty"):
        LocalFile.open(make_file(tmp_path, size=0))


def test_what_was_sent_and_what_was_kept_add_up_to_the_file(tmp_path: Path) -> None:
    path, store, events = make_file(tmp_path), Store(fail_at=3), list[Event]()
    with pytest.raises(NetworkError):
        send(path, store)
    store.fail_at = 0
    send(path, store, events)
    assert moved(events) == path.stat().st_size
    assert [event.count for event in events if isinstance(event, BytesMoved) and event.kept] == [MIB, MIB]
    assert [event.how for event in events if isinstance(event, ItemDone)] == ["present", "present", "moved"]


def test_an_answer_to_the_last_request_that_was_lost_is_no_conflict(tmp_path: Path) -> None:
    @dataclass
    class Lossy(Store):
        def complete(self, *given: Any, **more: Any) -> None:
            super().complete(*given, **more)
            raise ConflictError("s3", "somebody else wrote it meanwhile")  # our own try, whose answer was lost

    path, store = make_file(tmp_path), Lossy()
    send(path, store)
    assert store.objects[str(ADDRESS)][0] == path.read_bytes()


def test_an_object_of_another_size_is_replaced_without_reading_the_file_for_it(tmp_path: Path) -> None:
    store, events = Store(), list[Event]()
    send(make_file(tmp_path, size=MIB), store)
    send(make_file(tmp_path), store, events)
    assert all(event.phase == "ship" for event in events if isinstance(event, BytesMoved))


def test_a_slice_that_became_shorter_is_filled_up(tmp_path: Path) -> None:
    path = make_file(tmp_path, size=MIB)
    part = Part(number=1, offset=10, size=1000, digest=Digest.of(b""))
    with LocalFile.open(path) as local:
        os.truncate(path, 510)
        raw = Slice(local, part, lambda _: None).read()
    assert raw[:500] == path.read_bytes()[10:]
    assert raw[500:] == bytes(500)


def test_the_installer_goes_first_and_the_slip_stays(tmp_path: Path) -> None:
    path, store = make_file(tmp_path), Store()
    make_file(tmp_path, size=10, name="a-1.installer.zip")
    identity = Identity(root=Digest.of(b"root"), trust=Digest.of(b"trust"))
    request = ShipRequest(archive=path, destination=S3Address.parse("s3://bucket/in"))
    slip = ship_archive(request, store=store, identify=lambda _: identity, pace=Pace(workers=1))
    assert list(store.objects) == ["s3://bucket/in/a-1.installer.zip", "s3://bucket/in/a-1.tar"]
    assert slip == tmp_path / "a-1.slip.json"
    text = slip.read_text()
    digests = (Digest.of(b"root"), Digest.of(b"trust"), Digest.of(path.read_bytes()))
    assert all(str(digest) in text for digest in digests)
    assert "a-1.installer.zip" in text


IDENTITY = Identity(root=Digest.of(b"root"), trust=Digest.of(b"trust"))


def shipped(path: Path, slip: Path | None, store: Store) -> Path:
    request = ShipRequest(archive=path, destination=S3Address.parse("s3://bucket/in"), slip=slip)
    return ship_archive(request, store=store, identify=lambda _: IDENTITY, pace=Pace(workers=1))


def test_the_slip_goes_where_it_is_wanted_and_nothing_else_is_left_there(tmp_path: Path) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    path, wanted = make_file(tmp_path), elsewhere / "slip.json"
    assert shipped(path, wanted, Store()) == wanted
    assert json.loads(wanted.read_text())["root"] == str(IDENTITY.root)
    assert [*elsewhere.iterdir()] == [wanted]
    assert sorted(tmp_path.iterdir()) == [path, elsewhere]


@pytest.mark.parametrize("place", ["missing/slip.json", "a-1.tar/slip.json", "folder", "/proc/slip.json", "x" * 250])
def test_a_slip_that_cannot_be_written_is_refused_before_anything_is_sent(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    path, store = make_file(tmp_path), Store()
    with pytest.raises(LocalResourceError, match="cannot be written") as caught:
        shipped(path, tmp_path / place, store)
    assert (store.sent, store.objects, store.unfinished) == ([], {}, {})
    assert caught.value.safe == "Nothing was sent."
    assert "--slip FILE" in caught.value.hint


def test_a_slip_that_is_right_already_may_stand_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, store = make_file(tmp_path), Store()
    slip = shipped(path, None, store)
    before = slip.stat()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "mkstemp", full)
    assert shipped(path, None, store) == slip
    assert slip.stat() == before


def test_a_slip_in_the_place_of_what_is_sent_is_refused(tmp_path: Path) -> None:
    path = make_file(tmp_path)
    before = path.read_bytes()
    (tmp_path / "link").symlink_to(path)
    for slip in (path, tmp_path / "link"):
        with pytest.raises(UsageError, match="names a file that is sent"):
            shipped(path, slip, Store())
    assert path.read_bytes() == before


def test_a_slip_that_cannot_be_written_in_the_end_says_that_what_was_sent_stays(tmp_path: Path) -> None:
    @dataclass
    class Slow(Store):
        def complete(self, *given: Any, **more: Any) -> None:
            super().complete(*given, **more)
            (tmp_path / "a-1.slip.json").mkdir()

    with pytest.raises(LocalResourceError) as caught:
        shipped(make_file(tmp_path), None, Slow())
    assert caught.value.safe.startswith("What was sent stays")
    assert "--slip FILE" in caught.value.hint


def test_of_an_archive_in_parts_the_table_goes_last_and_a_damaged_part_not_at_all(tmp_path: Path) -> None:
    parts = [make_file(tmp_path, size=1000 + number, name=f"a-1.tar.00{number}") for number in range(3)]
    table, store = make_file(tmp_path, size=10, name="a-1.parts.json"), Store()
    identity = Identity(root=Digest.of(b"root"), trust=Digest.of(b"trust"))
    listed = tuple(LocalPart(path=path, digest=Digest.of(path.read_bytes())) for path in parts)
    request = ShipRequest(archive=table, destination=S3Address.parse("s3://bucket/in"), parts=listed)
    slip = ship_archive(request, store=store, identify=lambda _: identity, pace=Pace(workers=1))
    assert list(store.objects) == [f"s3://bucket/in/{path.name}" for path in (*parts, table)]
    assert slip == tmp_path / "a-1.slip.json"
    told = json.loads(slip.read_text())
    assert [part["digest"] for part in told["parts"]] == [str(part.digest) for part in listed]
    assert told["archive"]["name"] == table.name

    parts[1].write_bytes(b"damaged")
    store = Store()
    with pytest.raises(DigestError, match=r"a-1\.tar\.001: is damaged") as caught:
        ship_archive(request, store=store, identify=lambda _: identity, pace=Pace(workers=1))
    assert list(store.objects) == [f"s3://bucket/in/{parts[0].name}"]
    assert "bundle repair" in caught.value.hint
