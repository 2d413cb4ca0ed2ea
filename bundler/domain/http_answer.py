"""The head of an HTTP/1.1 answer, read strictly from hostile bytes, and how its body ends (RFC 9112)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bundler.domain.http_fields import HeadError, parse_fields

MAX_HEAD_BYTES = 128 << 10
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?\Z")
_LINE_END = re.compile(rb"\r?\n")
_FOLD = re.compile(rb"\r?\n[ \t]+")
_DIGITS = re.compile(r"[0-9]{1,18}\Z")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n\Z")


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before a body.

    Attributes:
        headers: by names in lower case; several of one name are joined by a comma.
        length: bytes of the body; None where chunks, or the end of the connection, say how long it is.
        is_chunked: whether the body comes in chunks.
        keeps_alive: whether another request may follow on the connection, once the body was read.
    """

    status: int
    headers: Mapping[str, str]
    length: int | None
    is_chunked: bool
    keeps_alive: bool

    @property
    def is_interim(self) -> bool:
        """Whether the answer proper is still to come (1xx)."""
        return self.status < 200


def parse_head(raw: bytes, *, method: str) -> Head:
    """Return the head in `raw`, which ends before the empty line.

    Folded lines are unfolded and bare LF ends a line, as RFC 9112 §5.2 and §2.2 allow; nothing else is mended.

    Args:
        raw: status line and fields.
        method: of the request: HEAD has no body, and CONNECT none that HTTP knows.

    Raises:
        HeadError: it is no such head, or says two things about where the body ends.
    """
    line, *lines = _LINE_END.split(_FOLD.sub(b" ", raw) if b"\n " in raw or b"\n\t" in raw else raw)
    match = _STATUS_LINE.match(line)
    if match is None:
        raise HeadError(f"no status line: {line[:40]!r}")
    status, headers = int(match[2]), parse_fields(lines)
    options = headers.get("connection", "").lower()
    keeps_alive = "close" not in options if match[1] == b"1" else "keep-alive" in options
    if method == "HEAD" or status < 200 or status in (204, 304) or (method == "CONNECT" and status < 300):
        return Head(status, headers, 0, is_chunked=False, keeps_alive=keeps_alive)
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if coding.lower() != "chunked":
            raise HeadError(f"a transfer encoding that nobody asked for: {coding[:40]!r}")
        # a length beside it is a sign of two readers that do not agree (RFC 9112 §6.3)
        return Head(status, headers, None, is_chunked=True, keeps_alive=keeps_alive and "content-length" not in headers)
    length = _length(headers)
    return Head(status, headers, length, is_chunked=False, keeps_alive=keeps_alive and length is not None)


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("content-length")
    if text is None:
        return None
    stated = {part.strip() for part in text.split(",")}
    length = stated.pop()
    if stated or not _DIGITS.match(length):
        raise HeadError(f"a length that makes no sense: {text[:40]!r}")
    return int(length)


def parse_chunk_size(line: bytes) -> int:
    """Return the number of bytes in the chunk that this line, with its end, opens (RFC 9112 §7.1).

    Raises:
        HeadError: it is no such line.
    """
    match = _CHUNK_SIZE.match(line)
    if match is None:
        raise HeadError(f"no size of a chunk: {line[:40]!r}")
    return int(match[1], 16)
