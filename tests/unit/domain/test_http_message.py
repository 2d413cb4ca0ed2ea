"""Heads of requests and ranges, from clients that mean well and from others."""

from __future__ import annotations

import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bundler.domain.digest import Digest
from bundler.domain.http_fields import MAX_FIELDS
from bundler.domain.http_message import (
    Answer,
    Part,
    basic_credentials,
    matches_etag,
    parse_request,
    plan_part,
)
from bundler.errors import FormatError, LimitError, RefusedError

DIGEST = Digest.of(b"content")
TOKENS = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(lambda name: f"x{name}")
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)


def head(*lines: str, first: str = "GET /v2/ HTTP/1.1", host: str = "Host: here") -> bytes:
    return "\r\n".join([first, *([host] if host else []), *lines]).encode("latin-1")


def whole(size: int) -> Answer:
    return Answer(status=200, headers={"Content-Type": "x/y"}, body=Part(digest=DIGEST, start=0, end=size, size=size))


def ranged(value: str, size: int, **more: str) -> Answer:
    headers = {"range": value} | {name.replace("_", "-"): text for name, text in more.items()}
    return plan_part(headers, digest=DIGEST, size=size, whole=whole(size))


def test_a_request_is_read() -> None:
    request = parse_request(
        head("Accept: a", "ACCEPT:b ", first="GET /v2/a%2Fb/x%3A1?ns=docker.io&n=&n=2 HTTP/1.1"), peer="p"
    )
    assert (request.method, request.path, request.query) == ("GET", "/v2/a/b/x:1", {"ns": "docker.io", "n": "2"})
    assert request.headers == {"host": "here", "accept": "a, b"}
    assert (request.has_body, request.keep_alive) == (False, True)


def test_the_absolute_form_is_read() -> None:
    assert parse_request(head(first="GET HTTP://other:1/v2/?a=1 HTTP/1.1"), peer="p").path == "/v2/"


@pytest.mark.parametrize(
    ("first", "line", "stays"),
    [
        ("GET / HTTP/1.1", "Connection: x, Close", False),
        ("GET / HTTP/1.1", "Connection: keep-alive", True),
        ("GET / HTTP/1.0", "Connection: Keep-Alive", False),
        ("GET / HTTP/1.0", "Accept: x", False),
    ],
)
def test_a_connection_stays_as_the_client_says(first: str, line: str, stays: bool) -> None:
    assert parse_request(head(line, first=first), peer="p").keep_alive is stays


@pytest.mark.parametrize("line", ["Content-Length: 1", "content-length: x", "Transfer-Encoding: chunked"])
def test_a_body_is_seen(line: str) -> None:
    assert parse_request(head(line), peer="p").has_body
    assert not parse_request(head("Content-Length: 0"), peer="p").has_body


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"GET /v2/",
        b"GET  /v2/ HTTP/1.1\r\nHost: a",
        b"get /v2/ HTTP/1.1\r\nHost: a",
        b"GET /v2/ HTTP/2.0\r\nHost: a",
        b"GET /v2/ HTTP/1.1",
        b"GET * HTTP/1.1\r\nHost: a",
        b"GET v2 HTTP/1.1\r\nHost: a",
        b"GET /%ff HTTP/1.1\r\nHost: a",
        b"GET /?a=%ff HTTP/1.1\r\nHost: a",
        b"GET /?" + b"a=1&" * 30 + b" HTTP/1.1\r\nHost: a",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded",
        b"GET / HTTP/1.1\r\nHost : a",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b",
        b"GET / HTTP/1.1\r\nHost: a\nX: b",
        b"GET / HTTP/1.1\r\nHost: a\rX: b",
        b"GET / HTTP/1.1\r\nHost: a\0",
        b"GET / HTTP/1.1\nHost: a",
    ],
)
def test_what_is_no_request_is_refused(raw: bytes) -> None:
    with pytest.raises(FormatError):
        parse_request(raw, peer="p")


def test_more_fields_than_any_honest_client_sends_are_refused() -> None:
    with pytest.raises(LimitError):
        parse_request(head(*(f"x{n}: y" for n in range(MAX_FIELDS))), peer="p")


