"""WWW-Authenticate, which comes from whoever answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.adapters.registry_auth import Challenge, parse_challenge
from bundler.errors import FormatError


@pytest.mark.parametrize(
    ("text", "challenge"),
    [
        ("Basic", Challenge(scheme="basic")),
        ('basic realm="Registry Realm"', Challenge(scheme="basic", realm="Registry Realm")),
        (
            'Basic realm="https://1.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com"',
            Challenge(scheme="basic", realm="https://1.dkr.ecr.eu-west-1.amazonaws.com/", service="ecr.amazonaws.com"),
        ),
        (
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull"',
            Challenge(
                scheme="bearer",
                realm="https://auth.docker.io/token",
                service="registry.docker.io",
                scope="repository:a/b:pull",
            ),
        ),
        ('Bearer realm="r" , service=quay.io, error="x"', Challenge(scheme="bearer", realm="r", service="quay.io")),
        ('BEARER Realm="r"', Challenge(scheme="bearer", realm="r")),
    ],
)
def test_honest_challenges_are_understood(text: str, challenge: Challenge) -> None:
    assert parse_challenge(text, subject="x") == challenge


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Negotiate",
        "Digest realm=x",
        "Bearerrealm=x",
        'Bearer realm="x',
        'Bearer realm="x" service="y"',
        'Bearer realm="x",',
        'Bearer realm="x",,service="y"',
        'Bearer realm="x",realm="y"',
        'Basic realm="x", Bearer realm="y"',
        'Bearer realm="a\\"b"',
        'Bearer realm="a\nb"',
        "Bearer realm",
        'Bearer realm="' + "x" * 9000 + '"',
    ],
)
def test_others_are_refused(text: str) -> None:
    with pytest.raises(FormatError):
        parse_challenge(text, subject="x")


@given(st.text(alphabet='BbearBasic realm=",:/\\\t\n\x00xyz', max_size=60), st.booleans())
def test_any_text_is_a_challenge_or_a_typed_error(text: str, with_scheme: bool) -> None:
    try:
        found = parse_challenge(f"Bearer {text}" if with_scheme else text, subject="x")
    except FormatError:
        return
    assert found.scheme in ("basic", "bearer")
