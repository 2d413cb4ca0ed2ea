"""How far the work has come, on stderr: one or two living lines, plain lines, or a JSON object a line.

Events come from many threads, thousands a second: each only adds to a few numbers. What is drawn is worked out when it
is due, and a beat goes on drawing while nothing moves and no event comes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

import click

from bundler.cli.render import columns, filled, human_bytes, human_seconds, visible
from bundler.domain.events import (
    BytesMoved,
    DeltaPlanned,
    Event,
    ItemDone,
    Noted,
    PhaseDone,
    PhaseStarted,
    Retrying,
    TransferPlanned,
    Waiting,
    counted,
)
from bundler.transfer import Beat, Once

TTY_INTERVAL_S = 0.1
JSON_INTERVAL_S = 1.0
PLAIN_INTERVAL_S = 10.0
PLAIN_SHARE = 0.1  # a line for so much more of all,
PLAIN_LONGEST_S = 60.0  # and one a minute where that takes longer
RATE_WINDOW_S = 8.0
RATE_STEP_S = 0.5
SLOW_S = 3.0  # under way for so long, an item gets a line of its own
RETRIES_SHOWN = 3  # of a phase; then one each PLAIN_INTERVAL_S
_PHASE = 17  # "✓ infrastructure "
_ASCII = str.maketrans({"✓": "+", "…": "~"})


class Window:
    """Bytes of the last seconds: a few sums with their times, however many events add to them."""

    __slots__ = ("_last_s", "_sums", "total")

    def __init__(self, now_s: float) -> None:
        self.total = 0
        self._last_s = now_s
        self._sums = deque([(now_s, 0)])

    def add(self, count: int, now_s: float) -> None:
        """Count bytes that went through."""
        self.total += count
        self._last_s = now_s
        if now_s - self._sums[-1][0] >= RATE_STEP_S:
            self._sums.append((now_s, self.total))
            self._forget(now_s)

    def rate(self, now_s: float) -> float:
        """Bytes a second over the last RATE_WINDOW_S; 0 where nothing came for so long."""
        if now_s - self._last_s > RATE_WINDOW_S:
            return 0.0
        self._forget(now_s)
        at, total = self._sums[0]
        return (self.total - total) / max(now_s - at, 0.05)

    def _forget(self, now_s: float) -> None:
        while len(self._sums) > 1 and self._sums[1][0] <= now_s - RATE_WINDOW_S:
            self._sums.popleft()


class Item:
    """One item under way: since when, how fast, and of which of its bytes a new try takes back what."""

    __slots__ = ("kept", "moved", "since_s", "window")

    def __init__(self, now_s: float) -> None:
        self.since_s = now_s
        self.window = Window(now_s)
        self.moved = 0
        self.kept = 0

    def text(self, name: str, now_s: float) -> str:
        """Name, age, rate."""
        return f"{name} {human_seconds(now_s - self.since_s)} at {human_bytes(self.window.rate(now_s))}/s"


@dataclass(slots=True)
class Transfer:
    """Progress of one phase: a state that events change and `line` reads; no clock, no terminal.

    Attributes:
        present_bytes: those of `total_bytes` that need not move, as planned.
        kept_bytes: those that turned out on the way not to need to.
        again_bytes: what moved and was thrown away; it moves again.
        shown_bytes: how far it ever was: it never goes back when a try starts again, nor past the total.
        active: what is under way, the longest first.
    """

    phase: str
    total_bytes: int
    items: int
    started_s: float
    present_bytes: int = 0
    kept_bytes: int = 0
    again_bytes: int = 0
    shown_bytes: int = 0
    done_items: int = 0
    retries: int = 0
    last_cause: str = ""
    active: dict[str, Item] = field(default_factory=dict)
    window: Window = field(init=False)

    def __post_init__(self) -> None:
        self.window = Window(self.started_s)
        self.shown_bytes = min(self.present_bytes, self.total_bytes)

    def moved(self, event: BytesMoved, now_s: float) -> None:
        """Count bytes, and remember since when the item is under way."""
        item = self.active.get(event.item)
        is_first = item is None
        if item is None:
            item = self.active[event.item] = Item(now_s)
        if event.count < 0:
            self._take_back(item, -event.count)
        elif event.kept:
            item.kept += event.count
            self.kept_bytes += event.count
        else:
            item.moved += event.count
            if not is_first:  # what time these took is not known
                item.window.add(event.count, now_s)
            self.window.add(event.count, now_s)
        self.shown_bytes = max(self.shown_bytes, min(self.there_bytes, self.total_bytes))

    def _take_back(self, item: Item, count: int) -> None:
        """What moved goes first; what else a try had was kept, and is not any more."""
        moved = min(count, item.moved)
        item.moved -= moved
        item.kept -= count - moved
        self.again_bytes += moved
        self.kept_bytes -= count - moved

    def done(self, event: ItemDone) -> None:
        """Count an item."""
        self.active.pop(event.item, None)
        if event.how != "tagged":
            self.done_items += 1

    def retried(self, event: Retrying) -> None:
        """Count a failed try."""
        self.retries += 1
        self.last_cause = event.cause

    @property
    def there_bytes(self) -> int:
        """Bytes that are at their destination, without those of tries that were thrown away."""
        return self.present_bytes + self.kept_bytes + self.window.total - self.again_bytes

    @property
    def is_complete(self) -> bool:
        """Whether everything is where it belongs."""
        return self.there_bytes >= self.total_bytes and self.done_items >= self.items

    @property
    def share(self) -> float:
        """How much of all, 0 to 1: by bytes, else by items."""
        if self.total_bytes:
            return self.shown_bytes / self.total_bytes
        return self.done_items / self.items if self.items else 1.0

    def left_s(self, now_s: float) -> float | None:
        """Seconds left at the rate of the last seconds; None where nothing moves, or nothing is left."""
        left, rate = self.total_bytes - self.there_bytes, self.window.rate(now_s)
        return left / rate if rate > 0 and left > 0 else None

    def slowest(self) -> tuple[str, Item] | None:
        """What is under way longest; None where all bytes are there."""
        return None if self.there_bytes >= self.total_bytes else next(iter(self.active.items()), None)

    def line(self, now_s: float, *, width: int, alone: bool = True) -> str:
        """One line: share, bytes of all, rate, items, time left, retries; as far as it fits, but always the share.

        Args:
            now_s: as events came with it.
            width: columns.
            alone: no `detail` follows: what is under way longest stands here, where it fits.
        """
        if not self.total_bytes:
            return f"{self.phase}  {self.done_items} of {self.items}"
        parts = [f"{self.phase}  {_percent(self.share)}", *[""] * 6]
        for place, texts in self._wanted(now_s, alone=alone):
            room = width - len(_joined(parts)) - 2
            parts[place] = next((text for text in texts if len(text) <= room), "")
        return _joined(parts)

    def _wanted(self, now_s: float, *, alone: bool) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Yield what should follow the share, the most important first: its place; its forms, the longest first."""
        yield 1, (_of(human_bytes(self.shown_bytes), human_bytes(self.total_bytes)),)
        yield 2, (f"{human_bytes(self.window.rate(now_s))}/s",)
        left_s = self.left_s(now_s)
        yield 4, () if left_s is None else (f"{human_seconds(left_s)} left",)
        yield 5, (counted(self.retries, "retry", "retries"),) if self.retries else ()
        yield 3, (f"{self.done_items}/{self.items}",) if self.items else ()
        found = self.slowest()
        if found is not None and alone:
            name, item = found
            short = name.partition(" ")[0]  # without what people call it
            yield 6, (item.text(name, now_s), item.text(short, now_s), f"{short} {human_seconds(now_s - item.since_s)}")

    def detail(self, now_s: float) -> str:
        """What is under way longest, if that is long; why the last try failed that did. Often empty."""
        found = self.slowest()
        is_slow = found is not None and now_s - found[1].since_s >= SLOW_S
        slow = found[1].text(found[0], now_s) if found is not None and is_slow else ""
        failed = f"failed last: {self.last_cause}" if self.retries and self.there_bytes < self.total_bytes else ""
        return _joined([slow, failed])

    def document(self, now_s: float) -> dict[str, object]:
        """The same for machines; docs/formats.md names the fields."""
        found, left_s = self.slowest(), self.left_s(now_s)
        return {
            "event": "progress",
            "phase": self.phase,
            "bytes": self.shown_bytes,
            "total_bytes": self.total_bytes,
            "moved_bytes": self.window.total,
            "kept_bytes": self.present_bytes + self.kept_bytes,
            "again_bytes": self.again_bytes,
            "items": self.done_items,
            "total_items": self.items,
            "bytes_per_second": round(self.window.rate(now_s)),
            "elapsed_seconds": round(now_s - self.started_s, 1),
            "seconds_left": None if left_s is None else round(left_s, 1),
            "retries": self.retries,
            "last_cause": self.last_cause or None,
            "slowest": None
            if found is None
            else {
                "item": found[0],
                "bytes_per_second": round(found[1].window.rate(now_s)),
                "seconds": round(now_s - found[1].since_s, 1),
            },
        }

    def summary(self, now_s: float) -> str:
        """What the finished phase moved; empty where that is nothing."""
        moved, took = self.window.total, max(now_s - self.started_s, 0.001)
        if moved <= 0:
            return ""
        text = f"{human_bytes(moved)} in {human_seconds(took)} ({human_bytes(moved / took)}/s)"
        if self.again_bytes:
            text += f", {human_bytes(self.again_bytes)} of it again"
        return text + (f", {self.retries} retries" if self.retries > RETRIES_SHOWN else "")


