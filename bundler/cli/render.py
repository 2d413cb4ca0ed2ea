"""What people see: progress on stderr, tables and documents on stdout. The only module that draws."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TextIO

import click

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
from bundler.errors import BundleError
from bundler.transfer import Once

PLAIN_INTERVAL_S = 10.0
TTY_INTERVAL_S = 0.1
RATE_WINDOW_S = 8.0
MAX_COLUMNS = 100
_LABEL = 9  # "  cause: "
_PHASE = 17  # "✓ infrastructure "
_COMMAND = re.compile(r"(?P<before>(?:.*?: )?)(?P<command>(?:aws|bundle|chmod|chown|helm|kubectl) \S.*)\Z")


def columns(stream: TextIO) -> int:
    """Return the width of what people look at: COLUMNS, else the terminal's, else 80."""
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def human_bytes(count: float) -> str:
    """Return `count` bytes as a person reads it: 512 B, 31.2 MB, 1.84 GB (powers of ten)."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= size:
            digits = 2 if abs(count) < 10 * size else 1 if abs(count) < 100 * size else 0
            return f"{count / size:.{digits}f} {unit}"
    return f"{count:.0f} B"


def human_seconds(seconds: float) -> str:
    """Return a duration as 0.4 s, 42 s, 2:05 or 1:02:03."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


@dataclass(slots=True)
class Transfer:
    """Progress of one phase: a state that events change and `line` reads; no clock, no terminal.

    Attributes:
        present_bytes: those of `total_bytes` that need not move.
    """

    phase: str
    total_bytes: int
    items: int
    started_s: float
    present_bytes: int = 0
    moved_bytes: int = 0
    done_items: int = 0
    active: dict[str, float] = field(default_factory=dict)
    samples: list[tuple[float, int]] = field(default_factory=list)

    def moved(self, event: BytesMoved, now_s: float) -> None:
        """Count bytes, and remember since when the item is under way."""
        self.moved_bytes += event.count
        self.active.setdefault(event.item, now_s)
        self.samples.append((now_s, self.moved_bytes))
        if self.samples[-1][0] - self.samples[0][0] > RATE_WINDOW_S:
            keep = next(i for i, (at, _) in enumerate(self.samples) if now_s - at <= RATE_WINDOW_S)
            del self.samples[: max(0, keep - 1)]

    def done(self, event: ItemDone) -> None:
        """Count an item."""
        self.done_items += 1
        self.active.pop(event.item, None)

    def rate(self, now_s: float) -> float:
        """Bytes a second over the last seconds."""
        if not self.samples:
            return 0.0
        at, count = self.samples[0] if len(self.samples) > 1 else (self.started_s, 0)
        return max(0.0, (self.moved_bytes - count) / max(now_s - at, 0.05))

    def line(self, now_s: float, *, width: int) -> str:
        """One line: share, bytes of all, rate, items, time left; if it fits, what is under way longest and how long."""
        if not self.total_bytes:
            return f"{self.phase}  {self.done_items} of {self.items}"
        there = self.present_bytes + self.moved_bytes
        share, rate = min(1.0, there / self.total_bytes), self.rate(now_s)
        parts = [
            f"{self.phase}  {share:4.0%}",
            _of(human_bytes(there), human_bytes(self.total_bytes)),
            f"{human_bytes(rate)}/s",
            f"{self.done_items}/{self.items}",
        ]
        if rate > 0 and share < 1:
            parts.append(f"{human_seconds((self.total_bytes - there) / rate)} left")
        line = "  ".join(parts)
        item, since = min(self.active.items(), key=lambda entry: entry[1], default=("", now_s))
        if not item or share >= 1:
            return line
        names = (item, item.partition(" ")[0])  # with and without what people call it
        longer = (f"{line}  {name} {human_seconds(now_s - since)}" for name in names)
        return next((text for text in longer if len(text) <= width), line)

    def summary(self, now_s: float) -> str:
        """What the finished phase moved; empty where that is nothing."""
        took = max(now_s - self.started_s, 0.001)
        if self.moved_bytes <= 0:
            return ""
        return f"{human_bytes(self.moved_bytes)} in {human_seconds(took)} ({human_bytes(self.moved_bytes / took)}/s)"


