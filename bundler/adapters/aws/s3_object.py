"""An archive in S3, read by ranges: the same object for as long as we read, and never a byte more or less."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import urllib3

from bundler.adapters.aws.clients import Answer, Service
from bundler.adapters.aws.failures import clean
from bundler.domain.shipment import S3Address
from bundler.errors import DigestError, FormatError, NetworkError, RejectedError, TransientError, UsageError
from bundler.retry import RetryPolicy, retry
from bundler.transfer import Interruptible, check_stopped, pause

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

CHUNK_BYTES = 1 << 20
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
        return b"".join(bytes(chunk) for chunk in self.stream(offset, length))

    def stream(self, offset: int, length: int) -> Iterator[memoryview]:
        """Yield exactly `length` bytes from `offset` in chunks of at most 1 MiB; a cut is mended by another range.

        Raises:
            FormatError, DigestError, NetworkError: as `read_at`.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise FormatError(self.name, f"ends after {self.size} bytes; {length} are wanted from {offset}")
        with closing(_Range(self, offset, offset + length)) as cursor:
            while not cursor.is_done:
                yield memoryview(retry(cursor.next, subject=self.name, policy=self.policy))

    def get(self, first: int, last: int) -> Answer:
        """Ask S3 for a range, and refuse an answer that is anything else."""
        wanted = f"bytes={first}-{last}"
        try:
            answer = self.service.call(
                "GetObject",
                about=self.name,
                Bucket=self.address.bucket,
                Key=self.address.key,
                Range=wanted,
                IfMatch=self.etag,
            )
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
        status = answer["ResponseMetadata"]["HTTPStatusCode"]
        stated = (status, answer.get("ContentRange"), answer.get("ContentLength"))
        if stated != (206, f"bytes {first}-{last}/{self.size}", last - first + 1):
            cause = (
                f"bytes {first}-{last} were asked for, the answer is {status} with "
                f"{answer.get('ContentLength')} bytes, range {str(answer.get('ContentRange'))[:80]!r}"
            )
            raise NetworkError(
                self.name, cause, hint="Something between here and S3 changes answers: look for a proxy."
            )


def _changed(name: str) -> DigestError:
    return DigestError(
        name, "is not the object any more that was opened: somebody replaced it", hint="Start again with what is there."
    )


def _gone(name: str) -> UsageError:
    return UsageError(name, "does not exist", hint="aws s3 ls shows what is there; bundle ship sends an archive.")


class _Range:
    """A position in the object, and the connection that delivers from there."""

    def __init__(self, source: S3Object, position: int, end: int) -> None:
        self._source = source
        self._position = position
        self._end = end
        self._open = ExitStack()
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
        self._raw = None
        self._open.close()

    def next(self) -> bytes:
        """Return the next bytes, from a new connection where the last one broke or stalled.

        Raises:
            TransientError: this connection is of no more use.
            NetworkError: one connection after the other stalled.
        """
        check_stopped()
        raw = self._raw or self._connect()
        since = self._source.clock()
        chunk = self._read(raw)
        self._position += len(chunk)
        self._watch(len(chunk), self._source.clock() - since)
        return chunk

    def _connect(self) -> BaseHTTPResponse:
        answer = self._source.get(self._position, self._end - 1)
        # Entering a StreamingBody gives the response below it, whose read1 returns what has come; read would wait for
        # the whole chunk, however slowly the peer sends it.
        raw: BaseHTTPResponse = self._open.enter_context(answer["Body"])
        self._raw, self._waited_s, self._moved = raw, 0.0, 0
        return raw

    def _read(self, raw: BaseHTTPResponse) -> bytes:
        left = self._end - self._position
        try:
            with Interruptible(raw.shutdown):
                chunk = raw.read1(min(CHUNK_BYTES, left))
            if len(chunk) == left:
                raw.read(1)  # having met the end of the body, urllib3 keeps the connection for the next range
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            self.close()
            check_stopped()
            raise TransientError(self._source.name, f"the connection broke: {clean(str(error))}") from error
        check_stopped()
        if not chunk:
            self.close()
            raise TransientError(self._source.name, f"the answer ended {left} bytes early")
        return chunk

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
        if self._stalls >= MOST_STALLS:
            raise NetworkError(
                self._source.name, f"S3 sends {rate:.0f} bytes a second, over {self._stalls} connections"
            )
