"""Signature version 4, checked against what botocore signs."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from bundler.lab.signature import Claim, HttpRequest, body_matches, is_expired, parse_claim, proves

KEY, SECRET, REGION = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG", "eu-central-1"


def received(request: AWSRequest) -> HttpRequest:
    """The request as a server sees it."""
    prepared = request.prepare()
    parts = urlsplit(prepared.url)
    headers = {name.lower(): _text(value) for name, value in prepared.headers.items()} | {"host": parts.netloc}
    body = prepared.body or b""
    content = body if isinstance(body, bytes) else str(body).encode()
    return HttpRequest(method=str(prepared.method), path=parts.path, query=parts.query, headers=headers, body=content)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def signed(service: str = "ecr", *, path: str = "/", body: bytes = b"{}", presign: bool = False) -> HttpRequest:
    url = f"http://127.0.0.1:4566{path}"
    request = AWSRequest(method="GET" if presign else "POST", url=url, data=b"" if presign else body)
    credentials = Credentials(KEY, SECRET, "a token" if presign else None)
    if presign:
        query = S3SigV4QueryAuth if service == "s3" else SigV4QueryAuth
        query(credentials, service, REGION, expires=60).add_auth(request)
    else:
        (S3SigV4Auth if service == "s3" else SigV4Auth)(credentials, service, REGION).add_auth(request)
    return received(request)


def claim_of(request: HttpRequest) -> Claim:
    claim = parse_claim(request)
    assert claim is not None
    return claim


@pytest.mark.parametrize("service", ["ecr", "ec2", "sts", "eks", "s3"])
@pytest.mark.parametrize("presign", [False, True])
def test_what_botocore_signs_is_proved(service: str, presign: bool) -> None:
    request = signed(service, path="/a%20b/c%2Fd?x=1&y=%C3%BC&empty=", presign=presign)
    claim = claim_of(request)
    assert (claim.access_key, claim.service, claim.region) == (KEY, service, REGION)
    assert claim.session_token == ("a token" if presign else None)
    assert proves(request, claim, SECRET)


@pytest.mark.parametrize("service", ["ecr", "s3"])
def test_another_secret_proves_nothing(service: str) -> None:
    request = signed(service)
    assert not proves(request, claim_of(request), SECRET + "x")


def test_a_changed_request_is_not_the_signed_one() -> None:
    request = signed("ecr", path="/x?a=1")
    changed = [
        replace(request, method="PUT"),
        replace(request, path="/other"),
        replace(request, query="a=2"),
        replace(request, body=b"other"),
    ]
    assert not [one for one in changed if proves(one, claim_of(request), SECRET)]


@pytest.mark.parametrize("header", ["host", "x-amz-date"])
def test_a_changed_header_is_not_the_signed_one(header: str) -> None:
    request = signed("ecr")
    headers = dict(request.headers) | {header: "20200101T000000Z"}
    assert not proves(replace(request, headers=headers), claim_of(request), SECRET)


def test_a_presigned_query_may_not_grow() -> None:
    request = signed("sts", path="/?Action=GetCallerIdentity&Version=2011-06-15", presign=True)
    assert proves(request, claim_of(request), SECRET)
    longer = replace(request, query=request.query + "&RoleArn=x")
    assert not proves(longer, claim_of(longer), SECRET)


def test_the_body_must_be_the_one_that_was_stated() -> None:
    digest = hashlib.sha256(b"stated").hexdigest()
    request = HttpRequest(method="PUT", path="/k", query="", headers={"x-amz-content-sha256": digest}, body=b"stated")
    assert body_matches(request)
    assert not body_matches(replace(request, body=b"other"))
    assert body_matches(replace(request, headers={"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}, body=b"any"))


@pytest.mark.parametrize(
    ("service", "presign", "age_s", "expired"),
    [
        ("ecr", False, 899, False),
        ("ecr", False, 901, True),
        ("ecr", False, -899, False),
        ("ecr", False, -901, True),
        ("sts", True, 899, False),  # although X-Amz-Expires says 60
        ("sts", True, 901, True),
        ("s3", True, 59, False),
        ("s3", True, 61, True),
    ],
)
def test_age_is_judged_by_service(service: str, presign: bool, age_s: int, expired: bool) -> None:
    claim = claim_of(signed(service, presign=presign))
    assert is_expired(claim, claim.signed_at + dt.timedelta(seconds=age_s)) is expired


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Basic QVdTOng=",
        "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=" + "0" * 64,
        "AWS4-HMAC-SHA256 Credential=a/20260101/r/s/aws4_request, SignedHeaders=host, Signature=short",
    ],
)
def test_other_headers_claim_nothing(authorization: str) -> None:
    headers = {"authorization": authorization, "x-amz-date": "20260101T000000Z"}
    assert parse_claim(HttpRequest(method="GET", path="/", query="", headers=headers)) is None


@given(st.text(max_size=300), st.text(max_size=300))
def test_no_request_breaks_the_parser(header: str, query: str) -> None:
    for headers in ({"authorization": header}, {}):
        parse_claim(HttpRequest(method="GET", path="/", query=query, headers=headers))