@given(st.binary(max_size=300))
@example(b"GET /" + b" " * 200)
def test_any_bytes_are_a_request_or_a_refusal(raw: bytes) -> None:
    try:
        request = parse_request(raw, peer="p")
    except RefusedError:
        return
    assert request.path.startswith("/")


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_bytes_in_an_honest_head_are_a_request_or_a_refusal(target: bytes, value: bytes) -> None:
    try:
        request = parse_request(b"GET /" + target + b" HTTP/1.1\r\nHost: a\r\nRange: " + value, peer="p")
    except RefusedError:
        return
    assert not set(value) & {0, 10, 13} or value.count(b"\r\n")
    basic_credentials({"authorization": request.headers.get("range", "")})


@given(st.dictionaries(TOKENS, VALUES, max_size=10))
def test_every_field_arrives(fields: dict[str, str]) -> None:
    request = parse_request(head(*(f"{name.upper()}: {value}" for name, value in fields.items())), peer="p")
    assert request.headers == {"host": "here", **fields}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=2-5", (2, 6)),
        ("bytes=2-", (2, 10)),
        ("bytes=2-99999999999999999999999999", (2, 10)),
        ("BYTES = 0002-3 ", (2, 4)),
        ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
        ("bytes=0-", (0, 10)),
    ],
)
def test_one_range_is_served(value: str, expected: tuple[int, int]) -> None:
    answer = ranged(value, 10)
    assert isinstance(answer.body, Part)
    assert (answer.body.start, answer.body.end) == expected
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {expected[0]}-{expected[1] - 1}/10"
    assert answer.length == expected[1] - expected[0]


@pytest.mark.parametrize(
    "value",
    ["", "bytes", "bytes=", "bytes=-", "bytes=5-3", "bytes=0-1,3-4", "items=0-1", "bytes=a-b", "bytes=-1-2", "bytes=1"],
)
def test_what_is_no_single_range_gets_the_whole(value: str) -> None:
    assert ranged(value, 10) == whole(10)


@pytest.mark.parametrize(
    ("value", "size"), [("bytes=10-", 10), ("bytes=99-100", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
)
def test_a_range_beyond_the_end_is_refused_with_the_size(value: str, size: int) -> None:
    answer = ranged(value, size)
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{size}")
    assert isinstance(answer.body, bytes)


def test_the_last_bytes_of_nothing_are_the_whole() -> None:
    assert ranged("bytes=-5", 0) == whole(0)


@pytest.mark.parametrize(
    ("condition", "status"),
    [(f'"{DIGEST}"', 206), (f'W/"{DIGEST}"', 200), ('"other"', 200), ("Fri, 27 Nov 2026 11:00:00 GMT", 200)],
)
def test_a_range_of_another_version_is_the_whole(condition: str, status: int) -> None:
    assert ranged("bytes=1-2", 10, if_range=condition).status == status


@given(
    st.one_of(st.text(max_size=40), st.from_regex(r"bytes=[0-9]{0,25}-[0-9]{0,25}", fullmatch=True)), st.integers(0, 40)
)
def test_an_answer_is_the_whole_a_range_within_or_416(value: str, size: int) -> None:
    answer = ranged(value, size)
    if answer.status == 416:
        return
    assert isinstance(answer.body, Part)
    assert 0 <= answer.body.start <= answer.body.end <= size
    if answer.status == 206:
        assert answer.length > 0
        assert answer.headers["Content-Range"] == f"bytes {answer.body.start}-{answer.body.end - 1}/{size}"
    else:
        assert answer == whole(size)


@given(st.text(max_size=20).filter(lambda text: ":" not in text), st.text(max_size=20))
def test_credentials_come_back(user: str, password: str) -> None:
    try:
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
    except UnicodeEncodeError:
        return
    assert basic_credentials({"authorization": f"bAsic {token}"}) == (user, password)


@pytest.mark.parametrize("value", ["", "Bearer x", "Basic", "Basic !", "Basic /w==", "Basic " + "eA=="])
def test_what_are_no_credentials_are_none(value: str) -> None:
    assert basic_credentials({"authorization": value}) is None


def test_a_validator_means_the_content() -> None:
    assert matches_etag(f'"x", W/"{DIGEST}"', DIGEST)
    assert matches_etag("*", DIGEST)
    assert not matches_etag("", DIGEST)
    assert not matches_etag(str(DIGEST), DIGEST)
