"""Blobs on their way from a registry: resumed where they were cut, never longer than stated, never other content."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from bundler.adapters.content import Checked
from bundler.adapters.http import Answer
from bundler.adapters.registry_session import Call, Session, pull_scope, refusal
from bundler.domain.oci import Descriptor
from bundler.errors import BundleError, DigestError, NetworkError, NotFoundUpstreamError, TransientError
from bundler.ports import Put, Sink
from bundler.retry import RetryPolicy, retry

CLEAN_RETRIES = 2
MOST_TOO_LONG = 3
"""Ranges that came with more than was asked for, until their server is not asked again."""
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(?:(\d{1,18})|\*)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteBlob:
    """One blob of one repository: `repository` is its name at the endpoint, `subject` what errors name."""

    session: Session
    repository: str
    blob: Descriptor
    subject: str


class Stretch:
    """Bytes `position` to `stop` of a blob, over as many requests as it takes; they are counted, not verified.

    A registry that knows no ranges sends everything: then `stop` becomes the size of the blob.
    """

    def __init__(self, remote: RemoteBlob, *, start: int, stop: int, put: Put) -> None:
        self.position = start
        self.stop = stop
        self._remote = remote
        self._put = put
        self._too_long = 0

    def run(self, policy: RetryPolicy) -> None:
        """Send the bytes to `put`.

        Raises:
            DigestError: there are more than the blob has.
            NetworkError: answers are other ranges than were asked for, or longer.
            NotFoundUpstreamError: the repository does not have it.
            TransientError: the budget of retries is used up.
        """
        retry(self._attempt, subject=self._remote.subject, policy=policy, progress=lambda: self.position)

    def _attempt(self) -> None:
        """Read what is still missing; after a cut the rest is asked for."""
        remote, start = self._remote, self.position
        if start == self.stop > 0:
            return
        is_whole = start == 0 and self.stop == remote.blob.size
        call = Call(
            target=f"/v2/{remote.repository}/blobs/{remote.blob.digest}",
            scope=pull_scope(remote.repository),
            subject=remote.subject,
            headers={} if is_whole else {"Range": f"bytes={start}-{self.stop - 1}"},
        )
        with remote.session.call(call) as answer:
            self._take(answer, skip=self._skip(answer, call, is_whole=is_whole))
        if self.position < self.stop:
            cause = f"{answer.url.origin} sent {self.position} of {self.stop} bytes"
            raise TransientError(remote.subject, cause)

    def _take(self, answer: Answer, *, skip: int) -> None:
        for piece in answer.blocks():
            rest = piece[skip:]
            skip -= len(piece) - len(rest)
            if len(rest) > self.stop - self.position:
                raise self._overlong(answer)
            if rest:
                self._put(self.position, rest)
                self.position += len(rest)

    def _overlong(self, answer: Answer) -> BundleError:
        """A range that is longer than it says may be right the next time; a blob that is longer is another one."""
        subject, blob = self._remote.subject, self._remote.blob
        if answer.status != 206:
            return DigestError(subject, f"is longer than the {blob.size} bytes stated for {blob.digest}")
        self._too_long += 1
        kind = TransientError if self._too_long < MOST_TOO_LONG else NetworkError
        asked = (answer.header("Content-Range") or "").partition("/")[0]
        return kind(subject, f"{answer.url.origin} sent more than {asked}, which were asked for, of {blob.digest}")

    def _skip(self, answer: Answer, call: Call, *, is_whole: bool) -> int:
        """Return how many bytes of the body are known already: all before `position` when the range was ignored."""
        subject, blob = self._remote.subject, self._remote.blob
        if answer.status == 404:
            raise NotFoundUpstreamError(subject, f"{answer.url.origin} has no blob {blob.digest}")
        if answer.status == 200:
            if answer.length is not None and answer.length > blob.size:
                cause = f"{answer.url.origin} has {answer.length} bytes where {blob.size} are stated"
                raise DigestError(subject, cause)
            self.stop = blob.size
            return self.position
        if answer.status == 206 and not is_whole:
            self._check_range(answer)
            return 0
        if answer.status == 416:
            raise TransientError(subject, f"{answer.url.origin} does not have the rest from byte {self.position}")
        raise refusal(answer, call, origin=answer.url.origin)

    def _check_range(self, answer: Answer) -> None:
        text = answer.header("Content-Range") or ""
        match, last = _CONTENT_RANGE.match(text), self.stop - 1
        size = str(self._remote.blob.size)
        if match is None or (int(match[1]), int(match[2])) != (self.position, last) or match[3] not in (None, size):
            cause = (
                f"{answer.url.origin} sent the range {text[:60]!r} where bytes {self.position}-{last} were asked for"
            )
            raise NetworkError(self._remote.subject, cause)


def download(remote: RemoteBlob, sink: Sink, *, restart: Callable[[], None], policy: RetryPolicy) -> None:
    """Send the blob to `sink`; other content than stated is asked for again, twice, from the start.

    Raises:
        DigestError: it is other content each time.
        NotFoundUpstreamError: the repository does not have it.
        TransientError: the budget of retries is used up.
    """
    for left in reversed(range(CLEAN_RETRIES + 1)):
        checked = Checked(remote.blob, subject=remote.subject)

        def put(_: int, piece: memoryview, checked: Checked = checked) -> None:
            checked.add(piece)
            sink(piece)

        try:
            Stretch(remote, start=0, stop=remote.blob.size, put=put).run(policy)
            checked.finish()
        except DigestError:
            if not left:
                raise
            restart()
        else:
            return
