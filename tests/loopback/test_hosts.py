"""Requests at a time to one host: nobody keeps a place, and nobody waits for one while he holds what others need."""

from __future__ import annotations

import threading
import time

import pytest

from bundler.adapters.hosts import HostPace, Hosts
from bundler.adapters.http import Transport, TransportSettings
from bundler.adapters.oci_registry import RegistryClient
from bundler.adapters.registry_auth import FirstOf
from bundler.domain.digest import Digest
from bundler.domain.reference import Reference
from bundler.domain.url import Origin
from bundler.errors import BundleError, NetworkError
from bundler.pacing import Limits
from bundler.retry import RetryPolicy
from bundler.transfer import parallel_map
from tests.fakes.scripted_server import Asked, Reply, ScriptedServer

pytestmark = pytest.mark.loopback
ONE = Limits(start=1, least=1, most=1)
ORIGIN = Origin("http", "registry.example", 80)


def client(limits: Limits = ONE) -> RegistryClient:
    settings = TransportSettings(limits_of=lambda origin: limits, sleep=lambda seconds: None)
    policy = RetryPolicy(tries=2, sleep=lambda seconds: None)
    return RegistryClient(Transport(settings), provider=FirstOf(), policy=policy)


def in_threads(*actions: object) -> None:
    """Run them at a time; each must end."""
    threads = [threading.Thread(target=action, daemon=True) for action in actions]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


def test_a_question_about_a_refusal_that_fails_gives_its_place_back() -> None:
    """HEAD is 403 without a word; the GET that asks why fails. One place leaked, and the next request never came."""

    def script(asked: Asked) -> Reply:
        return Reply(status=403 if asked.method == "HEAD" else 503)

    with ScriptedServer(script) as server:
        registry, name = client(), Reference.parse(f"{server.authority}/app:1")

        def ask() -> None:
            with pytest.raises(BundleError):
                registry.has_blob(name, Digest.of(b"x"))

        for _ in range(3):
            in_threads(ask)


def test_a_tag_that_is_taken_is_asked_about_when_its_answer_is_closed() -> None:
    """One thread held the only place and waited for a token, the other renewed that token and waited for a place."""
    putting = threading.Event()

    def script(asked: Asked) -> Reply:
        if asked.path == "/token":
            return Reply(body=b'{"token":"abc","expires_in":600}')
        if "authorization" not in asked.headers:
            realm = f'Bearer realm="http://{asked.headers["host"]}/token",service="x"'
            return Reply(status=401, headers={"WWW-Authenticate": realm})
        if asked.method == "PUT":
            putting.set()
            time.sleep(0.3)
            return Reply(status=400, body=b'{"errors":[{"code":"TAG_INVALID","message":"tag is immutable"}]}')
        return Reply(status=404)

    with ScriptedServer(script) as server:
        registry = client()

        def put() -> None:
            with pytest.raises(BundleError):
                registry.put_manifest(Reference.parse(f"{server.authority}/a:1"), b"{}", "application/json")

        def look() -> None:
            putting.wait()
            assert registry.manifest_digest(Reference.parse(f"{server.authority}/b:1")) is None

        in_threads(put, look)


def test_a_host_that_is_slow_gets_no_fewer_than_in_the_beginning() -> None:
    pace = HostPace(Limits(start=8, most=64))
    for latency in (0.01, 0.06):
        for _ in range(200):
            slot = pace.enter()
            pace.answered(latency)
            slot.leave()
    assert pace.bearing.requests == 8


def test_a_host_that_refuses_gets_half_of_what_was_under_way() -> None:
    pace, all_in = HostPace(Limits(start=32, most=64)), threading.Barrier(12)

    def ask() -> None:
        slot = pace.enter()
        all_in.wait()
        pace.refused()
        all_in.wait()
        slot.leave()

    in_threads(*[ask] * 12)
    assert pace.bearing.requests == 6


def test_a_host_on_this_machine_gets_two_requests_for_each_processor_until_it_is_far() -> None:
    pace = HostPace(Limits(start=8, most=64), processors=2)
    assert (pace.bearing.requests, pace.bearing.is_here) == (8, False)
    for latency, requests in ((0.0005, 4), (0.02, 8)):
        for _ in range(400):
            slot = pace.enter()
            pace.answered(latency)
            slot.leave()
        assert pace.bearing.requests == requests


def test_no_more_requests_than_a_host_bears_are_under_way() -> None:
    under_way, most, lock = 0, 0, threading.Lock()

    def script(asked: Asked) -> Reply:
        nonlocal under_way, most
        with lock:
            under_way, most = under_way + 1, max(most, under_way + 1)
        time.sleep(0.002)
        with lock:
            under_way -= 1
        return Reply(status=404)

    with ScriptedServer(script) as server:
        registry = client(Limits(start=3, most=3))
        names = [Reference.parse(f"{server.authority}/app:{number}") for number in range(60)]
        parallel_map(registry.manifest_digest, names, workers=20)
    assert most <= 3


def test_each_host_has_its_own() -> None:
    hosts = Hosts(lambda origin: ONE)
    other = Origin("http", "other.example", 80)
    held = hosts.of(ORIGIN).enter()
    hosts.of(other).enter().leave()
    assert hosts.of(ORIGIN) is not hosts.of(other)
    held.leave()


def test_a_broken_connection_gives_its_place_back() -> None:
    with ScriptedServer(lambda asked: None) as server:
        registry = client()
        for _ in range(2):
            with pytest.raises(NetworkError):
                registry.manifest_digest(Reference.parse(f"{server.authority}/app:1"))
