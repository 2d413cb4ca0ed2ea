"""Zones of addresses, proxies of the environment, the stall detector."""

from __future__ import annotations

import threading

import pytest

from bundler.adapters.http_errors import translated
from bundler.adapters.network import Meter, StalledError, Zone, zone_of
from bundler.adapters.proxies import Proxies, Proxy
from bundler.domain.url import Url
from bundler.errors import FormatError, StoppedError, UsageError
from bundler.transfer import Interruptible, parallel_map


@pytest.mark.parametrize(
    ("address", "zone"),
    [
        ("8.8.8.8", Zone.PUBLIC),
        ("2600:1f18::1", Zone.PUBLIC),
        ("10.0.0.1", Zone.PRIVATE),
        ("172.16.0.1", Zone.PRIVATE),
        ("192.168.1.1", Zone.PRIVATE),
        ("100.64.0.1", Zone.PRIVATE),
        ("fd00:ec2::254", Zone.PRIVATE),
        ("127.0.0.1", Zone.LOOPBACK),
        ("127.9.9.9", Zone.LOOPBACK),
        ("0.0.0.0", Zone.LOOPBACK),
        ("::1", Zone.LOOPBACK),
        ("::", Zone.LOOPBACK),
        ("::ffff:127.0.0.1", Zone.LOOPBACK),
        ("::ffff:10.0.0.1", Zone.PRIVATE),
        ("2002:7f00:1::", Zone.LOOPBACK),
        ("64:ff9b::7f00:1", Zone.LOOPBACK),
        ("64:ff9b::808:808", Zone.PUBLIC),
        ("169.254.169.254", Zone.LINK_LOCAL),
        ("fe80::1%eth0", Zone.LINK_LOCAL),
        ("224.0.0.1", Zone.LINK_LOCAL),
    ],
)
def test_addresses_have_zones(address: str, zone: Zone) -> None:
    assert zone_of(address) is zone


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_stall_is_noticed_within_ninety_seconds_of_waiting() -> None:
    clock = Clock()
    meter = Meter(clock)
    for second in range(1, 90):
        clock.seconds = float(second)
        try:
            meter.received(1000, since=second - 1)
        except StalledError as error:
            assert "1000 bytes a second" in str(error)
            assert second == 60
            return
    raise AssertionError("not noticed")


def test_a_slow_but_honest_peer_passes() -> None:
    clock = Clock()
    meter = Meter(clock)
    for second in range(1, 600):
        clock.seconds = float(second)
        meter.received(1100, since=second - 1)


def test_time_that_we_take_ourselves_does_not_count() -> None:
    clock = Clock()
    meter = Meter(clock)
    for hour in range(1, 5):
        clock.seconds = 3600.0 * hour
        meter.received(10, since=clock.seconds - 0.001)


def test_the_wait_for_an_answer_has_a_limit_of_its_own() -> None:
    clock = Clock()
    meter = Meter(clock)
    meter.sent(10, since=0.0)
    clock.seconds = 500.0
    meter.received(10, since=0.0)
    with pytest.raises(StalledError):
        meter.received(10, since=0.0)


@pytest.mark.parametrize(
    ("no_proxy", "url", "is_direct"),
    [
        ("", "https://a.example/", False),
        ("*", "https://a.example/", True),
        ("example", "https://a.example/", True),
        (".example", "https://a.example/", True),
        ("*.example", "https://a.example/", True),
        ("ample", "https://a.example/", False),
        ("a.example:8443", "https://a.example/", False),
        ("a.example:443", "https://a.example/", True),
        ("b.example, A.EXAMPLE", "https://a.example/", True),
        ("10.0.0.0/8", "https://10.1.2.3/", True),
        ("10.0.0.0/8", "https://11.1.2.3/", False),
        ("10.1.2.3", "https://10.1.2.3/", True),
        ("10.1.2.3:443", "https://10.1.2.3/", True),
        ("fd00::/8", "https://[fd00::1]/", True),
        ("fd00::1", "https://[fd00::1]/", True),
        ("2.3", "https://10.1.2.3/", False),
        ("nonsense/99", "https://10.1.2.3/", False),
        ("a.example:x", "https://a.example/", False),
        ("", "https://localhost/", True),
        ("", "https://127.0.0.1:5000/", True),
    ],
)
def test_no_proxy_says_what_is_reached_directly(no_proxy: str, url: str, is_direct: bool) -> None:
    environ = {"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": no_proxy}
    found = Proxies.from_environment(environ).of(Url.parse(url).origin)
    assert (found is None) is is_direct