def _of(part: str, whole: str) -> str:
    """Return `part of whole`, the unit once where it is the same."""
    count, _, unit = part.partition(" ")
    return f"{count if whole.endswith(f' {unit}') else part} of {whole}"


class Progress:
    """Takes events and shows them in one of four ways: `tty` (one living line), `plain`, `json`, `none`."""

    def __init__(self, style: str, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._style = _choose(style, self._stream)
        self._clock = clock
        self._transfer: Transfer | None = None
        self._drawn_s = float("-inf")
        self._living = False
        self._once = Once()

    def __call__(self, event: Event) -> None:
        """Show `event`; safe to call from any thread."""
        if self._style == "none":
            return
        with self._once:
            if self._style == "json":
                self._json(event)
            else:
                self._text(event)

    def tell(self, lines: Iterable[str]) -> None:
        """Write lines that must be seen in every style: as events for machines, else as they are."""
        with self._once:
            self._end_transfer()
            for line in lines:
                if self._style == "json":
                    self._json(Noted(text=click.unstyle(line)))
                else:
                    click.echo(line, file=self._stream)

    def close(self) -> None:
        """End the living line."""
        with self._once:
            self._end_transfer()

    def _json(self, event: Event) -> None:
        if isinstance(event, BytesMoved | ItemDone):
            self._track(event)
            if self._transfer is None or not self._due(1.0):
                return
            document: dict[str, object] = {
                "event": "progress",
                "phase": event.phase,
                "bytes": self._transfer.present_bytes + self._transfer.moved_bytes,
                "total_bytes": self._transfer.total_bytes,
                "items": self._transfer.done_items,
                "total_items": self._transfer.items,
                "bytes_per_second": round(self._transfer.rate(self._clock())),
            }
        else:
            if isinstance(event, TransferPlanned):
                self._begin(event)
            document = {"event": type(event).__name__, **dataclasses.asdict(event)}
        self._stream.write(json.dumps(document, sort_keys=True) + "\n")
        self._stream.flush()

    def _text(self, event: Event) -> None:
        if isinstance(event, TransferPlanned):
            self._end_transfer()
            self._begin(event)
        elif isinstance(event, BytesMoved | ItemDone):
            self._track(event)
            self._draw()
        elif isinstance(event, PhaseStarted):
            self._end_transfer()
            if self._style == "tty":
                self._living_line(f"  {event.phase}  {event.detail}".rstrip() + " …")
        elif isinstance(event, PhaseDone):
            self._end_transfer()
            self._say("✓", f"{event.phase:<14} {event.detail}".rstrip(), indent=_PHASE, colour="green")
        elif isinstance(event, Retrying):
            self._say(" ", f"again in {event.wait_s:.1f} s: {event.subject}: {event.cause}", indent=4)
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
        self._drawn_s = self._clock()

    def _track(self, event: BytesMoved | ItemDone) -> None:
        if self._transfer is None or self._transfer.phase != event.phase:
            return
        if isinstance(event, BytesMoved):
            self._transfer.moved(event, self._clock())
        else:
            self._transfer.done(event)

    def _due(self, interval_s: float) -> bool:
        now = self._clock()
        if now - self._drawn_s < interval_s:
            return False
        self._drawn_s = now
        return True

    def _draw(self) -> None:
        if self._transfer is None or not self._due(TTY_INTERVAL_S if self._style == "tty" else PLAIN_INTERVAL_S):
            return
        width = columns(self._stream) - 3 if self._style == "tty" else MAX_COLUMNS
        self._living_line("  " + self._transfer.line(self._clock(), width=width))

    def _waiting(self, event: Waiting) -> None:
        if self._due(TTY_INTERVAL_S if self._style == "tty" else PLAIN_INTERVAL_S):
            spent = f"{human_seconds(event.elapsed_s)} of at most {human_seconds(event.limit_s)}"
            self._living_line(f"  waiting for {event.subject}, {spent}: {event.state}")

    def _living_line(self, text: str) -> None:
        if self._style == "tty":
            self._stream.write("\r\x1b[2K" + visible(text)[: columns(self._stream) - 1])
            self._living = True
        else:
            self._stream.write(_filled(visible(text), columns(self._stream), indent=4) + "\n")
        self._stream.flush()

    def _end_transfer(self) -> None:
        finished, self._transfer = self._transfer, None
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
            self._stream.write("\r\x1b[2K")
            self._living = False

    def _say(self, mark: str, text: str, *, indent: int = 2, colour: str | None = None) -> None:
        """Write a lasting line after its mark; what does not fit goes on below, `indent` blanks to the right."""
        self._end_living()
        shown = _filled(f"{mark} {visible(text)}", columns(self._stream), indent=indent)
        if colour is not None and self._colour():
            shown = click.style(mark, fg=colour) + shown.removeprefix(mark)
        self._stream.write(shown + "\n")
        self._stream.flush()

    def _colour(self) -> bool:
        return self._style == "tty" and "NO_COLOR" not in os.environ


def _choose(style: str, stream: TextIO) -> str:
    if style != "auto":
        return style
    return "tty" if stream.isatty() and os.environ.get("TERM") != "dumb" else "plain"


def render_error(error: BundleError, *, width: int | None = None) -> str:
    """Return an error as people read it: object and cause, what is safe, what to do next."""
    width = min(columns(sys.stderr), MAX_COLUMNS) if width is None else width
    lines = [_filled(visible(f"{error.title}: {error.subject}"), width, indent=2)]
    for label, text in (("cause:", error.cause), ("safe:", error.safe), ("next:", error.hint)):
        if text:
            lines.append(_labelled(label, visible(text), width))
    return "\n".join(lines) + "\n"


def _labelled(label: str, text: str, width: int) -> str:
    """Put `text` beside its label; its own line breaks stay."""
    lines = [line for part in text.rstrip().split("\n") for line in _with_command(part, width - _LABEL)]
    shown = "\n".join(_below(line, width) for line in lines)
    return f"  {label:<{_LABEL - 2}}" + shown[_LABEL:]


def _with_command(line: str, width: int) -> list[str]:
    """Give a command that ends a line a line of its own where both do not fit."""
    match = _COMMAND.match(line)
    if match is None or len(line) <= width or not match["before"]:
        return [line]
    return [match["before"].rstrip(), match["command"]]


def _below(line: str, width: int) -> str:
    """Put one line under the first of its paragraph; a command stays whole, to be copied."""
    text = line.lstrip(" ")
    depth = _LABEL + len(line) - len(text)
    match = _COMMAND.match(text)
    if match is not None and not match["before"]:
        return " " * depth + text
    bullet = "- " if text.startswith("- ") else ""
    folded = _filled(text.removeprefix(bullet), width - depth, first=bullet, indent=len(bullet))
    return " " * depth + folded.replace("\n", "\n" + " " * depth)


def _filled(text: str, width: int, *, first: str = "", indent: int) -> str:
    """Fold `text` at blanks, behind `first`; blanks inside a line and at its begin stay."""
    wrapper = textwrap.TextWrapper(
        width=max(width, 20),
        initial_indent=first,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(wrapper.wrap(text)) or first + text


def visible(text: str) -> str:
    """Return `text` with everything escaped that could drive a terminal: it may come from outside."""
    return "".join(char if char == "\n" or char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def show_document(document: Mapping[str, object], output: str) -> None:
    """Print `document` on stdout as json or yaml."""
    if output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), nl=False)
    else:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def private_name(reference: str, *, below: str) -> tuple[str, str]:
    """Return name and short digest of an image or chart; below `below` (with its slash) the name begins after it."""
    name, _, digest = reference.removeprefix(below).partition("@")
    return name, digest.removeprefix("sha256:")[:12] or "none"


def show_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, fold: bool = True) -> None:
    """Print rows in columns; where they do not fit the terminal and `fold`, a row's first cell gets its own line."""
    table = [tuple(headers), *(tuple(map(visible, row)) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(headers))]
    fits = not fold or sum(widths) + 2 * (len(widths) - 1) <= columns(sys.stdout)
    for number, row in enumerate(table):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines = ["  ".join(cells)] if fits else [row[0], "    " + "  ".join(cells[1:])]
        for line in lines:
            click.echo(click.style(line.rstrip(), bold=True) if number == 0 else line.rstrip())


def _foretold(event: DeltaPlanned) -> str:
    carried = f"{counted(event.carried, 'blob')}, {human_bytes(event.carried_bytes)} with all of its own"
    absent = f"{counted(event.absent, 'blob')}, {human_bytes(event.absent_bytes)}, are at the site"
    return f"against {event.against}: carries {carried}; {absent}"
