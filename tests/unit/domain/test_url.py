"""URLs, in the one form that every parser reads alike."""

from __future__ import annotations

from urllib.parse import urljoin

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bundler.domain.url import Origin, Url
from bundler.errors import FormatError


@pytest.mark.parametrize(
    ("text", "origin", "target"),
    [
        ("https://Reg.Example", "https://reg.example", "/"),
        ("https://reg.example:443/a?b=c#d", "https://reg.example", "/a?b=c"),
        ("http://127.0.0.1:5000/x", "http://127.0.0.1:5000", "/x"),
        ("http://[::1]:80/", "http://[::1]", "/"),
    ],
)
def test_urls_are_normalised(text: str, origin: str, target: str) -> None:
    url = Url.parse(text)
    assert (str(url.origin), url.target) == (origin, target)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "reg.example/a",
        "//reg.example/a",
        "ftp://reg.example/",
        "file:///etc/passwd",
        "https://",
        "https://user@reg.example/",
        "https://user:hunter2@reg.example/",
        "https://reg.example:0/",
        "https://reg.example:99999/",
        "https://reg.example:80a/",
        "https://reg example/",
        "https://reg.example\\@evil.example/",
        "https://reg.example/\r\nX: y",
        "https://reg..example/",
        "https://[::1/",
        "https://r\u00e9g.example/",
        "https://" + "a" * 64 + ".example/",
        "https://reg.example/" + "a" * 9000,
    ],
)
def test_what_is_not_plainly_a_url_is_refused(text: str) -> None:
    with pytest.raises(FormatError) as caught:
        Url.parse(text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "http://user:hunter2?x@host.example/",
        "http://user:hunter2#x@host.example/",
        "http://user:hunter2/x@host.example/",
        "http://a@user:hunter2?x@host.example/",
        "http://us er:hunter2?x@host.example/",
        "socks5://user:hunter2@host.example/",
        "http://user:hunter2?x@host.example:99999/",
    ],
)
def test_what_may_be_a_password_is_in_no_message(text: str) -> None:
    with pytest.raises(FormatError) as caught:
        Url.parse(text)
    assert "hunter2" not in str(caught.value)
    assert "host.example" in str(caught.value)


@pytest.mark.parametrize(
    ("location", "result"),
    [
        ("/v2/x", "https://reg.example/v2/x"),
        ("y?z=1", "https://reg.example/a/y?z=1"),
        ("https://other.example/q", "https://other.example/q"),
        ("//other.example/q", "https://other.example/q"),
    ],
)
def test_locations_are_joined(location: str, result: str) -> None:
    assert str(Url.parse("https://reg.example/a/b").join(location)) == result


def test_messages_show_no_query() -> None:
    assert Url.parse("https://s3.example/b?X-Amz-Signature=abc").shown == "https://s3.example/b"


def test_the_default_port_is_not_written() -> None:
    assert Origin("https", "reg.example", 443).authority == "reg.example"
    assert Origin("http", "reg.example", 443).authority == "reg.example:443"


@given(st.text(max_size=80))
def test_any_text_is_a_url_or_a_typed_error(text: str) -> None:
    for candidate in (text, f"https://{text}", f"https://reg.example/{text}"):
        try:
            url = Url.parse(candidate)
        except FormatError:
            continue
        assert Url.parse(str(url)) == url


PATHS = st.lists(st.text("ab.-_%:~", max_size=4), max_size=5).map(lambda parts: "/" + "/".join(parts))
QUERIES = st.one_of(st.just(""), st.text("ab?/&=%.#:@+", max_size=12).map("?".__add__))


@given(PATHS, QUERIES)
@example("/v2/team/app/blobs/uploads/3f-1", "?_state=a%2Bb==")
@example("//other.example/x", "")
@example("/a/../b", "")
@example("/a", "?")
def test_a_path_is_joined_by_itself_as_the_standard_library_joins_it(path: str, query: str) -> None:
    base = Url.parse("https://reg.example/a/b?c")
    try:
        expected = Url.parse(urljoin(str(base), path + query))
    except FormatError:
        with pytest.raises(FormatError):
            base.join(path + query)
        return
    assert base.join(path + query) == expected
