"""One blob on its way from a registry: resumed where it was cut, never longer than stated, never other content."""

from __future__ import annotations

import re
from collections.abc import Callable

from bundler.adapters.content import Checked
from bundler.adapters.http import Answer
from bundler.adapters.registry_session import Call, Session, pull_scope, refusal
from bundler.domain.oci import Descriptor
from bundler.errors import DigestError, NetworkError, NotFoundUpstreamError, TransientError
from bundler.ports import Sink
from bundler.retry import RetryPolicy, retry

CLEAN_RETRIES = 2
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(?:(\d{1,18})|\*)\Z")


class Download:
    """Reads one blob of one repository."""

    def __init__(self, session: Session, repository: str, blob: Descriptor, *, subject: str) -> None:
        self._session = session
        self._repository = repository
        self._blob = blob
        self._subject = subject
        self._checked = Checked(blob, subject=subject)

    def run(self, sink: Sink, *, restart: Callable[[], None], policy: RetryPolicy) -> None:
        """Send the blob to `sink`; other content than stated is asked for again, twice, from the start.

        Raises:
            DigestError: it is other content each time.
            NotFoundUpstreamError: the repository does not have it.
            TransientError: the budget of retries is used up.
        """
        for left in reversed(range(CLEAN_RETRIES + 1)):
            try:
                retry(
                    lambda: self._attempt(sink),
                    subject=self._subject,
                    policy=policy,
                    progress=lambda: self._checked.count,
                )
                self._checked.finish()
            except DigestError:
                if not left:
                    raise
                restart()
                self._checked = Checked(self._blob, subject=self._subject)
            else:
                return

    def _attempt(self, sink: Sink) -> None:
        """Read what is still missing; after a cut the rest is asked for."""
        start = self._checked.count
        if start == self._blob.size > 0:
            return
        call = Call(
            target=f"/v2/{self._repository}/blobs/{self._blob.digest}",
            scope=pull_scope(self._repository),
            subject=self._subject,
            headers={"Range": f"bytes={start}-{self._blob.size - 1}"} if start else {},
        )
        with self._session.call(call) as answer:
            skip = self._skip(answer, call, start)
            for piece in answer.pieces():
                rest = memoryview(piece)[skip:]
                skip -= len(piece) - len(rest)
                if rest:
                    self._checked.add(rest)
                    sink(rest)
        if self._checked.left:
            raise TransientError(
                self._subject, f"{answer.url.origin} sent {self._checked.count} of {self._blob.size} bytes"
            )

    def _skip(self, answer: Answer, call: Call, start: int) -> int:
        """Return how many bytes of the body are known already: all before `start` when the range was ignored."""
        if answer.status == 404:
            raise NotFoundUpstreamError(self._subject, f"{answer.url.origin} has no blob {self._blob.digest}")
        if answer.status == 200:
            if answer.length is not None and answer.length > self._blob.size:
                cause = f"{answer.url.origin} has {answer.length} bytes where {self._blob.size} are stated"
                raise DigestError(self._subject, cause)
            return start
        if answer.status == 206 and start:
            self._check_range(answer, start)
            return 0
        if answer.status == 416:
            raise TransientError(self._subject, f"{answer.url.origin} does not have the rest from byte {start}")
        raise refusal(answer, call, origin=answer.url.origin)

    def _check_range(self, answer: Answer, start: int) -> None:
        text = answer.header("Content-Range") or ""
        match = _CONTENT_RANGE.match(text)
        last = self._blob.size - 1
        if match is None or (int(match[1]), int(match[2])) != (start, last) or match[3] not in (None, str(last + 1)):
            cause = f"{answer.url.origin} sent the range {text[:60]!r} where bytes {start}-{last} were asked for"
            raise NetworkError(self._subject, cause)
