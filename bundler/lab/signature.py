"""AWS signature version 4, the verifying side (AWS General Reference, "Signature Version 4 signing process").

moto checks no signature; a token or a request signed with another key must be refused, or the lab would prove nothing.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote

_ALGORITHM = "AWS4-HMAC-SHA256"
_HEADER = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<credential>[^,\s]+),\s*SignedHeaders=(?P<headers>[^,\s]+),\s*"
    r"Signature=(?P<signature>[0-9a-f]{64})\s*\Z"
)
_SCOPE_PARTS = 5
SKEW_S = 900  # five to fifteen minutes, by service; STS tokens live fifteen
UNSIGNED = "UNSIGNED-PAYLOAD"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request as it came over the wire: `path` and `query` raw, header names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a signed request says about its signer. Proved by `proves`, nothing before."""

    access_key: str
    date: str
    region: str
    service: str
    time: str
    signed_at: dt.datetime
    signed_headers: tuple[str, ...]
    signature: str
    session_token: str | None
    lifetime_s: int | None
    presigned: bool

    @property
    def scope(self) -> str:
        """The credential scope."""
        return f"{self.date}/{self.region}/{self.service}/aws4_request"

    def age_s(self, now: dt.datetime) -> float:
        """Seconds since the request was signed; negative when it comes from the future."""
        return (now - self.signed_at).total_seconds()


def parse_claim(request: HttpRequest) -> Claim | None:
    """Return what the request claims; None when it is not signed, or not in a form that AWS takes."""
    header = request.headers.get("authorization")
    return _from_header(header, request) if header is not None else _from_query(request)


def _from_header(header: str, request: HttpRequest) -> Claim | None:
    match = _HEADER.match(header)
    scope = match["credential"].split("/") if match else []
    time = request.headers.get("x-amz-date", "")
    signed_at = _parse_time(time)
    if match is None or len(scope) != _SCOPE_PARTS or signed_at is None:
        return None
    return Claim(
        access_key=scope[0], date=scope[1], region=scope[2], service=scope[3], time=time, signed_at=signed_at,
        signed_headers=tuple(match["headers"].split(";")), signature=match["signature"],
        session_token=request.headers.get("x-amz-security-token"), lifetime_s=None, presigned=False,
    )  # fmt: skip


def _from_query(request: HttpRequest) -> Claim | None:
    fields = dict(parse_qsl(request.query, keep_blank_values=True))
    scope = fields.get("X-Amz-Credential", "").split("/")
    time, lifetime = fields.get("X-Amz-Date", ""), fields.get("X-Amz-Expires", "900")
    if fields.get("X-Amz-Algorithm") != _ALGORITHM or len(scope) != _SCOPE_PARTS:
        return None
    signed_at = _parse_time(time)
    if signed_at is None or not lifetime.isdigit():
        return None
    return Claim(
        access_key=scope[0], date=scope[1], region=scope[2], service=scope[3], time=time, signed_at=signed_at,
        signed_headers=tuple(fields.get("X-Amz-SignedHeaders", "").split(";")),
        signature=fields.get("X-Amz-Signature", ""), session_token=fields.get("X-Amz-Security-Token"),
        lifetime_s=int(lifetime), presigned=True,
    )  # fmt: skip


def _parse_time(text: str) -> dt.datetime | None:
    try:
        return dt.datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
    except ValueError:
        return None


def proves(request: HttpRequest, claim: Claim, secret: str) -> bool:
    """Whether the signature was made with `secret` over this very request, its host and its body."""
    canonical = _canonical_request(request, claim)
    text = "\n".join([_ALGORITHM, claim.time, claim.scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{secret}".encode()
    for part in (claim.date, claim.region, claim.service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    wanted = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    return hmac.compare_digest(wanted, claim.signature) and claim.time.startswith(claim.date)


def is_expired(claim: Claim, now: dt.datetime) -> bool:
    """Whether the request is too old, or from too far in the future.

    STS holds a presigned request for valid for fifteen minutes whatever X-Amz-Expires says (aws-iam-authenticator,
    pkg/token: the parameter "is ignored"); S3 goes by X-Amz-Expires.
    """
    life_s = claim.lifetime_s if claim.presigned and claim.service == "s3" else SKEW_S
    return not -SKEW_S <= claim.age_s(now) <= (life_s if life_s is not None else SKEW_S)


def body_matches(request: HttpRequest) -> bool:
    """Whether `x-amz-content-sha256`, where it is a digest, names the body that came."""
    stated = request.headers.get("x-amz-content-sha256", UNSIGNED)
    return len(stated) != 64 or stated == hashlib.sha256(request.body).hexdigest()


def _canonical_request(request: HttpRequest, claim: Claim) -> str:
    headers = "".join(f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in claim.signed_headers)
    return "\n".join(
        [
            request.method,
            # S3 signs the path as sent; every other service encodes it once more
            (request.path or "/") if claim.service == "s3" else quote(request.path or "/", safe="/~"),
            _canonical_query(request.query, presigned=claim.presigned),
            headers,
            ";".join(claim.signed_headers),
            _payload_hash(request, claim),
        ]
    )


def _canonical_query(query: str, *, presigned: bool) -> str:
    pairs = []
    for item in filter(None, query.split("&")):
        name, _, value = item.partition("=")
        if not (presigned and name == "X-Amz-Signature"):
            pairs.append((_encode(name), _encode(value)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _encode(text: str) -> str:
    return quote(unquote(text.replace("+", "%20")), safe="-_.~")


def _payload_hash(request: HttpRequest, claim: Claim) -> str:
    if "x-amz-content-sha256" in request.headers:
        return request.headers["x-amz-content-sha256"]
    if claim.presigned and claim.service == "s3":
        return UNSIGNED
    return hashlib.sha256(request.body).hexdigest()
