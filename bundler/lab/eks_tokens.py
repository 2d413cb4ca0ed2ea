"""The check of EKS tokens: a webhook of the API server that asks STS who signed, and access entries who that is.

After aws-iam-authenticator, pkg/token (Verify) and pkg/arn (Canonicalize), which EKS runs.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import logging
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import SplitResult, parse_qsl, urlsplit

import urllib3

from bundler.errors import AccessError
from bundler.lab.http_server import Answer, Request, Server
from bundler.lab.kubernetes import CLUSTER_ADMIN_GROUP

_LOG = logging.getLogger(__name__)
PREFIX = "k8s-aws-v1."
MAX_TOKEN_CHARACTERS = 4096
MAX_REVIEW_BYTES = 64 << 10
LIFE = dt.timedelta(minutes=15)
CLUSTER_HEADER = "x-k8s-aws-id"
_ALLOWED = frozenset(
    {
        "action", "version", "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires",
        "x-amz-security-token", "x-amz-signature", "x-amz-signedheaders",
    }
)  # fmt: skip
_UNPADDED = re.compile(r"[A-Za-z0-9_-]+\Z")
_ASSUMED = re.compile(
    r"arn:(?P<partition>[a-z-]+):sts::(?P<account>\d{12}):assumed-role/(?P<role>[^/]+)/(?P<session>.+)\Z"
)
_ROLE = re.compile(r"(?P<head>arn:[a-z-]+:iam::\d{12}:role/)(?:.+/)?(?P<name>[^/]+)\Z")
ADMIN_POLICY = "/AmazonEKSClusterAdminPolicy"
NODE_NAME = "{{EC2PrivateDNSName}}"


class AccessEntry(Protocol):
    """An access entry of the cluster; `policies` maps an access policy's ARN to its association."""

    principal: str
    type: str
    username: str
    groups: list[str]
    policies: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who STS says signed the token."""

    arn: str
    account: str
    user_id: str
    access_key: str

    @property
    def canonical_arn(self) -> str:
        """The ARN that an access entry can name: an assumed role's is that of the role, without its path."""
        found = _ASSUMED.match(self.arn)
        return self.arn if found is None else "arn:{partition}:iam::{account}:role/{role}".format(**found.groupdict())

    @property
    def session_name(self) -> str:
        """The session of an assumed role; empty for a user."""
        found = _ASSUMED.match(self.arn)
        return "" if found is None else found["session"]


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who somebody is in the cluster."""

    username: str
    groups: tuple[str, ...]
    caller: Caller

    @property
    def review(self) -> dict[str, object]:
        """The user of a TokenReview, with the extra fields that EKS adds."""
        caller = self.caller
        extra = {
            "arn": [caller.arn],
            "canonicalArn": [caller.canonical_arn],
            "sessionName": [caller.session_name],
            "principalId": [caller.user_id.partition(":")[0]],
            "accessKeyId": [caller.access_key],
        }
        uid = f"aws-iam-authenticator:{caller.account}:{caller.user_id.partition(':')[0]}"
        return {"username": self.username, "uid": uid, "groups": list(self.groups), "extra": extra}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The cluster that tokens are checked for, and where to ask.

    Attributes:
        name: what a token must be signed with.
        sts_host: the only host that a token may ask; that of the Region.
        aws_url: where the lab answers for it.
        entries: returns the access entries as they are now.
        node_name: returns the private DNS name of an instance, None where there is no such instance.
    """

    name: str
    sts_host: str
    aws_url: str
    entries: Callable[[], Iterable[AccessEntry]]
    node_name: Callable[[str], str | None] = lambda _: None


