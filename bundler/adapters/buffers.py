"""Large pieces of memory that are used again and again: making them new costs more than filling them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

BUFFER_BYTES = 1 << 20
MOST_KEPT = 16


class Buffers:
    """Buffers of 1 MiB; there are as many as were in use at one time, and few are kept. For any number of threads."""

    def __init__(self) -> None:
        self._kept: deque[memoryview] = deque(maxlen=MOST_KEPT)

    @contextmanager
    def lend(self) -> Iterator[memoryview]:
        """Hold one that nobody else has."""
        try:
            buffer = self._kept.pop()  # one step of the interpreter: no other thread gets the same
        except IndexError:
            buffer = memoryview(bytearray(BUFFER_BYTES))
        try:
            yield buffer
        finally:
            self._kept.append(buffer)

    def clear(self) -> None:
        """Give back the memory of those that nobody holds."""
        self._kept.clear()