def test_lower_case_wins_and_each_scheme_has_its_own() -> None:
    environ = {
        "https_proxy": "one.example:1",
        "HTTPS_PROXY": "http://two.example",
        "HTTP_PROXY": "http://three.example",
    }
    proxies = Proxies.from_environment(environ)
    secure, plain = (proxies.of(Url.parse(f"{scheme}://a.example/").origin) for scheme in ("https", "http"))
    assert secure is not None
    assert plain is not None
    assert str(secure.url.origin) == "http://one.example:1"
    assert str(plain.url.origin) == "http://three.example"


def test_a_proxys_password_never_shows() -> None:
    proxy = Proxy.parse("http://me:hunter2%21@proxy.example:3128", variable="HTTPS_PROXY")
    assert proxy.userinfo is not None
    assert proxy.userinfo.reveal() == "me:hunter2!"
    assert "hunter2" not in repr(proxy)
    with pytest.raises(UsageError) as caught:
        Proxy.parse("http://me:hunter2@pro xy", variable="HTTPS_PROXY")
    assert "hunter2" not in f"{caught.value}"


@pytest.mark.parametrize(
    "text",
    [
        "socks5://user:CANARY@127.0.0.1:1",
        "ftp://user:CANARY@127.0.0.1:1",
        "http://user:CANARY/PROXY@127.0.0.1:1",
        "http://user:CANARY?PROXY@127.0.0.1:1",
        "http://user:CANARY#PROXY@127.0.0.1:1",
        "http://user:CANARY^PROXY@127.0.0.1:1",
        "http://user:CANARY@127.0.0.1:99999",
        "http://user:CANARY?x",
        "user:CANARY/127.0.0.1:1",
        "http://127.0.0.1:1/CANARY",
    ],
)
def test_a_proxy_that_not_everybody_reads_alike_is_usage_and_not_shown(text: str) -> None:
    with pytest.raises(UsageError, match=r"^HTTPS_PROXY: is not the URL of a proxy") as caught:
        Proxies.from_environment({"HTTPS_PROXY": text})
    assert "CANARY" not in f"{caught.value} {caught.value.hint}"


def test_each_spelling_of_a_proxys_password_is_known_as_a_secret() -> None:
    proxies = Proxies.from_environment({"HTTPS_PROXY": "http://me:hunter2%21@proxy.example", "HTTP_PROXY": "token@b"})
    hidden = "me:hunter2%21 hunter2! token"
    for secret in proxies.secrets:
        hidden = secret.hidden_in(hidden)
    assert hidden == "*** *** ***"


def test_a_connection_that_we_cut_ourselves_is_not_a_failure_of_the_network() -> None:
    waiting, cut, raised = threading.Event(), threading.Event(), []

    def work(item: int) -> None:
        if item == 1:
            assert waiting.wait(30)
            raise FormatError("item", "is bad")
        try:
            with translated("blob", "http://127.0.0.1"):
                with Interruptible(cut.set):
                    waiting.set()
                    assert cut.wait(30)
                raise ConnectionResetError(104, "Connection reset by peer")
        except StoppedError as error:
            raised.append(error)

    with pytest.raises(FormatError):
        parallel_map(work, range(2), workers=2)
    assert raised