class TokenReviewServer:
    """Answers TokenReviews on a port of 127.0.0.1."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._server: Server | None = None

    def start(self) -> str:
        """Serve in a thread; return the URL for the API server."""
        self._server = Server(self)
        threading.Thread(target=self._server.serve_forever, name="tokens", daemon=True).start()
        return f"http://127.0.0.1:{self._server.port}/authenticate"

    def stop(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, request: Request) -> Answer:
        """Answer one TokenReview; what cannot be checked is nobody."""
        body = request.body.read(MAX_REVIEW_BYTES) or b""
        try:
            review = json.loads(body)
            version, token = str(review["apiVersion"]), str(review["spec"]["token"])
        except (ValueError, KeyError, TypeError):
            return Answer(status=400, body=b"not a TokenReview")
        answer = {"apiVersion": version, "kind": "TokenReview", "status": self._status(token)}
        return Answer(status=200, headers={"Content-Type": "application/json"}, body=json.dumps(answer).encode())

    def _status(self, token: str) -> dict[str, object]:
        try:
            user = authenticate(token, self._cluster, now=dt.datetime.now(dt.UTC))
        except AccessError as error:
            _LOG.info("token refused: %s", error)
            return {"authenticated": False, "error": str(error)}
        return {"authenticated": True, "user": user.review}


def authenticate(token: str, cluster: Cluster, *, now: dt.datetime) -> User:
    """Return whose token it is.

    Raises:
        AccessError: it is nobody's; the text never holds any of the token.
    """
    question = parse_token(token, sts_host=cluster.sts_host, now=now)
    return map_caller(ask_sts(question, cluster), cluster)


def parse_token(token: str, *, sts_host: str, now: dt.datetime) -> SplitResult:
    """Return the presigned question to STS that a token holds. Nothing is proved yet: only STS can check a signature.

    Raises:
        AccessError: it is not a question that EKS would pass on.
    """
    url = _decode(token)
    if url.scheme != "https" or url.netloc != sts_host:
        raise _refused(f"unexpected host in pre-signed URL, only {sts_host} is asked")
    if url.path != "/" or url.fragment:
        raise _refused("unexpected path in pre-signed URL")
    fields = _fields(url.query)
    if fields.get("action") != "GetCallerIdentity":
        raise _refused("unexpected action parameter in pre-signed URL")
    if CLUSTER_HEADER not in fields.get("x-amz-signedheaders", "").lower().split(";"):
        raise _refused(f"client did not sign the {CLUSTER_HEADER} header in the pre-signed URL")
    if not re.fullmatch(r"[0-9]{1,3}", fields.get("x-amz-expires", "")) or int(fields["x-amz-expires"]) > 900:
        raise _refused("invalid X-Amz-Expires parameter in pre-signed URL")
    if now > _signed_at(fields.get("x-amz-date", "")) + LIFE:
        raise _refused("X-Amz-Date parameter is expired (15 minute expiration)")
    return url


def ask_sts(question: SplitResult, cluster: Cluster) -> Caller:
    """Ask STS the question in the token, with this cluster's name: another's gives another signature.

    Raises:
        AccessError: STS does not believe the signature.
    """
    headers = {"Host": question.netloc, CLUSTER_HEADER: cluster.name, "Accept": "application/json"}
    try:
        answer = urllib3.request(
            "GET", f"{cluster.aws_url}/?{question.query}", headers=headers, retries=False, redirect=False, timeout=10
        )
    except urllib3.exceptions.HTTPError as error:
        raise _refused(f"STS could not be asked: {type(error).__name__}") from None
    if answer.status != 200:
        raise _refused(f"error from AWS (expected 200, got {answer.status})")
    found = answer.json()["GetCallerIdentityResponse"]["GetCallerIdentityResult"]
    key = dict(parse_qsl(question.query)).get("X-Amz-Credential", "").partition("/")[0]
    return Caller(arn=found["Arn"], account=found["Account"], user_id=found["UserId"], access_key=key)


def map_caller(caller: Caller, cluster: Cluster) -> User:
    """Return who the caller is in the cluster.

    Raises:
        AccessError: there is no access entry for it.
    """
    entry = find_entry(caller.canonical_arn, cluster.entries())
    if entry is None:
        raise _refused(f"no access entry for {caller.canonical_arn}")
    username = _filled(entry.username, caller, cluster)
    return User(username=username, groups=(*entry.groups, *_policy_groups(entry.policies)), caller=caller)


def find_entry(arn: str, entries: Iterable[AccessEntry]) -> AccessEntry | None:
    """Return the entry of a principal. A role is known by its name alone: STS does not tell its path."""
    wanted = _without_path(arn)
    return next((entry for entry in entries if _without_path(entry.principal) == wanted), None)


def _without_path(arn: str) -> str:
    found = _ROLE.match(arn)
    return arn if found is None else found["head"] + found["name"]


def _filled(username: str, caller: Caller, cluster: Cluster) -> str:
    if NODE_NAME in username:
        name = cluster.node_name(caller.session_name)
        if name is None:
            raise _refused(f"{caller.arn} is not an instance")
        username = username.replace(NODE_NAME, name)
    words = {
        "{{SessionName}}": caller.session_name.replace("@", "-"),
        "{{SessionNameRaw}}": caller.session_name,
        "{{AccountID}}": caller.account,
    }
    for word, value in words.items():
        username = username.replace(word, value)
    return username


def _policy_groups(policies: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the groups that stand for access policies; only cluster-wide administration is known here."""
    wide = any(
        arn.endswith(ADMIN_POLICY) and found.get("accessScope", {}).get("type") == "cluster"
        for arn, found in policies.items()
    )
    return (CLUSTER_ADMIN_GROUP,) if wide else ()


def _decode(token: str) -> SplitResult:
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise _refused("token is too large")
    if not token.startswith(PREFIX):
        raise _refused(f"token is missing expected {PREFIX} prefix")
    text = token.removeprefix(PREFIX)
    if not _UNPADDED.match(text):
        raise _refused("token is not unpadded base64url")
    try:
        return urlsplit(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii"))
    except (binascii.Error, ValueError):
        raise _refused("token does not hold a URL") from None


def _fields(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=20)
    except ValueError:
        raise _refused("malformed query parameter") from None
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name.lower() not in _ALLOWED:
            raise _refused("non-whitelisted query parameter")
        if name.lower() in fields:
            raise _refused("query parameter with multiple values not supported")
        fields[name.lower()] = value
    return fields


def _signed_at(text: str) -> dt.datetime:
    try:
        return dt.datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
    except ValueError:
        raise _refused("error parsing X-Amz-Date parameter") from None


def _refused(reason: str) -> AccessError:
    return AccessError("EKS token", reason)