def _joined(parts: Iterable[str]) -> str:
    return "  ".join(filter(None, parts))


def _percent(share: float) -> str:
    """Return the share in whole percents; 100 only where it is all."""
    return f"{int(share * 100 + 1e-9):3}%"


def _of(part: str, whole: str) -> str:
    """Return `part of whole`, the unit once where it is the same."""
    count, _, unit = part.partition(" ")
    return f"{count if whole.endswith(f' {unit}') else part} of {whole}"


class Progress:
    """Takes events and shows them in one of four ways: `tty` (one living line, or two), `plain`, `json`, `none`."""

    def __init__(self, style: str, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._style = _choose(style, self._stream)
        self._clock = clock
        self._transfer: Transfer | None = None
        self._interval_s = {"tty": TTY_INTERVAL_S, "json": JSON_INTERVAL_S}.get(self._style, PLAIN_INTERVAL_S)
        self._drawn_s = float("-inf")
        self._drawn_share = 0.0
        self._retry_s = float("-inf")
        self._living = 0
        self._plain_marks = _is_ascii(self._stream)
        self._once = Once()

    def __call__(self, event: Event) -> None:
        """Show `event`; safe to call from any thread."""
        if self._style == "none":
            return
        with self._once:
            if isinstance(event, BytesMoved | ItemDone):
                self._track(event)
            elif self._style == "json":
                self._json(event)
            else:
                self._text(event)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Go on drawing while held, also where nothing moves."""
        if self._style == "none":
            yield
            return
        with Beat(self.beat, every_s=min(self._interval_s, JSON_INTERVAL_S)):
            yield

    def beat(self) -> None:
        """Draw what is under way, where that is due; a log is not told again how many items are done."""
        with self._once:
            transfer = self._transfer
            if transfer is None or transfer.is_complete or (self._style == "plain" and not transfer.total_bytes):
                return
            self._draw(transfer, self._clock())

    def tell(self, lines: Iterable[str]) -> None:
        """Write lines that must be seen in every style: as events for machines, else as they are."""
        with self._once:
            self._end_transfer()
            for line in lines:
                if self._style == "json":
                    self._write_json(_document(Noted(text=click.unstyle(line))))
                else:
                    click.echo(line, file=self._stream)

    def close(self) -> None:
        """End the living line."""
        with self._once:
            self._end_transfer()

    def _json(self, event: Event) -> None:
        if isinstance(event, PhaseStarted | PhaseDone | TransferPlanned):
            self._end_transfer()
        if isinstance(event, TransferPlanned):
            self._begin(event)
        elif isinstance(event, Retrying) and self._transfer is not None:
            self._transfer.retried(event)
        self._write_json(_document(event))

    def _write_json(self, document: dict[str, object]) -> None:
        self._stream.write(json.dumps(document, sort_keys=True) + "\n")
        self._stream.flush()

    def _text(self, event: Event) -> None:
        if isinstance(event, TransferPlanned):
            self._end_transfer()
            self._begin(event)
        elif isinstance(event, PhaseStarted):
            self._end_transfer()
            if self._style == "tty":
                self._living_line(f"  {event.phase}  {event.detail}".rstrip() + " …")
        elif isinstance(event, PhaseDone):
            self._end_transfer()
            self._say("✓", f"{event.phase:<14} {event.detail}".rstrip(), indent=_PHASE, colour="green")
        elif isinstance(event, Retrying):
            self._retrying(event)
        elif isinstance(event, Waiting):
            self._waiting(event)
        elif isinstance(event, DeltaPlanned):
            self._say(" ", _foretold(event))
        elif isinstance(event, Noted):
            self._say("!" if event.warning else " ", event.text, colour="yellow")

    def _begin(self, event: TransferPlanned) -> None:
        self._transfer = Transfer(
            event.phase, event.total_bytes, event.items, self._clock(), present_bytes=event.present_bytes
        )
        self._drawn_s, self._drawn_share = self._clock(), 0.0

    def _track(self, event: BytesMoved | ItemDone) -> None:
        transfer = self._transfer
        if transfer is None or transfer.phase != event.phase:
            return
        now_s = self._clock()
        if isinstance(event, BytesMoved):
            transfer.moved(event, now_s)
        else:
            transfer.done(event)
        if now_s - self._drawn_s >= self._interval_s:
            self._draw(transfer, now_s)

    def _draw(self, transfer: Transfer, now_s: float) -> None:
        spent_s = now_s - self._drawn_s
        if spent_s < self._interval_s or (self._style == "plain" and not self._is_news(transfer, spent_s)):
            return
        self._drawn_s, self._drawn_share = now_s, transfer.share
        if self._style == "json":
            self._write_json(transfer.document(now_s))
            return
        width, detail = columns(self._stream) - 3, transfer.detail(now_s) if self._style == "tty" else ""
        line = transfer.line(now_s, width=width, alone=self._style != "tty")
        if detail and len(line) + 2 + len(detail) <= width:
            line, detail = f"{line}  {detail}", ""
        self._living_line(f"  {line}", detail)

    def _is_news(self, transfer: Transfer, spent_s: float) -> bool:
        return spent_s >= PLAIN_LONGEST_S or transfer.share - self._drawn_share >= PLAIN_SHARE

    def _retrying(self, event: Retrying) -> None:
        """Say the first ones, and then one of many: a far side that is busy says so a thousand times."""
        transfer, now_s = self._transfer, self._clock()
        if transfer is not None:
            transfer.retried(event)
            if transfer.retries > RETRIES_SHOWN and now_s - self._retry_s < PLAIN_INTERVAL_S:
                return
        self._retry_s = now_s
        so_far = f" ({transfer.retries} retries so far)" if transfer and transfer.retries > RETRIES_SHOWN else ""
        self._say(" ", f"again in {event.wait_s:.1f} s: {event.subject}: {event.cause}{so_far}", indent=4)

    def _waiting(self, event: Waiting) -> None:
        now_s = self._clock()
        is_long = self._style == "plain" and event.elapsed_s > PLAIN_LONGEST_S
        if now_s - self._drawn_s < (PLAIN_LONGEST_S if is_long else self._interval_s):
            return
        self._drawn_s = now_s
        spent = f"{human_seconds(event.elapsed_s)} of at most {human_seconds(event.limit_s)}"
        self._living_line(f"  waiting for {event.subject}, {spent}: {event.state}")

    def _living_line(self, text: str, detail: str = "") -> None:
        """Draw anew what lives: one row, or two where there is a detail; the terminal itself goes on in the second."""
        width = columns(self._stream)
        if self._style == "tty":
            shown = self._marked(visible(text))[: width - 1]
            if detail:
                shown = shown.ljust(width) + f"    {self._marked(visible(detail))}"[: width - 1]
            self._stream.write(self._erased(width) + shown)
            self._living = len(shown)
        else:
            self._stream.write(self._marked(filled(visible(text), width, indent=4)) + "\n")
        self._stream.flush()

    def _erased(self, width: int) -> str:
        """What takes the living line away: all rows of it, more where the terminal became narrower."""
        return "\r\x1b[2K" + "\x1b[1A\x1b[2K" * (max(0, self._living - 1) // width)

    def _end_transfer(self) -> None:
        finished, self._transfer = self._transfer, None
        if finished is not None and self._style == "json":
            self._write_json(finished.document(self._clock()))
        if self._style in ("json", "none"):
            return
        summary = finished.summary(self._clock()) if finished is not None else ""
        if finished is not None and summary:
            self._say(" ", f"{finished.phase:<14} {summary}", indent=_PHASE)
        elif self._living:
            self._end_living()
            self._stream.flush()

    def _end_living(self) -> None:
        if self._living:
            self._stream.write(self._erased(columns(self._stream)))
            self._living = 0

    def _say(self, mark: str, text: str, *, indent: int = 2, colour: str | None = None) -> None:
        """Write a lasting line after its mark; what does not fit goes on below, `indent` blanks to the right."""
        self._end_living()
        shown = filled(f"{mark} {visible(text)}", columns(self._stream), indent=indent)
        if colour is not None and self._colour():
            shown = click.style(mark, fg=colour) + shown.removeprefix(mark)
        self._stream.write(self._marked(shown) + "\n")
        self._stream.flush()

    def _marked(self, text: str) -> str:
        return text.translate(_ASCII) if self._plain_marks else text

    def _colour(self) -> bool:
        return self._style == "tty" and "NO_COLOR" not in os.environ


def _choose(style: str, stream: TextIO) -> str:
    if style != "auto":
        return style
    return "tty" if stream.isatty() and os.environ.get("TERM") != "dumb" else "plain"


def _is_ascii(stream: TextIO) -> bool:
    """Whether the stream cannot take our marks."""
    try:
        "✓…".encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def _document(event: Event) -> dict[str, object]:
    return {"event": type(event).__name__, **dataclasses.asdict(event)}


def _foretold(event: DeltaPlanned) -> str:
    carried = f"{counted(event.carried, 'blob')}, {human_bytes(event.carried_bytes)} with all of its own"
    absent = f"{counted(event.absent, 'blob')}, {human_bytes(event.absent_bytes)}, are at the site"
    return f"against {event.against}: carries {carried}; {absent}"
