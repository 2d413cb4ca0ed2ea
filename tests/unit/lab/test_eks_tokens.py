from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from bundler.errors import AccessError
from bundler.lab.eks_tokens import Caller, Cluster, map_caller, parse_token

NOW = dt.datetime(2026, 7, 1, 12, 0, tzinfo=dt.UTC)
HOST = "sts.eu-central-1.amazonaws.com"
FIELDS = {
    "Action": "GetCallerIdentity",
    "Version": "2011-06-15",
    "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
    "X-Amz-Credential": "AKIAEXAMPLE%2F20260701%2Feu-central-1%2Fsts%2Faws4_request",
    "X-Amz-Date": "20260701T115000Z",
    "X-Amz-Expires": "60",
    "X-Amz-SignedHeaders": "host%3Bx-k8s-aws-id",
    "X-Amz-Signature": "ab",
}


def token(url: str) -> str:
    return "k8s-aws-v1." + base64.urlsafe_b64encode(url.encode()).decode().rstrip("=")


def url(*, scheme: str = "https", host: str = HOST, path: str = "/", more: str = "", **changes: str) -> str:
    fields = {**FIELDS, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return f"{scheme}://{host}{path}?" + "&".join(f"{k}={v}" for k, v in fields.items() if v) + more


def test_question_of_a_good_token_is_passed_on_as_it_was_signed() -> None:
    question = parse_token(token(url()), sts_host=HOST, now=NOW)
    assert question.query == url().partition("?")[2]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (url(scheme="http"), "unexpected host"),
        (url(host="sts.amazonaws.com"), "unexpected host"),
        (url(host=f"{HOST}:8443"), "unexpected host"),
        (url(host=f"evil@{HOST}"), "unexpected host"),
        (url(host=f"{HOST}.evil.example"), "unexpected host"),
        (url(path="/x"), "unexpected path"),
        (url(more="#x"), "unexpected path"),
        (url(Action="AssumeRole"), "unexpected action"),
        (url(more="&Action=GetCallerIdentity"), "multiple values"),
        (url(more="&action=GetCallerIdentity"), "multiple values"),
        (url(more="&RoleArn=x"), "non-whitelisted"),
        (url(more="&" + "&".join(f"Version={n}" for n in range(30))), "malformed query"),
        (url(more="&&x"), "malformed query"),
        (url(X_Amz_SignedHeaders="host"), "x-k8s-aws-id"),
        (url(X_Amz_SignedHeaders="host%3Bx-k8s-aws-id-not"), "x-k8s-aws-id"),
        (url(X_Amz_Expires="901"), "X-Amz-Expires"),
        (url(X_Amz_Expires="-1"), "X-Amz-Expires"),
        (url(X_Amz_Expires=""), "X-Amz-Expires"),
        (url(X_Amz_Date="20260701T114459Z"), "expired"),
        (url(X_Amz_Date="yesterday"), "X-Amz-Date"),
        ("", "unexpected host"),
        ("https://[", "does not hold a URL"),
        ("https://ü/", "does not hold a URL"),
    ],
)
def test_question_that_eks_would_not_ask_is_refused(bad: str, reason: str) -> None:
    with pytest.raises(AccessError, match=reason):
        parse_token("k8s-aws-v1." + token(bad)[11:] if bad else "k8s-aws-v1.Lw", sts_host=HOST, now=NOW)


@pytest.mark.parametrize(
    "bad", ["", "k8s-aws-v1.", "k8s-aws-v2.AAAA", "k8s-aws-v1.AA==", "k8s-aws-v1.A+/A", "k8s-aws-v1.A\n"]
)
def test_text_that_is_no_token_is_refused(bad: str) -> None:
    with pytest.raises(AccessError):
        parse_token(bad, sts_host=HOST, now=NOW)


@pytest.mark.parametrize("change", ["{}=", "{}==", "{}\n", "{} ", "{}=AAAA"])
def test_base64_is_read_strictly(change: str) -> None:
    with pytest.raises(AccessError, match="unpadded base64url"):
        parse_token(change.format(token(url())), sts_host=HOST, now=NOW)


def test_refusal_never_holds_any_of_the_token() -> None:
    with pytest.raises(AccessError) as caught:
        parse_token(token(url(host="secret-host", X_Amz_Signature="SECRETSIGNATURE")), sts_host=HOST, now=NOW)
    assert "secret" not in str(caught.value).lower()


@dataclass
class Entry:
    principal: str
    type: str = "STANDARD"
    username: str = "someone"
    groups: list[str] = field(default_factory=list)
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)


def cluster(*entries: Entry) -> Cluster:
    def found() -> Iterable[Entry]:
        return entries

    names = {"i-0123": "ip-10-0-0-1.eu-central-1.compute.internal"}
    return Cluster(name="c", sts_host=HOST, aws_url="http://127.0.0.1:9", entries=found, node_name=names.get)


def session(role: str, name: str) -> Caller:
    arn = f"arn:aws:sts::111122223333:assumed-role/{role}/{name}"
    return Caller(arn=arn, account="111122223333", user_id=f"AROA:{name}", access_key="ASIA")


def test_instance_of_a_node_role_is_the_node_of_its_private_name() -> None:
    entry = Entry(
        principal="arn:aws:iam::111122223333:role/node", type="EC2_LINUX",
        username="system:node:{{EC2PrivateDNSName}}", groups=["system:nodes"],
    )  # fmt: skip
    user = map_caller(session("node", "i-0123"), cluster(entry))
    assert user.username == "system:node:ip-10-0-0-1.eu-central-1.compute.internal"
    assert user.groups == ("system:nodes",)
    with pytest.raises(AccessError, match="not an instance"):
        map_caller(session("node", "i-9999"), cluster(entry))


def test_entry_of_another_account_or_of_a_like_named_role_is_not_taken() -> None:
    others = [
        Entry(principal="arn:aws:iam::999922223333:role/deploy"),
        Entry(principal="arn:aws:iam::111122223333:role/deploy-more"),
        Entry(principal="arn:aws:iam::111122223333:user/deploy"),
    ]
    with pytest.raises(AccessError, match="no access entry"):
        map_caller(session("deploy", "s"), cluster(*others))


def test_cluster_admin_policy_counts_only_with_the_scope_of_the_cluster() -> None:
    arn = "arn:aws:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy"
    wide, narrow = ({arn: {"accessScope": {"type": kind}}} for kind in ("cluster", "namespace"))
    role = "arn:aws:iam::111122223333:role/path/deploy"
    groups = [map_caller(session("deploy", "s"), cluster(Entry(role, policies=one))).groups for one in (wide, narrow)]
    assert groups == [("eks-access-policy:cluster-admin",), ()]
