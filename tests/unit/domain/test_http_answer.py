"""Heads of answers: what is read, what is refused, and where a body ends."""

from __future__ import annotations

import http.client
import io
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bundler.domain.http_answer import parse_chunk_size, parse_head
from bundler.domain.http_fields import MAX_FIELDS, HeadError, OversizedError

TOKENS = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(lambda name: f"x{name}")
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)


def head(*lines: str, first: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join([first, *lines]).encode("latin-1")


def test_a_head_is_read() -> None:
    found = parse_head(head("ETag: a", "X-Two:b ", "x-two: c", "Content-Length: 12"), method="GET")
    assert (found.status, found.length, found.is_chunked, found.keeps_alive) == (200, 12, False, True)
    assert found.headers == {"etag": "a", "x-two": "b, c", "content-length": "12"}


def test_folded_lines_and_bare_line_ends_are_read() -> None:
    found = parse_head(b"HTTP/1.1 200\nA: one\n  two\r\n\tthree\nB: x", method="GET")
    assert found.headers == {"a": "one two three", "b": "x"}


@pytest.mark.parametrize(
    ("first", "lines", "method", "length", "is_chunked", "keeps_alive"),
    [
        ("HTTP/1.1 200 OK", ("Content-Length: 5",), "HEAD", 0, False, True),
        ("HTTP/1.1 204 No Content", ("Content-Length: 5",), "GET", 0, False, True),
        ("HTTP/1.1 304 Not Modified", (), "GET", 0, False, True),
        ("HTTP/1.1 200 OK", (), "GET", None, False, False),
        ("HTTP/1.1 200 OK", (), "CONNECT", 0, False, True),
        ("HTTP/1.1 407 No", ("Content-Length: 3",), "CONNECT", 3, False, True),
        ("HTTP/1.1 200 OK", ("Content-Length: 5, 5",), "GET", 5, False, True),
        ("HTTP/1.1 200 OK", ("Content-Length: 5", "Connection: Close"), "GET", 5, False, False),
        ("HTTP/1.0 200 OK", ("Content-Length: 5",), "GET", 5, False, False),
        ("HTTP/1.0 200 OK", ("Content-Length: 5", "Connection: Keep-Alive"), "GET", 5, False, True),
        ("HTTP/1.1 200 OK", ("Transfer-Encoding: Chunked",), "GET", None, True, True),
        ("HTTP/1.1 200 OK", ("Transfer-Encoding: chunked", "Content-Length: 5"), "GET", None, True, False),
    ],
)
def test_where_a_body_ends(
    first: str, lines: tuple[str, ...], method: str, length: int | None, *, is_chunked: bool, keeps_alive: bool
) -> None:
    found = parse_head(head(*lines, first=first), method=method)
    assert (found.length, found.is_chunked, found.keeps_alive) == (length, is_chunked, keeps_alive)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2",
        b"HTTP/2 200",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 999 OK",
        b"http/1.1 200 OK",
        b" HTTP/1.1 200 OK",
        head("no colon"),
        head(": no name"),
        head("Name : space before the colon"),
        head("A: nul\0"),
        head("A: a\rB: bare carriage return"),
        head("Content-Length: 5", "Content-Length: 6"),
        head("Content-Length: -5"),
        head("Content-Length: +5"),
        head("Content-Length: 5 6"),
        head("Content-Length: "),
        head("Content-Length: " + "9" * 19),
        head("A:" + " " * 100_000 + "\x01"),
        head("Transfer-Encoding: gzip"),
        head("Transfer-Encoding: gzip, chunked"),
        head("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    ],
)
def test_what_is_no_answer_or_says_two_things_is_refused(raw: bytes) -> None:
    with pytest.raises(HeadError):
        parse_head(raw, method="GET")


def test_more_fields_than_any_honest_server_sends_are_refused() -> None:
    parse_head(head(*("A: b",) * MAX_FIELDS), method="GET")
    with pytest.raises(OversizedError):
        parse_head(head(*("A: b",) * (MAX_FIELDS + 1)), method="GET")


@given(st.binary(max_size=300), st.sampled_from(["GET", "HEAD", "PUT", "CONNECT"]))
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 1", "GET")
def test_any_bytes_are_a_head_or_refused(raw: bytes, method: str) -> None:
    with suppress(HeadError):
        found = parse_head(raw, method=method)
        assert 100 <= found.status < 600
        assert found.length is None or found.length >= 0


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_bytes_among_fields_are_read_or_refused(before: bytes, after: bytes) -> None:
    with suppress(HeadError):
        found = parse_head(b"HTTP/1.1 200 OK\r\n" + before + b"\r\nContent-Length: 3\r\n" + after, method="GET")
        assert found.length in (0, 3, None)


@given(st.dictionaries(TOKENS, VALUES, max_size=10), st.integers(200, 599))
def test_an_honest_head_is_read_as_the_standard_library_reads_it(fields: dict[str, str], status: int) -> None:
    raw = head(*(f"{name}: {value}" for name, value in fields.items()), first=f"HTTP/1.1 {status} Said")
    found = parse_head(raw, method="GET")
    known = http.client.parse_headers(io.BytesIO(raw.partition(b"\r\n")[2] + b"\r\n\r\n"))
    assert found.status == status
    assert found.headers == {name.lower(): value for name, value in known.items()}


@pytest.mark.parametrize(
    ("line", "size"),
    [
        (b"0\r\n", 0),
        (b"1a\r\n", 26),
        (b"1A \n", 26),
        (b"00ff;name=value\r\n", 255),
        (b"fffffffffffffff\r\n", 16**15 - 1),
    ],
)
def test_sizes_of_chunks(line: bytes, size: int) -> None:
    assert parse_chunk_size(line) == size


@pytest.mark.parametrize("line", [b"\r\n", b"-1\r\n", b"0x1\r\n", b"1 2\r\n", b"g\r\n", b"1" * 16 + b"\r\n", b"1"])
def test_what_is_no_size_of_a_chunk_is_refused(line: bytes) -> None:
    with pytest.raises(HeadError):
        parse_chunk_size(line)


@given(st.binary(max_size=40))
def test_any_line_is_a_size_or_refused(line: bytes) -> None:
    with suppress(HeadError):
        assert 0 <= parse_chunk_size(line) < 16**15
