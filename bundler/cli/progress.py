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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO

import click

from bundler.cli.render import columns, filled, human_bytes, human_seconds, visible
from bundler.cli.tally import RETRIES_SHOWN, Transfer
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
_PHASE = 17  # "✓ infrastructure "
_ASCII = str.maketrans({"✓": "+", "…": "~"})


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
