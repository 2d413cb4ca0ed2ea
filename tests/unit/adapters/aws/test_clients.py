"""Settings of AWS clients."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.adapters.aws.clients import Aws, AwsSettings, Service, site_endpoints
from bundler.adapters.aws.failures import Asked
from bundler.errors import AccessError, BundleError, LocalResourceError, NetworkError, UsageError
from tests.fakes.sites import authority, make_site


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


def aws(**settings: object) -> Aws:
    return Aws(AwsSettings(**{"region": "ap-northeast-1", "environ": {}, **settings}))  # type: ignore[arg-type]


def test_an_endpoint_is_what_the_site_says_then_what_botocore_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert aws().service("ec2").endpoint == "https://ec2.ap-northeast-1.amazonaws.com"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://all.example")
    assert aws().service("ec2").endpoint == "https://all.example"
    monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", "https://vpce.example")
    assert aws().service("ec2").endpoint == "https://vpce.example"
    assert aws(endpoints={"ec2": "https://site.example"}).service("ec2").endpoint == "https://site.example"


def test_the_sites_endpoint_is_for_the_sites_region() -> None:
    other = aws(endpoints={"ecr": "https://site.example"}).service("ecr", region="us-west-2")
    assert other.endpoint == "https://api.ecr.us-west-2.amazonaws.com"


def test_endpoints_of_the_site_have_botocores_names() -> None:
    site = make_site(endpoints={"ecr.api": "https://a.example", "s3": "https://b.example", "ecr.dkr": "c.example:443"})
    assert site_endpoints(site) == {"ecr": "https://a.example", "s3": "https://b.example"}


@pytest.mark.parametrize("url", ["nonsense", "vpce.example:443"])
def test_an_endpoint_that_is_no_url_is_usage(url: str) -> None:
    with pytest.raises(UsageError):
        aws(endpoints={"ec2": url}).service("ec2")


BAD_ENDPOINTS = [
    "http://user:CANARY@127.0.0.1:1/",
    "http://user:CANARY?x@127.0.0.1:1/",
    "http://user:CANARY#x@127.0.0.1:1/",
    "http://user:CANARY/x@127.0.0.1:1/",
    "http://127.0.0.1:1/?CANARY",
    "http://127.0.0.1:99999/CANARY",
    "http://127.0.0.1:CANARY/",
    "http://[::1/CANARY",
    "ftp://127.0.0.1/CANARY",
    "http://host_with_underscore.example/CANARY",
    "CANARY",
]


@pytest.mark.parametrize("url", BAD_ENDPOINTS)
@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_AUTO_SCALING"])
def test_an_endpoint_of_the_environment_that_is_no_plain_url_is_usage_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, variable: str, url: str
) -> None:
    monkeypatch.setenv(variable, url)
    with pytest.raises(UsageError, match=f"^{variable}: is not the URL of an endpoint") as caught:
        aws().service("autoscaling")
    assert "CANARY" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("url", BAD_ENDPOINTS)
def test_an_endpoint_of_the_site_that_is_no_plain_url_names_its_key(url: str) -> None:
    with pytest.raises(UsageError, match=r"^endpoints: ecr\.api in the site file: is not the URL") as caught:
        aws(endpoints={"ecr": url}).service("ecr")
    assert "CANARY" not in f"{caught.value} {caught.value.hint}"


def test_an_endpoint_of_a_profile_is_checked_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[default]\nendpoint_url = http://user:CANARY@127.0.0.1:1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(UsageError, match=r"^endpoint_url in AWS_CONFIG_FILE") as caught:
        aws().service("ec2")
    assert "CANARY" not in f"{caught.value}"
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert aws().service("ec2").endpoint == "https://ec2.ap-northeast-1.amazonaws.com"


def test_a_metadata_address_that_botocore_refuses_is_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://user:CANARY@creds.example:99999/x")
    with pytest.raises(BundleError) as caught:
        aws().service("ec2").call("DescribeVpcs")
    assert caught.value.exit_code in (2, 4)
    assert "CANARY" not in f"{caught.value}"


def test_no_region_is_usage() -> None:
    with pytest.raises(UsageError):
        aws(region=None).service("ec2")


def test_a_profile_that_does_not_exist_is_access(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(AccessError):
        aws().service("ec2")


def config_of(service: Service) -> object:
    return service._client.meta.config


def test_patience_is_five_seconds_to_connect_or_three_and_eight_tries() -> None:
    patient, quick = config_of(aws().service("ec2")), config_of(aws(quick=True).service("ec2"))
    assert (patient.connect_timeout, patient.retries["total_max_attempts"]) == (5, 8)  # type: ignore[attr-defined]
    assert (quick.connect_timeout, quick.retries["total_max_attempts"]) == (3, 8)  # type: ignore[attr-defined]


def test_authorities_are_the_usual_ones_and_the_given_one(tmp_path: Path) -> None:
    usual, added = tmp_path / "usual.pem", tmp_path / "added.pem"
    usual.write_text("usual\n")
    added.write_bytes(authority())
    assert aws()._verify() is None
    assert aws(environ={"SSL_CERT_FILE": str(usual)})._verify() == str(usual)
    both = {"SSL_CERT_FILE": "/nowhere", "AWS_CA_BUNDLE": str(usual)}
    assert aws(environ=both)._verify() == str(usual)
    with_ca = aws(environ=both, ca_file=added)
    joined = Path(str(with_ca._verify()))
    assert joined.read_bytes() == b"usual\n\n" + authority() + b"\n"
    with_default = aws(ca_file=added)
    content = Path(str(with_default._verify())).read_bytes()
    assert content.count(b"BEGIN CERTIFICATE") > 50
    assert content.endswith(authority() + b"\n")
    del with_ca
    assert not joined.exists()


def test_an_authority_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalResourceError, match=r"none\.pem"):
        aws(ca_file=tmp_path / "none.pem").service("ec2")


ASKED = Asked(service="ec2", operation="*", resource="*", endpoint="https://ec2.example", setting="ec2")


class Client:
    """Answers what it is given."""

    class meta:  # noqa: N801 - as botocore calls it
        endpoint_url = "https://ec2.example"
        region_name = "ap-northeast-1"

    def __init__(self, answer: object) -> None:
        self._answer = answer

    def describe_vpcs(self, **_: object) -> object:
        return self._answer

    def get_paginator(self, _: str) -> Client:
        return self

    def paginate(self, **_: object) -> object:
        return self._answer


@pytest.mark.parametrize("answer", [{}, {"Vpcs": []}, {"Vpcs": None}, {"Vpcs": [{}]}, {"Vpcs": [None]}])
def test_an_answer_that_lacks_what_the_api_promises_is_network(answer: object) -> None:
    service = Service(Client(answer), ASKED)
    with pytest.raises(NetworkError, match="lacks what the API promises"):
        service.ask("DescribeVpcs", lambda found: str(found["Vpcs"][0]["VpcId"]))


def test_pages_without_end_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bundler.adapters.aws.clients.MAX_PAGES", 3)
    service = Service(Client([{"Vpcs": []}] * 5), ASKED)
    with pytest.raises(NetworkError, match="more than 3 pages"):
        service.list("DescribeVpcs", "Vpcs", lambda item: item)
