"""Archive -> answers of a read-only registry: blobs by offset, and never a body that ends before it is verified."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from bundler.archive.reader import Archive
from bundler.domain.digest import Digest
from bundler.domain.http_message import JSON, Answer, Part, Request, basic_credentials, error_body
from bundler.domain.pull_api import plan_answer, refusal, repositories_of
from bundler.errors import BundleError, DigestError, NetworkError
from bundler.transfer import Once, check_stopped

BLOCK_BYTES = 1 << 20
_CHALLENGE = 'Basic realm="bundle serve", charset="UTF-8"'

Allowed = Callable[[str, str], bool]
"""Whether this user has this password."""
Pieces = Generator[memoryview, None, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An answer whose body has begun to be read.

    Attributes:
        answer: status and headers.
        pieces: the body, each piece valid until the next; raises where the archive turns out to be damaged, before
            the last piece.
        failure: why it is not the answer that was asked for, None where it is.
    """

    answer: Answer
    pieces: Pieces
    failure: BundleError | None = None


class Served:
    """The content of one verified archive; any number of threads may ask.

    A whole blob is hashed while it is sent. For its first range a blob is read once from end to end: where its digest
    is right, the digests of its blocks (32 bytes per MiB) are kept, and each later range is checked against these.
    """

    def __init__(self, archive: Archive, *, allowed: Allowed | None = None) -> None:
        self._archive = archive
        self._allowed = allowed
        self._repositories = repositories_of(archive.lock, carried=archive.blobs.keys())
        self._blocks: dict[Digest, bytes] = {}
        self._turns: dict[Digest, Once] = {}

    @property
    def repositories(self) -> tuple[str, ...]:
        """The names of all repositories, sorted."""
        return tuple(sorted(self._repositories))

    def answer(self, request: Request) -> Opened:
        """Return the answer to `request`. It never raises for what is wrong with the archive; `failure` says it."""
        planned = self._guarded(request)
        if request.method == "HEAD":
            return Opened(answer=planned, pieces=_said(b""))
        if isinstance(planned.body, bytes):
            return Opened(answer=planned, pieces=_said(planned.body))
        return self._begun(planned, planned.body)

    def _guarded(self, request: Request) -> Answer:
        if self._allowed is not None:
            given = basic_credentials(request.headers)
            if given is None or not self._allowed(*given):
                headers = {"WWW-Authenticate": _CHALLENGE}
                return refusal(401, "UNAUTHORIZED", "a user and a password of this registry are needed", **headers)
        return plan_answer(request, self._repositories)

    def _begun(self, planned: Answer, part: Part) -> Opened:
        """Read the first piece before a status goes out, so that what is damaged there is an error and no torn body."""
        pieces = self._read(part)
        try:
            first = next(pieces, memoryview(b""))
        except BundleError as error:
            check_stopped()
            return _failed(error)
        return Opened(answer=planned, pieces=_chained(first, pieces))

    def _read(self, part: Part) -> Iterator[memoryview]:
        if part.is_whole:
            return self._archive.stream(part.digest)
        return self._read_range(part)

    def _read_range(self, part: Part) -> Iterator[memoryview]:
        """Yield a range, each block of it checked against the digests of when the whole blob was right."""
        known, member = self._known_blocks(part), self._archive.blob(part.digest)
        start = part.start // BLOCK_BYTES * BLOCK_BYTES
        end = min(-(-part.end // BLOCK_BYTES) * BLOCK_BYTES, part.size)
        position = start
        for block in _blocks(self._archive.source.stream(member.offset + start, end - start)):
            number = position // BLOCK_BYTES
            if hashlib.sha256(block).digest() != known[number * 32 : number * 32 + 32]:
                raise DigestError(self._archive.source.name, f"{part.digest} is not what it was when it was verified")
            yield block[max(0, part.start - position) : part.end - position]
            position += len(block)

    def _known_blocks(self, part: Part) -> bytes:
        with self._turns.setdefault(part.digest, Once()):
            known = self._blocks.get(part.digest)
            if known is None:
                known = b"".join(hashlib.sha256(block).digest() for block in _blocks(self._archive.stream(part.digest)))
                self._blocks[part.digest] = known
            return known


def _failed(error: BundleError) -> Opened:
    status = 503 if isinstance(error, NetworkError) else 500
    body = error_body("UNKNOWN", "the archive cannot be read here: the server's log says why")
    answer = Answer(status=status, headers={"Content-Type": JSON}, body=body)
    return Opened(answer=answer, pieces=_said(body), failure=error)


def _said(body: bytes) -> Pieces:
    yield memoryview(body)


def _blocks(pieces: Iterator[memoryview]) -> Iterator[memoryview]:
    """Yield a stream in blocks of BLOCK_BYTES, the last one shorter; each is valid until the next."""
    buffer = memoryview(bytearray(BLOCK_BYTES))
    filled = 0
    for piece in pieces:
        rest = piece
        while rest:
            count = min(len(rest), BLOCK_BYTES - filled)
            buffer[filled : filled + count] = rest[:count]
            rest, filled = rest[count:], filled + count
            if filled == BLOCK_BYTES:
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]


def _chained(first: memoryview, rest: Iterator[memoryview]) -> Pieces:
    yield first
    yield from rest
