"""Blobs that come in parts: from several workers at a time, from sources that know no parts, after a kill, damaged."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.archive import writer
from bundler.archive.extents import Extents, extents_record
from bundler.archive.header import BLOCK_BYTES, member_header
from bundler.archive.members import Member
from bundler.archive.partial import PartialFile
from bundler.archive.writer import MemberWriter, no_failpoint
from bundler.cache import Cache
from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, Event
from bundler.domain.lock import Lock
from bundler.domain.oci import Descriptor, Platform
from bundler.domain.reference import Reference
from bundler.errors import DigestError, NetworkError
from bundler.ports import Put
from bundler.stages import fetch as stage
from bundler.stages.fetch import Supply, fetch
from bundler.stages.resolve import WantedImage, resolve
from bundler.transfer import Pace
from tests.fakes.images import image
from tests.fakes.memory_registry import MemoryRegistry

NAME = "registry.k8s.io/pause:3.10"
SIZE = 20_000
CONTENT = hashlib.shake_128(b"layer").digest(SIZE)
DIGEST = Digest.of(CONTENT)


class Upstream(MemoryRegistry):
    """A registry in memory that gives parts of one blob; `asked` keeps which, `damaged` how often it is wrong.

    One that `forgets_parts` gives the first as it is asked for, and everything from the begin of any other on.
    """

    def __init__(
        self,
        *,
        knows_parts: bool = True,
        forgets_parts: bool = False,
        damaged: int = 0,
        breaks_at: int | None = None,
    ) -> None:
        super().__init__()
        self.knows_parts = knows_parts
        self.forgets_parts = forgets_parts
        self.damaged = damaged
        self.breaks_at = breaks_at
        self.asked: list[tuple[int, int]] = []
        self.taken: list[int] = []

    def read_range(self, name: Reference, blob: Descriptor, start: int, stop: int, put: Put) -> int:
        assert (name.name, blob.digest) == ("registry.k8s.io/pause", DIGEST)
        self.asked.append((start, stop))
        end = stop if self.knows_parts and not (self.forgets_parts and start) else SIZE
        content = bytearray(CONTENT)
        if self.damaged and end == SIZE:
            self.damaged -= 1
            content[-1] ^= 1
        for at in range(start, end, 70):
            if self.breaks_at is not None and at >= self.breaks_at:
                raise NetworkError(str(blob.digest), "broke")
            piece = memoryview(content)[at : min(at + 70, end)]
            put(at, piece)
            self.taken.append(len(piece))
        return end


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "RANGED_BYTES", 1000)
    monkeypatch.setattr(stage, "PART_BYTES", 900)
    monkeypatch.setattr(stage, "FIRST_PART_BYTES", 300)
    monkeypatch.setattr(writer, "RECORD_BYTES", 500)


@pytest.fixture
def lock(tmp_path: Path) -> Lock:
    """An image whose layer is CONTENT."""
    registry = MemoryRegistry()
    wanted = WantedImage(
        reference=registry.offer(NAME, image("a")), platforms=(Platform.parse("linux/amd64"),), source=registry
    )
    (made,) = resolve([wanted], cache=Cache(tmp_path / "lock"))
    manifest = made.manifests[0]
    layer = replace(manifest.blobs[-1], digest=DIGEST, size=SIZE)
    manifest = manifest.model_copy(update={"blobs": (*manifest.blobs[:-1], layer)})
    return Lock.model_construct(
        images=(made.model_copy(update={"manifests": (manifest,)}),), charts=(), tools=(), files=()
    )


MEMBER = Member(role="layer", size=SIZE, digest=DIGEST, offset=BLOCK_BYTES)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[PartialFile]:
    made = PartialFile(tmp_path / "x.tar")
    made.open(MEMBER.end)
    yield made
    made.close()


def place(file: PartialFile) -> MemberWriter:
    return MemberWriter(file, MEMBER, committed=lambda member: None, failpoint=no_failpoint)


def run(
    lock: Lock, upstream: Upstream, file: PartialFile, *, workers: int = 4, events: list[Event] | None = None
) -> int:
    """Fetch the layer; return how many bytes the events told of."""
    events = [] if events is None else events
    fetch(
        lock,
        [(DIGEST, SIZE)],
        place=lambda digest: place(file),
        supply=Supply(cache=Cache(file.final.parent / "cache"), source_of=lambda image: upstream),
        pace=Pace(workers=workers, emit=events.append),
    )
    return sum(event.count for event in events if isinstance(event, BytesMoved))


def is_whole(file: PartialFile) -> bool:
    header, content = file.read(MEMBER.header_offset, BLOCK_BYTES), file.read(MEMBER.offset, SIZE)
    return header == member_header(MEMBER.path, SIZE) and content == CONTENT


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_every_byte_is_asked_for_once_whoever_asks(lock: Lock, file: PartialFile, workers: int) -> None:
    upstream = Upstream()
    assert run(lock, upstream, file, workers=workers) == SIZE
    assert is_whole(file)
    spans = sorted(upstream.asked)
    assert spans[0] == (0, 300)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
    assert sum(stop - start for start, stop in spans) == SIZE


def test_a_source_that_knows_no_parts_is_asked_once(lock: Lock, file: PartialFile) -> None:
    upstream = Upstream(knows_parts=False)
    assert run(lock, upstream, file) == SIZE
    assert is_whole(file)
    assert upstream.asked == [(0, 300)]


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_what_another_part_brought_is_neither_asked_for_nor_counted_again(
    lock: Lock, file: PartialFile, workers: int
) -> None:
    upstream = Upstream(forgets_parts=True)
    assert run(lock, upstream, file, workers=workers) == SIZE
    assert is_whole(file)
    if workers == 1:
        assert upstream.asked == [(0, 300), (300, 1200)]


def test_kept_bytes_that_come_again_are_counted_once(lock: Lock, file: PartialFile) -> None:
    with pytest.raises(NetworkError):
        run(lock, Upstream(breaks_at=9000), file)
    assert run(lock, Upstream(knows_parts=False), file) == SIZE
    assert is_whole(file)


def test_other_content_is_asked_for_again_from_the_start(lock: Lock, file: PartialFile) -> None:
    upstream = Upstream(damaged=2)
    assert run(lock, upstream, file) == SIZE
    assert is_whole(file)
    assert sum(stop - start for start, stop in upstream.asked) == 3 * SIZE


def test_content_that_is_wrong_three_times_never_counts(lock: Lock, file: PartialFile) -> None:
    with pytest.raises(DigestError):
        run(lock, Upstream(damaged=3), file)
    assert not is_whole(file)


@pytest.mark.parametrize("workers", [1, 4])
def test_what_a_broken_run_left_is_not_asked_for_again(lock: Lock, file: PartialFile, workers: int) -> None:
    broken = Upstream(breaks_at=9000)
    with pytest.raises(NetworkError):
        run(lock, broken, file, workers=workers)
    upstream, events = Upstream(), list[Event]()
    assert run(lock, upstream, file, events=events) == SIZE
    assert is_whole(file)
    kept = sum(event.count for event in events if isinstance(event, BytesMoved) and event.kept)
    assert kept == SIZE - sum(stop - start for start, stop in upstream.asked) > 0
    asked = sum(stop - start for start, stop in upstream.asked)
    assert asked <= SIZE - sum(broken.taken) + 500 + 70 * workers


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, 900)), max_size=12), st.randoms())
def test_any_order_of_parts_gives_the_same_member(
    tmp_path_factory: pytest.TempPathFactory, starts: list[tuple[int, int]], chance: object
) -> None:
    made = PartialFile(tmp_path_factory.mktemp("any") / "x.tar")
    made.open(MEMBER.end)
    cuts = sorted({0, SIZE, *(min(SIZE, at + more) for at, more in starts)})
    parts = list(itertools.pairwise(cuts))
    chance.shuffle(parts)  # type: ignore[attr-defined]
    taking = place(made)
    for start, stop in parts:
        taking.put(start, CONTENT[start:stop])
    assert taking.gaps() == []
    taking.commit()
    assert is_whole(made)
    made.close()


def test_a_record_that_claims_what_is_not_there_costs_time_only(lock: Lock, file: PartialFile) -> None:
    """A disk may lose writes and keep the record."""
    file.write(extents_record(DIGEST, Extents([(0, 15_000)])), MEMBER.header_offset)
    upstream = Upstream()
    run(lock, upstream, file)
    assert is_whole(file)
    assert sum(stop - start for start, stop in upstream.asked) == 5000 + SIZE


def test_a_member_that_was_all_there_is_only_hashed(lock: Lock, file: PartialFile) -> None:
    file.write(CONTENT, MEMBER.offset)
    file.write(extents_record(DIGEST, Extents([(0, SIZE)])), MEMBER.header_offset)
    upstream = Upstream()
    run(lock, upstream, file)
    assert (is_whole(file), upstream.asked) == (True, [])


def test_what_is_there_is_not_overwritten_by_a_source_that_begins_again(file: PartialFile) -> None:
    """It may be hashed already: other bytes in its place would be signed as right."""
    file.write(CONTENT[500:9000], MEMBER.offset + 500)
    file.write(extents_record(DIGEST, Extents([(500, 9000)])), MEMBER.header_offset)
    taking = place(file)
    assert taking.gaps() == [(0, 500), (9000, SIZE)]
    taking.put(0, CONTENT[:600])
    taking.put(600, b"?" * 400)
    taking.put(1000, b"?" * 8000 + CONTENT[9000:])
    taking.commit()
    assert is_whole(file)


def test_two_who_bring_the_same_bytes_do_not_overwrite_each_other(file: PartialFile) -> None:
    """One registry behind two faces: the second ignores ranges, and brings what a part is on its way with."""

    class Slow(PartialFile):
        def write(self, content: memoryview | bytes, offset: int) -> None:
            if bytes(content[:3]) == b"BAD":
                writing.set()
                assert go_on.wait(30)
            file.write(content, offset)

        def read(self, offset: int, length: int) -> bytes:
            return file.read(offset, length)

    writing, go_on = threading.Event(), threading.Event()
    taking = place(Slow(file.final))
    bad = threading.Thread(target=taking.put, args=(0, b"BAD" + CONTENT[3:900]))
    bad.start()
    assert writing.wait(30)
    taking.put(0, CONTENT)
    go_on.set()
    bad.join()
    with pytest.raises(DigestError):
        taking.commit()
    taking.restart()
    taking.put(0, CONTENT)
    taking.commit()
    assert is_whole(file)
