"""The ways to AWS: proxies, authorities, roles that botocore assumes, and services that say "later"."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bundler.adapters.aws.clients import Aws, AwsSettings
from bundler.adapters.proxies import Proxies
from bundler.domain.events import Event, Retrying
from bundler.errors import AccessError, NetworkError
from bundler.lab.tls import make_authority, server_context
from tests.fakes.scripted_server import Asked, Reply, Script, ScriptedServer

pytestmark = pytest.mark.loopback
REGION = "ap-northeast-1"
IDENTITY = (
    b"<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::111122223333:user/u</Arn>"
    b"<Account>111122223333</Account><UserId>u</UserId></GetCallerIdentityResult></GetCallerIdentityResponse>"
)
ROLE = (
    b"<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>theirs"
    b"</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>"
    b"</AssumeRoleResult></AssumeRoleResponse>"
)
THROTTLED = b"<ErrorResponse><Error><Code>Throttling</Code><Message>Rate exceeded</Message></Error></ErrorResponse>"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "HTTP_PROXY": "http://127.0.0.1:9",  # what botocore would read by itself
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)


def identity(_: Asked) -> Reply:
    return Reply(body=IDENTITY)


def ask(aws: Aws) -> str:
    return aws.service("sts").ask("GetCallerIdentity", lambda answer: str(answer["Account"]))


def test_a_request_goes_through_its_proxy_which_alone_gets_the_password() -> None:
    with ScriptedServer(identity) as proxy:
        environ = {"HTTP_PROXY": f"http://me:p%C3%A4ss@{proxy.authority}", "NO_PROXY": "direct.example"}
        endpoints = {"sts": "http://sts.example"}
        aws = Aws(AwsSettings(region=REGION, endpoints=endpoints, proxies=Proxies.from_environment(environ)))
        assert ask(aws) == "111122223333"
    assert proxy.requests[0].target == "http://sts.example/"
    sent = proxy.requests[0].headers["proxy-authorization"].removeprefix("Basic ")
    assert base64.b64decode(sent).decode() == "me:päss"


def test_what_no_proxy_names_is_asked_directly_request_by_request() -> None:
    environ = {"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": "mine.s3.ap-northeast-1.amazonaws.com"}
    s3 = Aws(AwsSettings(region=REGION, proxies=Proxies.from_environment(environ))).service("s3")
    found = s3._client._endpoint.http_session._proxy_config.proxy_url_for
    assert found("https://theirs.s3.ap-northeast-1.amazonaws.com/a?b") == "http://proxy.example:3128"
    assert found("https://mine.s3.ap-northeast-1.amazonaws.com/a?b") is None


def test_loopback_is_never_asked_through_a_proxy() -> None:
    proxies = Proxies.from_environment({"HTTP_PROXY": "http://127.0.0.1:9"})
    with ScriptedServer(identity) as sts:
        assert ask(Aws(AwsSettings(region=REGION, endpoints={"sts": sts.url}, proxies=proxies))) == "111122223333"


def test_a_proxy_that_refuses_is_named_without_password_and_no_vpc_endpoint_is_missing() -> None:
    proxies = Proxies.from_environment({"HTTPS_PROXY": "http://user:CANARY@127.0.0.1:9"})
    with pytest.raises(NetworkError, match=r"through the proxy http://127.0.0.1:9") as caught:
        ask(Aws(AwsSettings(region=REGION, proxies=proxies, quick=True)))
    assert "VPC needs" not in caught.value.hint
    assert "CANARY" not in f"{caught.value} {caught.value.__cause__}"


def test_a_proxy_that_wants_credentials_is_access() -> None:
    with ScriptedServer(lambda asked: b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n") as proxy:
        proxies = Proxies.from_environment({"HTTPS_PROXY": proxy.url})
        with pytest.raises(AccessError, match="wants credentials"):
            ask(Aws(AwsSettings(region=REGION, proxies=proxies, quick=True)))


def test_the_role_of_a_profile_is_assumed_through_the_sites_endpoint_and_authorities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = "[profile role]\nrole_arn = arn:aws:iam::111122223333:role/r\nsource_profile = user\nregion = us-west-2\n"
    (tmp_path / "config").write_text(config)
    (tmp_path / "credentials").write_text("[user]\naws_access_key_id = AKID\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "role")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    authority = make_authority("site")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    context = server_context(authority, ("127.0.0.1",), folder=tmp_path / "tls")
    with ScriptedServer(lambda asked: Reply(body=ROLE), tls=context) as sts:
        settings = AwsSettings(region=REGION, endpoints={"sts": sts.url}, ca_file=tmp_path / "ca.pem", environ={})
        assert Aws(settings).credentials().access_key == "ASIAROLE"
        assert f"/{REGION}/sts/" in sts.requests[0].headers["authorization"]


def later(times: int, *, body: bytes = THROTTLED, status: int = 400, **headers: str) -> Script:
    replies = iter([*[Reply(status=status, body=body, headers=headers)] * times, *[Reply(body=IDENTITY)] * 9])
    return lambda asked: next(replies)


@pytest.fixture
def patient() -> Iterator[tuple[Callable[[Script], Aws], list[float], list[Event]]]:
    """Gives a quick client whose waits cost nothing."""
    waits: list[float] = []
    events: list[Event] = []
    servers: list[ScriptedServer] = []

    def start(script: Script) -> Aws:
        servers.append(ScriptedServer(script).__enter__())
        endpoints = {"sts": servers[-1].url}
        settings = AwsSettings(region=REGION, endpoints=endpoints, quick=True, emit=events.append, sleep=waits.append)
        return Aws(settings)

    yield start, waits, events
    for server in servers:
        server.__exit__()


Patient = tuple[Callable[[Script], Aws], list[float], list[Event]]


@pytest.mark.parametrize(("status", "body"), [(400, THROTTLED), (503, b"")])
def test_f10_a_service_that_says_later_has_been_reached_even_by_a_quick_client(
    patient: Patient, status: int, body: bytes
) -> None:
    start, waits, events = patient
    assert ask(start(later(4, status=status, body=body))) == "111122223333"
    assert len(waits) == 4
    assert [type(event) for event in events] == [Retrying] * 4


def test_f10_retry_after_is_honoured_and_costs_no_try(patient: Patient) -> None:
    start, waits, events = patient
    assert ask(start(later(9, **{"Retry-After": "7"}))) == "111122223333"
    assert waits == [7.0] * 9
    assert events[0] == Retrying(subject="sts:GetCallerIdentity", cause="Throttling Rate exceeded", wait_s=7.0)


def test_f10_a_service_that_goes_on_saying_later_is_busy_and_no_endpoint_is_missing(patient: Patient) -> None:
    start, waits, _ = patient
    with pytest.raises(NetworkError, match="busy or failing: Throttling") as caught:
        ask(start(later(50)))
    assert len(waits) == 7
    assert not caught.value.unreachable
    assert "VPC needs" not in caught.value.hint


def test_f10_no_wait_that_a_service_asks_for_is_without_end(patient: Patient) -> None:
    start, waits, _ = patient
    with pytest.raises(NetworkError, match="busy or failing"):
        ask(start(later(50, **{"Retry-After": "999999"})))
    assert waits[:3] == [300.0] * 3
    assert len(waits) == 3 + 7


def test_a_quick_client_meets_silence_twice_and_says_nothing_of_it() -> None:
    events: list[Event] = []
    endpoints = {"sts": "http://127.0.0.1:9"}
    started = time.monotonic()
    with pytest.raises(NetworkError) as caught:
        ask(Aws(AwsSettings(region=REGION, endpoints=endpoints, quick=True, emit=events.append)))
    assert caught.value.unreachable
    assert time.monotonic() - started < 5
    assert events == []
