"""Which bytes of an unfinished blob are in their place: kept in the block where its header will stand (ADR 40).

A killed build goes on from there. The record is a claim and no more: the digest of the whole decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bundler.archive.header import BLOCK_BYTES
from bundler.domain.digest import Digest

Span = tuple[int, int]
"""Bytes from an offset up to another one."""

_MAGIC = b"eks-bundler part"
_NUMBER_BYTES = 6
_SPAN_BYTES = 2 * _NUMBER_BYTES
_FIRST = len(_MAGIC) + 32 + 1
MAX_SPANS = (BLOCK_BYTES - _FIRST) // _SPAN_BYTES


class Extents:
    """Spans that do not touch, ascending; a few of them, for each worker leaves at most one hole."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._spans = list(spans)

    def __iter__(self) -> Iterator[Span]:
        return iter(self._spans)

    @property
    def count(self) -> int:
        """Bytes that are there."""
        return sum(stop - start for start, stop in self._spans)

    def add(self, start: int, stop: int) -> None:
        """Take a span, whatever of it is there already."""
        if start >= stop:
            return
        apart = [span for span in self._spans if span[1] < start or stop < span[0]]
        touching = [span for span in self._spans if span[1] >= start and stop >= span[0]]
        whole = (min(start, *(span[0] for span in touching), start), max(stop, *(span[1] for span in touching), stop))
        self._spans = sorted([*apart, whole])

    def reach(self, position: int) -> int:
        """Return how far everything from `position` on is there; `position` where its byte is not."""
        return next((stop for start, stop in self._spans if start <= position < stop), position)

    def missing(self, start: int, stop: int) -> list[Span]:
        """Return what is not there of the bytes from `start` to `stop`, ascending."""
        found, at = list[Span](), start
        for first, last in self._spans:
            if at < min(first, stop):
                found.append((at, min(first, stop)))
            at = max(at, last)
        return found if at >= stop else [*found, (at, stop)]


def extents_record(digest: Digest, extents: Extents) -> bytes:
    """Return the 512 bytes that say what is there of a blob; spans that find no room are left out."""
    spans = list(extents)[:MAX_SPANS]
    numbers = b"".join(number.to_bytes(_NUMBER_BYTES, "big") for span in spans for number in span)
    return (_MAGIC + bytes.fromhex(digest.hex) + bytes([len(spans)]) + numbers).ljust(BLOCK_BYTES, b"\0")


def parse_extents(record: bytes, digest: Digest, size: int) -> Extents:
    """Return what a record says of a blob of `size` bytes; nothing where it is none, or that of another blob."""
    spans: list[Span] = []
    if record[:_FIRST].startswith(_MAGIC + bytes.fromhex(digest.hex)) and len(record) == BLOCK_BYTES:
        for at in range(_FIRST, _FIRST + record[_FIRST - 1] * _SPAN_BYTES, _SPAN_BYTES):
            start, stop = (
                int.from_bytes(record[first : first + _NUMBER_BYTES], "big") for first in (at, at + _NUMBER_BYTES)
            )
            spans.append((start, stop))
    extents = Extents(spans)
    ends = [number for span in spans for number in span]
    is_sound = ends == sorted(set(ends)) and (not ends or ends[-1] <= size)
    is_ours = extents_record(digest, extents) == record
    return extents if is_sound and is_ours else Extents()
