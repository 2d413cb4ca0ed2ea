"""Whoever reads a whole archive, or its parts, tells of every byte and item that was planned, damaged or not."""

from __future__ import annotations

from pathlib import Path

from bundler.archive.damage import damaged_members
from bundler.archive.reader import open_archive
from bundler.archive.slicing import slice_archive
from bundler.archive.writer import no_failpoint
from bundler.cli.tally import Transfer
from bundler.domain.events import BytesMoved, Event, ItemDone, TransferPlanned
from bundler.transfer import Pace
from bundler.wiring.clients import one_source
from bundler.wiring.parts import parts_found
from tests.fakes.archives import MemorySource, sample
from tests.fakes.sliced import around, sliced

SAMPLE = sample()


def told(events: list[Event]) -> Transfer:
    """The state in which progress ends; the tellers have one phase each."""
    (planned,) = [event for event in events if isinstance(event, TransferPlanned)]
    ended = Transfer(planned.phase, total_bytes=planned.total_bytes, items=planned.items, started_s=0.0)
    for event in events:
        if isinstance(event, BytesMoved):
            assert event.phase == planned.phase
            ended.moved(event, 0.0)
        elif isinstance(event, ItemDone):
            ended.done(event)
    return ended


def check(events: list[Event]) -> None:
    ended = told(events)
    assert ended.there_bytes == ended.shown_bytes == ended.total_bytes > 0
    assert ended.done_items == ended.items


def test_verify(tmp_path: Path) -> None:
    events: list[Event] = []
    content = SAMPLE.build(tmp_path).read_bytes()
    open_archive(MemorySource(content), SAMPLE.trust).verify_all(emit=events.append)
    check(events)


def test_split(tmp_path: Path) -> None:
    events: list[Event] = []
    root = SAMPLE.layout.root.digest
    slice_archive(SAMPLE.build(tmp_path), root=root, part_bytes=40_000, failpoint=no_failpoint, emit=events.append)
    check(events)


def test_parts(tmp_path: Path) -> None:
    events: list[Event] = []
    cut = sliced(SAMPLE, tmp_path)
    cut.flip(1)
    cut.path(2).unlink()
    opener = lambda name: one_source(name, around())  # noqa: E731
    with parts_found(str(cut.table_path), (), open_one=opener, pace=Pace()) as source:
        flaws = source.survey(pace=Pace(emit=events.append))
    assert len(flaws) == 2
    check(events)


def test_damage(tmp_path: Path) -> None:
    events: list[Event] = []
    content = bytearray(SAMPLE.build(tmp_path).read_bytes())
    member = SAMPLE.layout.blobs[0]
    content[member.offset] ^= 1
    source = MemorySource(bytes(content))
    assert damaged_members(source, SAMPLE.layout.members, pace=Pace(emit=events.append)) == (member,)
    check(events)
