"""What of a transfer is done, how fast it goes and what is left: numbers that events add to, and how they read."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bundler.cli.render import human_bytes, human_seconds
from bundler.domain.events import BytesMoved, ItemDone, Retrying, counted

RATE_WINDOW_S = 8.0
RATE_STEP_S = 0.5
SLOW_S = 3.0  # under way for so long, an item gets a line of its own
RETRIES_SHOWN = 3  # of a phase; then one of many


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
