"""An archive in S3, read by ranges: the same object for as long as we read, and never a byte more or less."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, cast

import urllib3

from bundler.adapters.aws.clients import Answer, Service
from bundler.adapters.aws.direct import Plain
from bundler.adapters.aws.failures import clean
from bundler.adapters.aws.patience import later
from bundler.adapters.aws.s3_store import quoted_key
from bundler.domain.shipment import S3Address
from bundler.errors import DigestError, FormatError, NetworkError, RejectedError, TransientError, UsageError
from bundler.retry import RetryPolicy, retry
from bundler.transfer import Interruptible, Once, check_stopped, lanes, pause

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

CHUNK_BYTES = 1 << 20
HEAD_BYTES = 1 << 20
"""What is kept of an object's beginning, where an archive tells what it holds: most are opened by one request."""
RANGE_BYTES = 4 << 20
LANES = 4
"""How many ranges of large blobs are read ahead at a time, over all threads: 16 MiB of buffers at most (ADR 59)."""
LARGE_BYTES = 4 * RANGE_BYTES
STALL_WINDOW_S = 60.0
LEAST_BYTES_PER_S = 1024
MOST_STALLS = 8
_GONE = frozenset({"404", "NoSuchKey", "NoSuchBucket", "NoSuchVersion"})
_CHANGED = frozenset({"412", "PreconditionFailed", "416", "InvalidRange"})


