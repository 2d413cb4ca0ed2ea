"""EKS tokens: the signature computed again, by hand, from AWS's description of version 4."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from botocore.loaders import Loader

from bundler.adapters.aws.clients import Aws, AwsSettings, site_endpoints
from bundler.adapters.aws.token import cluster_token, exec_credential
from bundler.domain.partition import DNS_SUFFIXES
from bundler.domain.site import Site
from bundler.errors import AccessError
from tests.fakes.sites import make_site

KEY, SECRET, SESSION = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "a/session+token=="
NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": SESSION,
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


def url_of(site: Site, settings: AwsSettings | None = None) -> str:
    token = cluster_token(Aws(settings or AwsSettings(region=site.region)), site, now=lambda: NOW)
    text = token.text.reveal()
    assert text.startswith("k8s-aws-v1.")
    encoded = text.removeprefix("k8s-aws-v1.")
    assert "=" not in encoded
    return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()


def test_the_signature_is_right() -> None:
    parts = urlsplit(url_of(make_site()))
    fields = dict(parse_qsl(parts.query, keep_blank_values=True))
    signature = fields.pop("X-Amz-Signature")
    assert fields["Action"] == "GetCallerIdentity"
    assert fields["X-Amz-Expires"] == "60"
    assert fields["X-Amz-SignedHeaders"] == "host;x-k8s-aws-id"
    assert fields["X-Amz-Security-Token"] == SESSION
    date = fields["X-Amz-Date"]
    scope = f"{date[:8]}/ap-northeast-1/sts/aws4_request"
    assert fields["X-Amz-Credential"] == f"{KEY}/{scope}"
    query = "&".join(f"{quote(key, safe='-_.~')}={quote(value, safe='-_.~')}" for key, value in sorted(fields.items()))
    canonical = "\n".join(
        [
            "GET",
            "/",
            query,
            "host:sts.ap-northeast-1.amazonaws.com\nx-k8s-aws-id:c1\n",
            "host;x-k8s-aws-id",
            hashlib.sha256(b"").hexdigest(),
        ]
    )
    text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{SECRET}".encode()
    for part in (date[:8], "ap-northeast-1", "sts", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    assert signature == hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def test_the_host_is_the_regions_own_whatever_overrides_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "https://vpce-1.example")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://vpce-2.example")
    monkeypatch.setenv("AWS_STS_REGIONAL_ENDPOINTS", "legacy")
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    site = make_site(region="us-east-1", endpoints={"sts": "https://vpce-3.example"})
    settings = AwsSettings(region=site.region, endpoints=site_endpoints(site))
    assert urlsplit(url_of(site, settings)).hostname == "sts.us-east-1.amazonaws.com"


@pytest.mark.parametrize(
    ("partition", "region", "host"),
    [
        ("aws-us-gov", "us-gov-west-1", "sts.us-gov-west-1.amazonaws.com"),
        ("aws-cn", "cn-north-1", "sts.cn-north-1.amazonaws.com.cn"),
        ("aws-eusc", "eusc-de-east-1", "sts.eusc-de-east-1.amazonaws.eu"),
        ("aws-iso", "us-iso-east-1", "sts.us-iso-east-1.c2s.ic.gov"),
    ],
)
def test_every_partition_has_its_own_host(partition: str, region: str, host: str) -> None:
    assert urlsplit(url_of(make_site(partition=partition, region=region))).hostname == host


def test_the_names_of_partitions_are_botocores() -> None:
    partitions = Loader().load_data("endpoints")["partitions"]
    assert {partition["partition"]: partition["dnsSuffix"] for partition in partitions} == DNS_SUFFIXES


def test_without_credentials_it_is_access(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    with pytest.raises(AccessError):
        url_of(make_site())


def test_kubectl_reads_token_and_end_of_life() -> None:
    token = cluster_token(Aws(AwsSettings()), make_site(), now=lambda: NOW)
    credential = exec_credential(token)
    assert credential["apiVersion"] == "client.authentication.k8s.io/v1"
    assert credential["status"] == {"expirationTimestamp": "2026-01-02T03:18:05Z", "token": token.text.reveal()}
    assert SECRET not in f"{token!r} {credential}"
    assert "k8s-aws-v1" not in repr(token)
