"""The head of an HTTP/1.1 request, read strictly from hostile bytes, and the parts of RFC 9110 that a pull needs."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from bundler.domain.digest import Digest
from bundler.domain.http_fields import HeadError, OversizedError, parse_fields
from bundler.errors import FormatError, LimitError

MAX_HEAD_BYTES = 16 << 10
MAX_PARAMETERS = 20
JSON = "application/json"
_REQUEST_LINE = re.compile(rb"(?P<method>[A-Z]{1,16}) (?P<target>[\x21-\x7e]+) HTTP/1\.(?P<minor>[01])\Z")
_ORIGIN = re.compile(r"https?://[^/?#]*", re.IGNORECASE)
_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(?P<first>[0-9]*)-(?P<last>[0-9]*)[ \t]*\Z", re.IGNORECASE)
_MOST_DIGITS = 19
"""Of an offset that any file can have; a longer number is beyond every end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The head of a request.

    Attributes:
        path: decoded; it names nothing on a disk.
        query: the last value of each parameter.
        headers: by names in lower case.
        has_body: whether a body follows, which nobody here reads.
        keep_alive: whether the client wants to ask more on this connection.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    has_body: bool = False
    keep_alive: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Bytes `start` to `end` (exclusive) of a blob of `size` bytes."""

    digest: Digest
    start: int
    end: int
    size: int

    @property
    def is_whole(self) -> bool:
        """Whether it is the blob itself."""
        return (self.start, self.end) == (0, self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What goes back: a short body as bytes, or a part of a blob. HEAD gets the headers alone."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Part = b""

    @property
    def length(self) -> int:
        """Content-Length."""
        return len(self.body) if isinstance(self.body, bytes) else self.body.end - self.body.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request and what became of it, for the log: no query, no headers, nothing secret.

    Attributes:
        peer: address of the client.
        asked: method and path; "-" where the request could not be read.
        status: what was answered.
        sent_bytes: of the body.
        failure: why the body did not complete, or was not the one asked for.
    """

    peer: str
    asked: str
    status: int
    sent_bytes: int
    failure: str | None = None


def parse_request(head: bytes, *, peer: str) -> Request:
    r"""Return the request whose head is `head`, without the empty line that ends it.

    Args:
        head: request line and fields, each but the last followed by CR and LF.
        peer: whom errors name.

    Raises:
        FormatError: not HTTP/1.0 or 1.1 as RFC 9112 has it; folded lines and bare line ends are none of it.
        LimitError: more fields than any honest client sends.
    """
    line, *rest = head.split(b"\r\n")
    match = _REQUEST_LINE.match(line)
    if match is None:
        raise FormatError(peer, "sent no request line of HTTP 1.1")
    headers = _fields(rest, peer)
    is_old = match["minor"] == b"0"
    if not is_old and "host" not in headers:
        raise FormatError(peer, "sent an HTTP/1.1 request without Host")
    path, query = _split_target(match["target"].decode("ascii"), peer)
    options = {option.strip().lower() for option in headers.get("connection", "").split(",")}
    return Request(
        method=match["method"].decode("ascii"),
        path=path,
        query=query,
        headers=headers,
        has_body="transfer-encoding" in headers or headers.get("content-length", "0") != "0",
        keep_alive=not is_old and "close" not in options,
    )


def _fields(lines: list[bytes], peer: str) -> dict[str, str]:
    try:
        return parse_fields(lines, once="host")
    except OversizedError as error:
        raise LimitError(peer, f"sent {error}") from error
    except HeadError as error:
        raise FormatError(peer, f"sent {error}") from error


def _split_target(target: str, peer: str) -> tuple[str, dict[str, str]]:
    """Return path and query; the absolute form, which proxies get, is read as well (RFC 9112 §3.2.2)."""
    own = _ORIGIN.sub("", target, count=1)
    raw, _, query = own.partition("?")
    if not raw.startswith("/"):
        raise FormatError(peer, "asked for something that is no path")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS, errors="strict")
        return unquote(raw, errors="strict"), dict(pairs)
    except ValueError as error:
        raise FormatError(peer, "asked for a path or with a query that is not UTF-8, or has too many parts") from error


def basic_credentials(headers: Mapping[str, str]) -> tuple[str, str] | None:
    """Return user and password of a Basic Authorization (RFC 7617), None where there is none that can be read."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(token.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        return None
    return (user, password) if colon else None


def plan_part(headers: Mapping[str, str], *, digest: Digest, size: int, whole: Answer) -> Answer:
    """Return the answer to a GET of a blob: what `whole` says, or only the range that was asked for.

    One range is served. Several of them, other units and what is no Range at all are ignored, as RFC 9110 §14.2
    allows, and so is a range whose If-Range is not our ETag: the whole blob comes, with 200.

    Args:
        headers: the request's.
        digest: the blob's; its ETag is the same in quotes.
        size: bytes of the blob.
        whole: the answer with the whole blob.
    """
    match = _RANGE.match(headers.get("range", ""))
    if match is None or headers.get("if-range", etag(digest)) != etag(digest):
        return whole
    asked = _resolve(match["first"], match["last"], size)
    if asked is None:
        return whole
    start, end = asked
    if start >= end:
        headers_of = {**_without_type(whole.headers), "Content-Range": f"bytes */{size}"}
        body = error_body("UNSUPPORTED", f"the blob has {size} bytes")
        return Answer(status=416, headers={**headers_of, "Content-Type": JSON}, body=body)
    return Answer(
        status=206,
        headers={**whole.headers, "Content-Range": f"bytes {start}-{end - 1}/{size}"},
        body=Part(digest=digest, start=start, end=end, size=size),
    )


def _without_type(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "Content-Type"}


def _resolve(first: str, last: str, size: int) -> tuple[int, int] | None:
    """Return start and end, an empty pair where nothing of it is there, None where it is no range."""
    if not first:
        if not last:
            return None
        count = _number(last)
        # The last bytes of nothing are all of it, and no Content-Range can say so.
        return None if count and not size else (size - min(count, size), size)
    start, end = _number(first), _number(last) + 1 if last else size
    if last and end <= start:
        return None
    return start, min(end, size)


def _number(digits: str) -> int:
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS


def etag(digest: Digest) -> str:
    """The strong validator of content: its digest, in quotes."""
    return f'"{digest}"'


def matches_etag(listed: str, digest: Digest) -> bool:
    """Whether an If-None-Match that lists `listed` means this content."""
    tags = {tag.strip().removeprefix("W/") for tag in listed.split(",")}
    return etag(digest) in tags or "*" in tags


def error_body(code: str, message: str) -> bytes:
    """One error in the form of the distribution specification."""
    return json.dumps({"errors": [{"code": code, "message": message}]}, ensure_ascii=False).encode() + b"\n"
