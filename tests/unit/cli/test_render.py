from __future__ import annotations

import io
import json

import pytest

from bundler.cli.render import Progress, Transfer, human_bytes, human_seconds, render_error
from bundler.domain.events import BytesMoved, ItemDone, PhaseDone, Retrying, TransferPlanned
from bundler.errors import DigestError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def moved(item: str, count: int) -> BytesMoved:
    return BytesMoved(phase="fetch", item=item, count=count)


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


def test_a_transfer_tells_share_rate_time_left_and_the_slowest_item() -> None:
    transfer = Transfer("fetch", total_bytes=1000, items=3, started_s=0.0)
    transfer.moved(moved("slow", 10), 0.0)
    transfer.moved(moved("fast", 390), 4.0)
    transfer.done(ItemDone(phase="fetch", item="fast"))
    line = transfer.line(4.0, width=80)
    assert line == "fetch   40%  400 B of 1.00 kB  98 B/s  1/3  6.2 s left  slow 4.0 s"
    assert transfer.line(4.0, width=len(line) - 1) == line.removesuffix("  slow 4.0 s")


def test_what_people_call_the_slowest_item_stands_beside_it_where_it_fits() -> None:
    transfer = Transfer("fetch", total_bytes=1000, items=3, started_s=0.0)
    transfer.moved(moved("5a78d5291863 pause:3.10", 400), 0.0)
    line = transfer.line(4.0, width=100)
    assert line.endswith("  5a78d5291863 pause:3.10 4.0 s")
    assert transfer.line(4.0, width=len(line) - 1).endswith(" left  5a78d5291863 4.0 s")


def test_bytes_that_need_not_move_count_as_there_but_not_as_moved() -> None:
    transfer = Transfer("ship", total_bytes=1000, items=2, started_s=0.0, present_bytes=900)
    transfer.moved(moved("part 2", 50), 1.0)
    assert "95%  950 B of 1.00 kB" in transfer.line(1.0, width=80)
    assert transfer.summary(2.0) == "50 B in 2.0 s (25 B/s)"


def test_the_rate_is_that_of_the_last_seconds_not_of_the_whole_run() -> None:
    transfer = Transfer("fetch", total_bytes=10_000, items=1, started_s=0.0)
    transfer.moved(moved("a", 9000), 1.0)
    for second in range(2, 40):
        transfer.moved(moved("a", 1), float(second))
    assert transfer.rate(39.0) < 3


def test_bytes_taken_back_never_show_more_than_all_or_a_negative_rate() -> None:
    transfer = Transfer("fetch", total_bytes=100, items=1, started_s=0.0)
    transfer.moved(moved("a", 90), 1.0)
    transfer.moved(moved("a", -90), 2.0)
    assert transfer.rate(2.0) == 0
    assert "0%" in transfer.line(2.0, width=80)


def run(style: str, clock: Clock) -> str:
    stream = io.StringIO()
    progress = Progress(style, stream, clock)
    progress(TransferPlanned(phase="fetch", total_bytes=100, items=2))
    for step in range(1, 5):
        clock.now = step * 6.0
        progress(moved("a", 25))
    progress(ItemDone(phase="fetch", item="a"))
    progress(Retrying(subject="quay.io", cause="503", wait_s=1.5))
    progress(PhaseDone(phase="fetch", detail="2 blobs"))
    progress.close()
    return stream.getvalue()


def test_without_a_terminal_progress_is_plain_lines_every_ten_seconds() -> None:
    text = run("auto", Clock())
    assert "\x1b" not in text
    assert "\r" not in text
    assert [line.split()[1] for line in text.splitlines() if "%" in line] == ["50%", "100%"]
    assert "✓ fetch" in text
    assert "again in 1.5 s: quay.io: 503" in text


def test_on_a_terminal_one_line_lives() -> None:
    assert "\r\x1b[2K" in run("tty", Clock())


def test_json_progress_is_one_document_a_line() -> None:
    events = [json.loads(line) for line in run("json", Clock()).splitlines()]
    assert {event["event"] for event in events} >= {"TransferPlanned", "progress", "Retrying", "PhaseDone"}


def test_no_progress_is_no_output() -> None:
    assert run("none", Clock()) == ""


def test_an_error_shows_object_cause_what_is_safe_and_the_next_command() -> None:
    error = DigestError("blob abc", "is damaged", safe="Nothing was pushed.", hint="Copy the archive again.")
    text = render_error(error)
    assert text.splitlines() == [
        "Digest error: blob abc",
        "  cause: is damaged",
        "  safe:  Nothing was pushed.",
        "  next:  Copy the archive again.",
    ]


def test_foreign_text_in_an_error_cannot_drive_the_terminal() -> None:
    assert "\x1b" not in render_error(DigestError("evil\x1b[2J", "x\x07y"))