def open_s3_object(
    address: S3Address,
    *,
    service: Service,
    policy: RetryPolicy | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> S3Object:
    """Return the object as it is now; from here on its ETag must stay.

    Raises:
        UsageError: it does not exist.
    """
    try:
        size, etag = service.ask(
            "HeadObject", _size_and_etag, about=str(address), Bucket=address.bucket, Key=address.key
        )
    except RejectedError as error:
        if error.code in _GONE:
            raise _gone(str(address)) from error
        raise
    return S3Object(
        address=address, size=size, etag=etag, service=service, policy=policy or RetryPolicy(sleep=pause), clock=clock
    )


def _size_and_etag(answer: Answer) -> tuple[int, str]:
    return int(answer["ContentLength"]), str(answer["ETag"])


@dataclass(slots=True)
class _Head:
    """The beginning of an object, once it was fetched."""

    once: Once = field(default_factory=Once)
    content: bytes = b""


def _free_lanes() -> SimpleQueue[None]:
    free: SimpleQueue[None] = SimpleQueue()
    for _ in range(LANES):
        free.put(None)
    return free


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Object:
    """One unchanged S3 object (a ByteSource); any number of threads may read at a time.

    Attributes:
        size: length in bytes.
        etag: what it must stay, with quotes.
        clock: seconds, for the stall detector.
    """

    address: S3Address
    size: int
    etag: str
    service: Service
    policy: RetryPolicy
    clock: Callable[[], float] = time.monotonic
    _head: _Head = field(default_factory=_Head)
    _free: SimpleQueue[None] = field(default_factory=_free_lanes)

    @property
    def name(self) -> str:
        """The s3:// address."""
        return str(self.address)

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`.

        Raises:
            FormatError: the object ends before.
            DigestError: it is not the object any more that was opened.
            NetworkError: S3 does not answer, or with something else than asked for.
        """
        self._refuse_outside(offset, length)
        head = self._beginning() if offset < HEAD_BYTES else b""
        known = head[offset : offset + length]
        if len(known) == length:
            return known
        return known + self._fetch(offset + len(known), length - len(known))

    def stream(self, offset: int, length: int) -> Iterator[memoryview]:
        """Yield exactly `length` bytes from `offset` in chunks of at most 1 MiB, in buffers that are used again.

        A cut is mended by another range from the byte where it happened. What is large comes over several connections,
        as long as not too many others do the same.

        Raises:
            FormatError, DigestError, NetworkError: as `read_at`.
        """
        self._refuse_outside(offset, length)
        free = self._take_lanes() if length >= LARGE_BYTES else 0
        if free:
            yield from self._ahead(offset, offset + length, free)
            return
        buffer = memoryview(bytearray(min(CHUNK_BYTES, length)))
        with closing(_Range(self, offset, offset + length)) as cursor:
            while not cursor.is_done:
                yield cursor.fill(buffer)

    def _take_lanes(self) -> int:
        """Take all free lanes; one by itself would gain nothing."""
        taken = 0
        with suppress(Empty):
            while taken < LANES:
                self._free.get_nowait()
                taken += 1
        if taken != 1:
            return taken
        self._free.put(None)
        return 0

    def _ahead(self, offset: int, end: int, count: int) -> Iterator[memoryview]:
        starts = range(offset, end, RANGE_BYTES)
        works = [_Ahead(self, end) for _ in range(count)]
        for content in lanes(works, starts, ended=partial(self._free.put, None)):
            for start in range(0, len(content), CHUNK_BYTES):
                yield content[start : start + CHUNK_BYTES]

    def _fetch(self, offset: int, length: int) -> bytes:
        content = bytearray(length)
        with closing(_Range(self, offset, offset + length)) as cursor:
            cursor.fill(memoryview(content))
        return bytes(content)

    def _beginning(self) -> bytes:
        """The first bytes, fetched once for all threads."""
        with self._head.once:
            if not self._head.content:
                self._head.content = self._fetch(0, min(HEAD_BYTES, self.size))
            return self._head.content

    def _refuse_outside(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise FormatError(self.name, f"ends after {self.size} bytes; {length} are wanted from {offset}")

    def get(self, first: int, last: int) -> Answer:
        """Ask S3 for a range, and refuse an answer that is anything else."""
        wanted = f"bytes={first}-{last}"
        address = self.address

        def call() -> Answer:
            return self.service.call(
                "GetObject", about=self.name, Bucket=address.bucket, Key=address.key, Range=wanted, IfMatch=self.etag
            )

        plain = Plain(
            operation="GetObject",
            method="GET",
            target=f"/{quoted_key(address.key)}",
            headers={"Range": wanted, "If-Match": self.etag},
            place={"Bucket": address.bucket},
        )
        try:
            with later():
                answer = self.service.call_plainly(plain, _answer, call)
        except RejectedError as error:
            if error.code in _CHANGED:
                raise _changed(self.name) from error
            if error.code in _GONE:
                raise _gone(self.name) from error
            raise
        try:
            self._check(answer, first, last)
        except BaseException:
            answer["Body"].close()
            raise
        return answer

    def _check(self, answer: Answer, first: int, last: int) -> None:
        if answer.get("ETag") != self.etag:
            raise _changed(self.name)
        stated = (answer.get("ContentRange"), answer.get("ContentLength"))
        if stated != (f"bytes {first}-{last}/{self.size}", last - first + 1):
            cause = (
                f"bytes {first}-{last} were asked for, the answer has {answer.get('ContentLength')} bytes, "
                f"range {str(answer.get('ContentRange'))[:80]!r}"
            )
            raise NetworkError(
                self.name, cause, hint="Something between here and S3 changes answers: look for a proxy."
            )


def _answer(headers: Mapping[str, str], body: Any) -> Answer:
    length = headers.get("Content-Length", "")
    return {
        "ETag": headers.get("ETag"),
        "ContentRange": headers.get("Content-Range"),
        "ContentLength": int(length) if length.isascii() and length.isdigit() else None,
        "Body": body,
    }


def _changed(name: str) -> DigestError:
    return DigestError(
        name, "is not the object any more that was opened: somebody replaced it", hint="Start again with what is there."
    )


def _gone(name: str) -> UsageError:
    return UsageError(name, "does not exist", hint="aws s3 ls shows what is there; bundle ship sends an archive.")


def _wake(raw: BaseHTTPResponse) -> None:
    """Make a blocked read return; a connection that is done with by now has none."""
    with suppress(OSError, ValueError):
        raw.shutdown()


class _Ahead:
    """Reads ranges into a buffer of its own."""

    def __init__(self, source: S3Object, end: int) -> None:
        self._source = source
        self._end = end
        self._buffer = memoryview(b"")

    def __call__(self, start: int) -> memoryview:
        """Return the range from `start`; it stays until the next call."""
        if not self._buffer:
            self._buffer = memoryview(bytearray(RANGE_BYTES))
        with closing(_Range(self._source, start, min(self._end, start + RANGE_BYTES))) as cursor:
            return cursor.fill(self._buffer)


class _Range:
    """A position in the object, and the connection that delivers from there."""

    def __init__(self, source: S3Object, position: int, end: int) -> None:
        self._source = source
        self._position = position
        self._end = end
        self._raw: BaseHTTPResponse | None = None
        self._waited_s = 0.0
        self._moved = 0
        self._stalls = 0

    @property
    def is_done(self) -> bool:
        """Whether everything came."""
        return self._position >= self._end

    def close(self) -> None:
        """Give the connection up."""
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.close()
            raw.release_conn()

    def fill(self, buffer: memoryview) -> memoryview:
        """Put the next bytes into `buffer` and return it, or its beginning at the end of the range.

        A connection that breaks or stalls is followed by another one, from the byte where it stopped.

        Raises:
            NetworkError: one connection after the other stalled, or brought nothing.
        """
        wanted = buffer[: self._end - self._position]
        start = self._position

        def once() -> None:
            self._fill(wanted[self._position - start :])

        source = self._source
        retry(once, subject=source.name, policy=source.policy, progress=lambda: self._position)
        return wanted

    def _fill(self, view: memoryview) -> None:
        check_stopped()
        raw = self._raw or self._connect()
        taken = 0
        try:
            with Interruptible(partial(_wake, raw)):
                while taken < len(view):
                    since = self._source.clock()
                    count = raw._fp.take(view[taken:])  # type: ignore[attr-defined]  # a _Response of watched.py
                    if not count:
                        break
                    taken += count
                    self._position += count
                    self._watch(count, self._source.clock() - since)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            self.close()
            check_stopped()
            raise TransientError(self._source.name, f"the connection broke: {clean(str(error))}") from error
        check_stopped()
        if taken < len(view):
            self.close()
            raise TransientError(self._source.name, f"the answer ended {self._end - self._position} bytes early")
        if self.is_done:
            self._raw = None
            raw.release_conn()

    def _connect(self) -> BaseHTTPResponse:
        body = self._source.get(self._position, self._end - 1)["Body"]
        raw = cast("BaseHTTPResponse", getattr(body, "_raw_stream", body))  # botocore's own call wraps it
        self._raw = raw
        self._waited_s, self._moved = 0.0, 0
        return raw

    def _watch(self, count: int, waited_s: float) -> None:
        """Give a connection up that delivers hardly anything; only time spent waiting counts."""
        self._moved += count
        self._waited_s += waited_s
        if self._waited_s < STALL_WINDOW_S or self.is_done:
            return
        rate = self._moved / self._waited_s
        self._waited_s, self._moved = 0.0, 0
        if rate >= LEAST_BYTES_PER_S:
            self._stalls = 0
            return
        self.close()
        self._stalls += 1
        cause = f"S3 sends {rate:.0f} bytes a second, over {self._stalls} connections"
        raise (NetworkError if self._stalls >= MOST_STALLS else TransientError)(self._source.name, cause)
