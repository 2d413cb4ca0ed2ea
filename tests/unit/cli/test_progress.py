"""Progress: what is counted, and how it looks, with a clock that the test turns."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import random
import struct
import termios
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.cli.progress import Progress
from bundler.cli.render import human_bytes, human_seconds
from bundler.cli.tally import RATE_STEP_S, RATE_WINDOW_S, Transfer, Window
from bundler.domain.events import BytesMoved, Event, ItemDone, PhaseDone, PhaseStarted, Retrying, TransferPlanned
from tests.terminal import Printed, keep

MB = 1_000_000


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def moved(item: str, count: int, *, kept: bool = False) -> BytesMoved:
    return BytesMoved(phase="fetch", item=item, count=count, kept=kept)


def transfer(total_bytes: int = 1000, *, items: int = 3, present_bytes: int = 0) -> Transfer:
    return Transfer("fetch", total_bytes=total_bytes, items=items, started_s=0.0, present_bytes=present_bytes)


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.50 kB"),
        (12_300_000, "12.3 MB"),
        (123_400_000, "123 MB"),
        (1_840_000_000, "1.84 GB"),
    ],
)
def test_bytes_are_written_as_people_read_them(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.42, "0.4 s"), (42.9, "42 s"), (125, "2:05"), (3723, "1:02:03")])
def test_durations_are_written_as_people_read_them(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


def test_a_transfer_tells_share_rate_time_left_retries_and_the_slowest_item() -> None:
    one = transfer()
    one.moved(moved("5a78d5291863 pause:3.10", 2), 0.0)
    one.moved(moved("5a78d5291863 pause:3.10", 8), 2.0)
    one.moved(moved("fast", 390), 4.0)
    one.done(ItemDone(phase="fetch", item="fast"))
    one.retried(Retrying(subject="quay.io", cause="503", wait_s=1))
    line = "fetch   40%  400 B of 1.00 kB  100 B/s  1/3  6.0 s left  1 retry  5a78d5291863 pause:3.10 4.0 s at 2 B/s"
    assert one.line(4.0, width=110) == line
    assert one.line(4.0, width=100) == line.replace(" pause:3.10", "")
    assert one.line(4.0, width=87) == line.replace(" pause:3.10 4.0 s at 2 B/s", " 4.0 s")
    assert one.line(4.0, width=80) == line.replace("  5a78d5291863 pause:3.10 4.0 s at 2 B/s", "")


@pytest.mark.parametrize("width", range(1, 130))
def test_a_line_always_fits_and_always_has_the_share(width: int) -> None:
    one = transfer(17_500_000_000, items=300)
    one.moved(moved("5a78d5291863 kube-proxy:v1.34.1-eksbuild.2", 123_456_789), 2.0)
    one.retried(Retrying(subject="quay.io", cause="503", wait_s=1))
    line = one.line(5.0, width=width)
    assert line.startswith("fetch    0%")
    assert len(line) <= max(width, len("fetch    0%"))


def test_bytes_that_need_not_move_are_there_but_neither_moved_nor_fast() -> None:
    one = transfer(present_bytes=500)
    one.moved(moved("a", 400, kept=True), 1.0)
    one.moved(moved("a", 50), 1.0)
    assert "95%  950 B of 1.00 kB  50 B/s" in one.line(1.0, width=80)
    assert one.left_s(1.0) == 1.0
    assert one.summary(2.0) == "50 B in 2.0 s (25 B/s)"


def test_the_rate_is_that_of_the_last_seconds_not_of_the_whole_run() -> None:
    window = Window(0.0)
    window.add(9000, 1.0)
    for second in range(2, 40):
        window.add(1, float(second))
    assert window.rate(39.0) == 1


def test_where_nothing_moves_any_more_the_rate_falls_to_nothing() -> None:
    one = transfer()
    one.moved(moved("a", 500), 1.0)
    assert one.window.rate(2.0) == 250
    assert 0 < one.window.rate(8.0) < 100
    assert one.window.rate(9.1) == 0
    assert one.left_s(9.1) is None
    assert one.line(70.0, width=80) == "fetch   50%  500 B of 1.00 kB  0 B/s  0/3  a 1:09 at 0 B/s"


def test_a_window_stays_small_however_many_events_there_are() -> None:
    window = Window(0.0)
    for step in range(100_000):
        window.add(1, step / 1000)
    assert len(window._sums) <= RATE_WINDOW_S / RATE_STEP_S + 2
    assert window.rate(99.999) == pytest.approx(1000, rel=0.1)


def test_a_try_that_starts_again_shows_neither_less_nor_more_than_there_is() -> None:
    one = transfer(100, items=1)
    one.moved(moved("a", 30, kept=True), 0.0)
    one.moved(moved("a", 60), 1.0)
    one.moved(moved("a", -90), 2.0)
    assert (one.shown_bytes, one.there_bytes, one.again_bytes, one.kept_bytes) == (90, 0, 60, 0)
    one.moved(moved("a", 100), 3.0)
    assert (one.shown_bytes, one.there_bytes, one.window.total) == (100, 100, 160)
    assert one.summary(4.0) == "160 B in 4.0 s (40 B/s), 60 B of it again"


def test_an_image_that_got_its_name_is_none_of_the_items() -> None:
    one = transfer(items=1)
    one.done(ItemDone(phase="push", item="a"))
    one.done(ItemDone(phase="push", item="registry/x:1", how="tagged"))
    assert one.done_items == 1


def test_a_hundred_percent_is_all_and_not_nearly_all() -> None:
    one = transfer(1000)
    one.moved(moved("a", 999), 1.0)
    assert " 99%" in one.line(1.0, width=80)


def work(seed: int, *, items: int, size: int) -> Iterator[tuple[float, Event]]:
    """What a fetch may tell: items side by side, of which some were kept, some start again, some are retried."""
    chance = random.Random(seed)
    sizes = {f"{number:012x} image-{number}:1": chance.randrange(1, size) for number in range(items)}
    there = dict.fromkeys(sizes, 0)
    waiting, active, now_s = list(sizes), list[str](), 0.0
    yield now_s, TransferPlanned(phase="fetch", total_bytes=sum(sizes.values()), items=items)
    while waiting or active:
        now_s += chance.random()
        if waiting and len(active) < 4:
            active.append(item := waiting.pop())
            if kept := chance.choice([0, 0, sizes[item] // 2]):
                there[item] = kept
                yield now_s, moved(item, kept, kept=True)
            continue
        item = chance.choice(active)
        if there[item] and chance.random() < 0.05:
            yield now_s, Retrying(subject="registry.example", cause="503 busy", wait_s=1.0)
            yield now_s, moved(item, -there[item])
            there[item] = 0
        elif there[item] < sizes[item]:
            count = min(sizes[item] - there[item], chance.randrange(1, size))
            there[item] += count
            yield now_s, moved(item, count)
        else:
            active.remove(item)
            yield now_s, ItemDone(phase="fetch", item=item)
    yield now_s, PhaseDone(phase="fetch", detail=f"{items} blobs")


def shown(style: str, events: Sequence[tuple[float, Event]]) -> str:
    stream, clock = io.StringIO(), Clock()
    show = Progress(style, stream, clock)
    for clock.now, event in events:
        show(event)
        show.beat()
    show.close()
    return stream.getvalue()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(2, 10**9))
def test_whatever_happens_progress_only_grows_and_ends_at_the_total(seed: int, items: int, size: int) -> None:
    events = list(work(seed, items=items, size=size))
    documents = [json.loads(line) for line in shown("json", events).splitlines()]
    steps = [document for document in documents if document["event"] == "progress"]
    done = [step["bytes"] for step in steps]
    assert done == sorted(done)
    last = steps[-1]
    assert last["bytes"] == last["total_bytes"] == last["moved_bytes"] + last["kept_bytes"] - last["again_bytes"]
    assert (last["items"], last["seconds_left"], last["slowest"]) == (items, None, None)
    assert last["retries"] == sum(isinstance(event, Retrying) for _, event in events)
    assert all(step["bytes_per_second"] >= 0 for step in steps)
    assert all(before["elapsed_seconds"] <= after["elapsed_seconds"] for before, after in pairwise(steps))


@pytest.mark.parametrize("style", ["tty", "plain", "json"])
def test_a_long_fetch_looks_as_docs_keep_it(style: str) -> None:
    text = shown(style, list(work(12, items=12, size=900 * MB)))
    if style == "tty":
        frames = Printed(arguments=(), code=0, raw=text).frames
        text = "".join(f"{frame[at : at + 80].rstrip()}\n" for frame in frames for at in range(0, len(frame), 80))
    keep(f"progress-fetch-{style}", text)


def busy(*, hours: float, every_s: float) -> list[tuple[float, Event]]:
    steps = int(hours * 3600 / every_s)
    events: list[tuple[float, Event]] = [(0.0, TransferPlanned(phase="fetch", total_bytes=steps, items=1))]
    for step in range(1, steps + 1):
        events.append((step * every_s, moved("a", 1)))
        events.append((step * every_s, Retrying(subject="quay.io", cause="503 busy", wait_s=1.0)))
    return [*events, (steps * every_s, ItemDone(phase="fetch", item="a"))]


def test_lines_do_not_flood_a_log_however_long_it_takes_and_how_often_it_fails() -> None:
    lines = shown("plain", busy(hours=2, every_s=0.5)).splitlines()
    assert sum("%" in line for line in lines) == 120
    retries = [line for line in lines if "again in" in line]
    assert len(retries) <= 3 + 720
    assert retries[:3] == ["  again in 1.0 s: quay.io: 503 busy"] * 3
    assert retries[3].endswith("retries so far)")


def test_a_short_run_is_one_line_without_a_terminal() -> None:
    lines = shown("plain", [*busy(hours=0.002, every_s=10), (8.0, PhaseDone(phase="fetch", detail="1 blob"))])
    assert lines.splitlines() == ["✓ fetch          1 blob"]


def test_without_a_terminal_a_line_takes_ten_seconds_and_ten_percent() -> None:
    events: list[tuple[float, Event]] = [(0.0, TransferPlanned(phase="fetch", total_bytes=100, items=1))]
    events += [(float(second), moved("a", 4)) for second in range(1, 26)]
    lines = shown("plain", events).splitlines()
    assert [line.split()[1] for line in lines if "%" in line] == ["40%", "80%"]


def test_on_a_terminal_a_line_is_drawn_ten_times_a_second_at_most() -> None:
    events: list[tuple[float, Event]] = [(0.0, TransferPlanned(phase="fetch", total_bytes=10_000, items=1))]
    events += [(step / 1000, moved("a", 1)) for step in range(10_000)]
    assert 90 <= shown("tty", events).count("\r\x1b[2K") <= 102


def test_a_beat_draws_what_stands_still_and_nothing_once_all_is_there() -> None:
    stream, clock = io.StringIO(), Clock()
    show = Progress("tty", stream, clock)
    show.beat()
    show(TransferPlanned(phase="fetch", total_bytes=100, items=1))
    show(moved("a", 50))
    clock.now = 30.0
    show.beat()
    assert stream.getvalue().endswith("fetch   50%  50 of 100 B  0 B/s  0/1  a 30 s at 0 B/s")
    show(moved("a", 50))
    show(ItemDone(phase="fetch", item="a"))
    before, clock.now = stream.getvalue(), 60.0
    show.beat()
    assert stream.getvalue() == before


def test_a_beat_is_held_and_let_go() -> None:
    before = threading.active_count()
    show = Progress("tty", io.StringIO(), Clock())
    with show.beating():
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    with Progress("none").beating():
        assert threading.active_count() == before


def test_64_threads_lose_no_byte() -> None:
    show = Progress("json", stream := io.StringIO())
    show(TransferPlanned(phase="fetch", total_bytes=64 * 500 * 7, items=64))

    def tell(number: int) -> None:
        for _ in range(500):
            show(moved(f"item {number}", 7))
        show(ItemDone(phase="fetch", item=f"item {number}"))

    threads = [threading.Thread(target=tell, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    show.close()
    last = json.loads(stream.getvalue().splitlines()[-1])
    assert (last["bytes"], last["items"]) == (64 * 500 * 7, 64)


def test_no_progress_is_no_output() -> None:
    assert shown("none", list(work(1, items=3, size=1000))) == ""


@pytest.fixture
def screen() -> Iterator[tuple[io.TextIOWrapper, int]]:
    """A pseudo terminal of 40 columns: what a program writes to, and the far side of it."""
    master, slave = pty.openpty()
    resize(slave, 40)
    with os.fdopen(slave, "w", encoding="utf-8") as stream:
        yield stream, master
    os.close(master)


def resize(handle: int, width: int) -> None:
    fcntl.ioctl(handle, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))


def test_a_terminal_that_becomes_narrower_keeps_no_rest_of_the_line(
    screen: tuple[io.TextIOWrapper, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setenv("TERM", "xterm")
    stream, master = screen
    clock = Clock()
    show = Progress("auto", stream, clock)
    show(TransferPlanned(phase="fetch", total_bytes=2000 * MB, items=9))
    for clock.now, width in ((1.0, 40), (2.0, 20), (3.0, 100)):
        resize(stream.fileno(), width)
        show(moved("5a78d5291863", 400 * MB))
    show.close()
    content = b""
    while not content.endswith(b"\n"):  # a terminal gives what it has in pieces
        content += os.read(master, 1 << 16)
    drawn = content.decode().split("\r\x1b[2K")
    assert drawn[1:4] == [
        "  fetch   20%  400 MB of 2.00 GB  0/9",
        "\x1b[1A\x1b[2K  fetch   40%  0/9",
        "  fetch   60%  1.20 of 2.00 GB  400 MB/s  0/9  2.0 s left",
    ]


def test_on_a_terminal_what_takes_long_and_the_last_failure_have_a_row_of_their_own() -> None:
    stream, clock = io.StringIO(), Clock()
    show = Progress("tty", stream, clock)
    show(TransferPlanned(phase="fetch", total_bytes=2000 * MB, items=9))
    show(moved("5a78d5291863 pause:3.10", 1 * MB))
    show(Retrying(subject="quay.io", cause="503 busy", wait_s=1))
    clock.now = 4.0
    show(moved("5a78d5291863 pause:3.10", 40 * MB))
    first = "  fetch    2%  41.0 MB of 2.00 GB  10.2 MB/s  0/9  3:11 left  1 retry"
    second = "    5a78d5291863 pause:3.10 4.0 s at 10.0 MB/s  failed last: 503 busy"
    assert stream.getvalue().endswith("\r\x1b[2K" + first.ljust(80) + second)
    show.close()
    assert stream.getvalue().endswith(second + "\r\x1b[2K\x1b[1A\x1b[2K  fetch          41.0 MB in 4.0 s (10.2 MB/s)\n")


def test_no_color_and_a_terminal_without_our_marks_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    content = io.BytesIO()
    show = Progress("tty", io.TextIOWrapper(content, encoding="ascii"), Clock())
    show(PhaseStarted(phase="fetch"))
    show(PhaseDone(phase="fetch", detail="2 blobs"))
    assert content.getvalue() == b"\r\x1b[2K  fetch ~\r\x1b[2K+ fetch          2 blobs\n"


def test_a_log_is_not_told_again_how_many_items_are_done() -> None:
    stream, clock = io.StringIO(), Clock()
    show = Progress("plain", stream, clock)
    show(TransferPlanned(phase="resolve", total_bytes=0, items=4))
    show(ItemDone(phase="resolve", item="a"))
    clock.now = 100.0
    show.beat()
    assert stream.getvalue() == ""
    show(ItemDone(phase="resolve", item="b"))
    assert stream.getvalue() == "  resolve  2 of 4\n"
