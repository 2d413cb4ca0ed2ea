"""Files by http(s) URL: charts of repositories, tools, anything the definition pins."""

from __future__ import annotations

from collections.abc import Iterator

from bundler.adapters.http import Answer, Request, Transport
from bundler.adapters.registries_config import Registries
from bundler.domain.url import Url
from bundler.errors import LimitError, NetworkError, NotFoundUpstreamError, TransientError
from bundler.retry import RetryPolicy, retry


class HttpFiles:
    """Reads files through the mapping of registries.yaml; digests are the caller's to check."""

    def __init__(self, transport: Transport, *, registries: Registries, policy: RetryPolicy) -> None:
        self._transport = transport
        self._registries = registries
        self._policy = policy

    def stream(self, url: str) -> Iterator[bytes]:
        """Yield the content of `url` in chunks of at most 1 MiB; goes on after a cut where the server can.

        Raises:
            NotFoundUpstreamError: the server says that it does not exist.
            FormatError: not a URL.
            NetworkError: it cannot be had, or changed while it was read.
        """
        located, endpoint = self._registries.locate(url)
        subject = Url.parse(url).shown
        reading = _Reading(self._transport.trusting(endpoint.ca_files), located, subject)
        try:
            while piece := retry(reading.next_piece, subject=subject, policy=self._policy):
                yield piece
        finally:
            reading.close()

    def read(self, url: str, *, limit: int) -> bytes:
        """Return the whole content of `url`, at most `limit` bytes.

        Raises:
            LimitError: it is longer.
        """
        parts, count = [], 0
        for piece in self.stream(url):
            count += len(piece)
            if count > limit:
                raise LimitError(Url.parse(url).shown, f"is longer than {limit} bytes")
            parts.append(piece)
        return b"".join(parts)


class _Reading:
    """One file, read over as many answers as it takes."""

    def __init__(self, transport: Transport, url: Url, subject: str) -> None:
        self._transport = transport
        self._url = url
        self._subject = subject
        self._count = 0
        self._version: str | None = None
        self._answer: Answer | None = None
        self._pieces: Iterator[bytes] = iter(())

    def next_piece(self) -> bytes:
        """Return the next piece, empty at the end."""
        if self._answer is None:
            self._open()
        try:
            piece = next(self._pieces, b"")
        except TransientError:
            self.close()
            raise
        self._count += len(piece)
        return piece

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _open(self) -> None:
        headers = {}
        if self._count:
            if self._version is None:
                raise NetworkError(self._subject, f"{self._url.origin} cut it off and offers no way to go on")
            headers = {"Range": f"bytes={self._count}-", "If-Range": self._version}
        answer = self._transport.send(Request(url=self._url, subject=self._subject, headers=headers))
        try:
            self._check(answer)
        except BaseException:
            answer.close()
            raise
        self._answer, self._pieces = answer, map(bytes, answer.blocks())

    def _check(self, answer: Answer) -> None:
        if answer.status in (404, 410):
            raise NotFoundUpstreamError(self._subject, f"{answer.url.origin} says that it does not exist")
        tag = answer.header("ETag")
        strong = tag if tag is not None and tag.startswith('"') else None
        if self._count == 0:
            if answer.status != 200:
                raise NetworkError(self._subject, f"{answer.url.origin} answered {answer.status} {answer.text}")
            self._version = strong
            return
        expected = f"bytes {self._count}-"
        if answer.status != 206 or not (answer.header("Content-Range") or "").startswith(expected):
            raise NetworkError(self._subject, "changed while it was read")
