"""Networks and registries that fail half-way. F09-F16 are the rows of the fault model."""

from __future__ import annotations

import signal
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bundler.adapters.http import Request, Transport, TransportSettings
from bundler.adapters.http_files import HttpFiles
from bundler.adapters.network import HopelessError
from bundler.adapters.proxies import Proxies, Proxy
from bundler.adapters.registries_config import Registries
from bundler.adapters.registry_upload import UploadSettings
from bundler.domain.digest import Digest
from bundler.domain.events import Event, Retrying
from bundler.domain.oci import OCI_MANIFEST
from bundler.domain.reference import Reference
from bundler.domain.url import Url
from bundler.errors import (
    AccessError,
    DigestError,
    ImmutableTagError,
    MissingBlobError,
    MissingRepositoryError,
    NetworkError,
    NotFoundUpstreamError,
    TransientError,
)
from bundler.lab.tls import make_authority, server_context
from bundler.retry import RetryPolicy
from bundler.transfer import parallel_map
from tests.fakes.images import blob_descriptor, image, layer_bytes
from tests.fakes.scripted_server import Asked, Reply, Sleeps, Wallet, client_of, mapped, serving
from tests.fakes.uploading_registry import UploadingRegistry, too_large

pytestmark = pytest.mark.loopback

GOOD = image("good")
BLOB = layer_bytes("blob", 100_000)


class Sink:
    """Takes a blob and counts how often it had to begin again."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.restarts = 0

    def restart(self) -> None:
        self.got.clear()
        self.restarts += 1


def read(authority: str, sink: Sink | None = None, **options: object) -> bytes:
    taken = sink or Sink()
    name = Reference.parse(f"{authority}/app")
    client_of(**options).read_blob(name, blob_descriptor(BLOB), taken.got.extend, restart=taken.restart)  # type: ignore[arg-type]
    return bytes(taken.got)


def pieces_of(content: bytes, size: int = 4096) -> Callable[[int], Iterator[memoryview]]:
    def reopen(start: int) -> Iterator[memoryview]:
        for place in range(start, len(content), size):
            yield memoryview(content)[place : place + size]

    return reopen


def upload(authority: str, content: bytes = BLOB, *, name: str = "app", **options: object) -> bool:
    client = client_of(**options)  # type: ignore[arg-type]
    return client.upload_blob(Reference.parse(f"{authority}/{name}"), blob_descriptor(content), pieces_of(content))


def ranged(asked: Asked, *, most: int | None = None) -> Reply:
    """Serves BLOB, at most `most` bytes of it a request, then hangs up."""
    start = int(asked.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
    rest = BLOB[start:]
    piece = rest if most is None else rest[:most]
    headers = {"Content-Range": f"bytes {start}-{len(BLOB) - 1}/{len(BLOB)}"} if start else {}
    return Reply(status=206 if start else 200, headers=headers, body=piece, length=len(rest), cut=piece != rest)


def test_f09_a_cut_body_goes_on_where_it_was_cut() -> None:
    with serving(lambda asked: ranged(asked, most=30_000)) as server:
        sink = Sink()
        assert read(server.authority, sink) == BLOB
        assert sink.restarts == 0
        starts = [asked.headers.get("range") for asked in server.requests]
        assert starts == [None, "bytes=30000-99999", "bytes=60000-99999", "bytes=90000-99999"]


def test_f09_a_server_that_ignores_ranges_is_read_again_without_telling_anybody() -> None:
    def script(asked: Asked) -> Reply:
        return Reply(body=BLOB[:70_000], length=len(BLOB), cut=True) if len(server.requests) == 1 else Reply(body=BLOB)

    with serving(script) as server:
        sink = Sink()
        assert read(server.authority, sink) == BLOB
        assert sink.restarts == 0


def test_f09_a_resumed_body_of_other_content_begins_again_from_the_start() -> None:
    def script(asked: Asked) -> Reply:
        if len(server.requests) == 1:
            return Reply(body=BLOB[:60_000], length=len(BLOB), cut=True)
        if len(server.requests) == 2:
            headers = {"Content-Range": f"bytes 60000-99999/{len(BLOB)}"}
            return Reply(status=206, headers=headers, body=bytes(40_000))
        return Reply(body=BLOB)

    with serving(script) as server:
        sink = Sink()
        assert read(server.authority, sink) == BLOB
        assert sink.restarts == 1


def test_f09_progress_renews_the_budget_of_retries() -> None:
    with serving(lambda asked: ranged(asked, most=3000)) as server:
        assert read(server.authority) == BLOB
        assert len(server.requests) == 34


def test_f10_retry_after_is_honoured_and_costs_no_try() -> None:
    def script(asked: Asked) -> Reply:
        if len(server.requests) <= 20:
            return Reply(status=429, headers={"Retry-After": "7"})
        return Reply(body=BLOB)

    sleeps = Sleeps()
    settings = TransportSettings(sleep=Sleeps())
    with serving(script) as server:
        assert read(server.authority, settings=settings, policy=RetryPolicy(sleep=sleeps)) == BLOB
        assert sleeps.seconds == [7.0] * 20


def test_f10_retry_after_ends_when_patience_ends() -> None:
    sleeps = Sleeps()
    settings = TransportSettings(sleep=Sleeps())
    reply = Reply(status=503, headers={"Retry-After": "99999"})
    with serving(lambda asked: reply) as server:
        with pytest.raises(TransientError, match="503"):
            read(server.authority, settings=settings, policy=RetryPolicy(sleep=sleeps))
        assert set(sleeps.seconds) == {300.0}
        assert len(server.requests) == 3 + 8


def test_f10_retry_after_holds_for_the_whole_host() -> None:
    waits = Sleeps()
    settings = TransportSettings(clock=lambda: 100.0, sleep=waits)
    transport = Transport(settings)
    reply = Reply(status=429, headers={"Retry-After": "9"})
    with serving(lambda asked: reply) as server, serving(lambda asked: Reply()) as other:
        for number in range(2):
            with pytest.raises(TransientError) as caught:
                transport.send(Request(url=Url.parse(f"{server.url}/{number}"), subject="x"))
            assert caught.value.retry_after_s == 9.0
        transport.send(Request(url=Url.parse(f"{other.url}/"), subject="x")).close()
        assert waits.seconds == [9.0]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", None),
        ("-1", None),
        ("soon", None),
        ("12", 12.0),
        ("400", 300.0),
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2020 07:28:30 GMT", None),
    ],
)
def test_f10_retry_after_is_read_in_both_forms(text: str, seconds: float | None) -> None:
    headers = {"Retry-After": text, "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}
    with serving(lambda asked: Reply(status=429, headers=headers)) as server:
        with pytest.raises(TransientError) as caught:
            Transport(TransportSettings()).send(Request(url=Url.parse(server.url), subject="x"))
        assert caught.value.retry_after_s == seconds


@pytest.mark.parametrize(
    "failure", [Reply(status=500), Reply(status=502), Reply(status=408), None, b"HTTP/1.1 2", b"\x15\x03\x01"]
)
def test_f11_seven_failures_are_survived_and_eight_are_not(failure: Reply | bytes | None) -> None:
    def script(asked: Asked) -> Reply | bytes | None:
        return failure if len(server.requests) <= failures else Reply(body=BLOB)

    heard: list[Event] = []
    sleeps = Sleeps()
    policy = RetryPolicy(sleep=sleeps, chance=lambda: 1.0, emit=heard.append)
    with serving(script) as server:
        failures = 7
        assert read(server.authority, policy=policy) == BLOB
        assert sleeps.seconds == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
        assert len(heard) == 7
        assert all(isinstance(event, Retrying) and server.authority in event.cause for event in heard)
        failures = 100
        with pytest.raises(NetworkError):
            read(server.authority, policy=policy)
        assert len(server.requests) == 8 + 8


def test_f11_a_refused_connection_names_the_place() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(TransientError, match=f"127.0.0.1 port {port}: Connection refused"):
            read(f"127.0.0.1:{port}")


def test_f11_a_name_that_does_not_exist_is_not_tried_again() -> None:
    def nobody(host: str, port: int) -> list[tuple[str, int]]:
        asked.append(host)
        raise HopelessError(f"the name {host} cannot be resolved (Name or service not known)")

    asked: list[str] = []
    with pytest.raises(NetworkError, match=r"reg\.example cannot be resolved") as caught:
        read("reg.example", settings=TransportSettings(resolve=nobody))
    assert not isinstance(caught.value, TransientError)
    assert asked == ["reg.example"]


def test_f11_the_next_address_is_tried_when_one_refuses() -> None:
    def two(host: str, port: int) -> list[tuple[str, int]]:
        return [("127.0.0.9", 1), ("127.0.0.1", server.port)]

    with serving(lambda asked: Reply(body=BLOB)) as server:
        settings = TransportSettings(resolve=two)
        assert read("localhost:1", settings=settings) == BLOB


def fast_clock() -> float:
    """A clock on which a real second is 300 seconds."""
    return time.monotonic() * 300


def dribble(content: bytes) -> Iterator[bytes]:
    for place in range(len(content)):
        yield content[place : place + 1]
        time.sleep(0.005)


def test_f12_a_body_that_dribbles_is_cut_and_asked_for_on_a_new_connection() -> None:
    def script(asked: Asked) -> Reply:
        return Reply(body=dribble(BLOB), length=len(BLOB)) if len(server.requests) == 1 else ranged(asked)

    heard: list[Event] = []
    began = time.monotonic()
    with serving(script) as server:
        settings = TransportSettings(clock=fast_clock)
        policy = RetryPolicy(sleep=Sleeps(), emit=heard.append)
        assert read(server.authority, settings=settings, policy=policy) == BLOB
    assert time.monotonic() - began < 90 / 300 + 1
    assert "stalled" in heard[0].cause  # type: ignore[attr-defined]


def test_f12_headers_that_dribble_are_cut_too() -> None:
    with serving(lambda asked: dribble(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 60_000)) as server:
        settings = TransportSettings(clock=fast_clock)
        with pytest.raises(TransientError, match="stalled"):
            read(server.authority, settings=settings, policy=RetryPolicy(tries=1))


def test_f12_a_body_that_dribbles_under_tls_is_cut_too(tmp_path: Path) -> None:
    authority = make_authority("slow")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    context = server_context(authority, ("127.0.0.1", "localhost"), folder=tmp_path / "pair")
    with serving(lambda asked: Reply(body=dribble(BLOB), length=len(BLOB)), tls=context) as server:
        settings = TransportSettings(clock=fast_clock, ca_files=(str(tmp_path / "ca.pem"),))
        registries = mapped("reg.example", server.url)
        with pytest.raises(TransientError, match="stalled"):
            read("reg.example", settings=settings, registries=registries, policy=RetryPolicy(tries=1))


def test_f13_silence_after_accepting_has_a_limit() -> None:
    def script(asked: Asked) -> Reply:
        time.sleep(1)
        return Reply()

    with serving(script) as server:
        settings = TransportSettings(first_byte_timeout_s=0.2)
        with pytest.raises(TransientError, match=f"{server.url}: nothing came in time"):
            read(server.authority, settings=settings, policy=RetryPolicy(tries=1))


def test_f13_a_host_that_never_accepts_has_a_limit() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = []
        for _ in range(3):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(full.getsockname())
            waiting.append(client)
        settings = TransportSettings(connect_timeout_s=0.2)
        with pytest.raises(TransientError, match=r"did not accept within 0\.2 s"):
            read(f"127.0.0.1:{full.getsockname()[1]}", settings=settings, policy=RetryPolicy(tries=1))
        for client in waiting:
            client.close()


def test_f13_a_peer_that_takes_nothing_has_a_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        request = Request(
            url=Url.parse(f"http://127.0.0.1:{deaf.getsockname()[1]}/up"),
            subject="blob",
            method="PUT",
            body=(memoryview(bytes(1 << 20)) for _ in range(64)),
            body_bytes=64 << 20,
        )
        with pytest.raises(TransientError):
            Transport(TransportSettings(first_byte_timeout_s=0.2)).send(request)


@pytest.mark.parametrize("is_used_again", [False, True])
def test_f13_a_peer_that_pauses_has_longer_than_one_that_does_not_accept(is_used_again: bool) -> None:
    def late(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as reader:
            for number in range(1 + is_used_again):
                while reader.readline().strip():
                    pass
                if number == is_used_again:
                    time.sleep(0.5)
                    reader.read(size)
                connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    size = 32 << 20
    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker = threading.Thread(target=late, args=(listener,))
        worker.start()
        url = Url.parse(f"http://127.0.0.1:{listener.getsockname()[1]}/up")
        transport = Transport(TransportSettings(connect_timeout_s=0.1))
        if is_used_again:
            with transport.send(Request(url=url, subject="first", method="POST", body=b"")) as answer:
                answer.excerpt()
        body = (memoryview(bytes(1 << 20)) for _ in range(32))
        with transport.send(Request(url=url, subject="blob", method="PUT", body=body, body_bytes=size)) as answer:
            assert answer.status == 201
        worker.join()


def test_f13_a_proxy_that_hangs_is_named_with_the_host() -> None:
    def script(asked: Asked) -> Reply:
        time.sleep(1)
        return Reply()

    with serving(script) as proxy:
        found = Proxy.parse(f"http://me:hunter2@{proxy.authority}", variable="HTTPS_PROXY")
        settings = TransportSettings(proxies=Proxies(by_scheme={"https": found}), connect_timeout_s=0.2)
        with pytest.raises(TransientError) as caught:
            read("reg.example", settings=settings, policy=RetryPolicy(tries=1))
    assert "https://reg.example (through the proxy " + proxy.url in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_proxy_that_wants_credentials_is_an_access_error() -> None:
    with serving(lambda asked: b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n") as proxy:
        found = Proxy.parse(proxy.url, variable="HTTPS_PROXY")
        settings = TransportSettings(proxies=Proxies(by_scheme={"https": found}))
        with pytest.raises(AccessError, match="proxy"):
            read("reg.example", settings=settings)
        assert proxy.requests[0].method == "CONNECT"
        assert proxy.requests[0].target == "reg.example:443"


def test_plain_http_goes_through_its_proxy_with_the_proxys_credentials_only_there() -> None:
    with serving(lambda asked: Reply(body=b"content")) as proxy:
        found = Proxy.parse(f"http://me:hunter2@{proxy.authority}", variable="HTTP_PROXY")
        settings = TransportSettings(proxies=Proxies(by_scheme={"http": found}))
        with Transport(settings).send(Request(url=Url.parse("http://files.example/a?b"), subject="a")) as answer:
            assert answer.read(100) == b"content"
        assert proxy.requests[0].target == "http://files.example/a?b"
        assert proxy.requests[0].headers["proxy-authorization"].startswith("Basic ")


RESUMED = UploadSettings(chunk_bytes=20_000, resume_bytes=50_000)
WHOLE = UploadSettings(resume_bytes=1 << 30)


def stored(registry: UploadingRegistry) -> bytes | None:
    return registry.blobs.get(("app", str(Digest.of(BLOB))))


@pytest.mark.parametrize("chunk", range(1, 6))
@pytest.mark.parametrize("cut", [1, 4096, 19_999])
def test_f14_an_upload_cut_in_any_chunk_goes_on_at_the_registrys_offset(cut: int, chunk: int) -> None:
    registry = UploadingRegistry()
    with serving(registry) as server:

        def before(asked: Asked) -> Reply | None:
            is_next = len(server.asked("POST")) == 2 if chunk == 1 else len(server.asked("PATCH")) == chunk - 1
            is_cut = is_next and asked.method == ("POST" if chunk == 1 else "PATCH")
            server.cut_request_after = cut if is_cut else None
            return too_large(asked, RESUMED.chunk_bytes)

        registry.before = before
        assert upload(server.authority, uploads=RESUMED) is False
        assert sum(asked.was_cut for asked in server.requests) == 1
        assert stored(registry) == BLOB
        assert registry.received <= len(BLOB) + RESUMED.chunk_bytes
        is_like_nothing = (chunk, cut) == (1, 1)  # of an upload, the first byte alone is counted like none
        assert len(server.asked("POST")) == 2 + is_like_nothing


@pytest.mark.parametrize("cut", [1, 50_000, 99_999])
def test_f14_a_large_put_that_was_cut_goes_on_in_chunks(cut: int) -> None:
    registry = UploadingRegistry()
    with serving(registry) as server:

        def before(asked: Asked) -> Reply | None:
            server.cut_request_after = None
            return None

        server.cut_request_after = cut
        registry.before = lambda asked: before(asked) if asked.method == "PUT" else None
        upload(server.authority, uploads=RESUMED)
        assert stored(registry) == BLOB
        if cut > 1:  # one byte counts like none: another upload begins
            assert registry.received == len(BLOB)
            assert len(server.asked("POST")) == 1


@pytest.mark.parametrize("stated", ["0-999999", "0-10", "0-", "-1"])
def test_f14_a_count_that_cannot_be_after_a_cut_begins_another_upload(stated: str) -> None:
    registry = UploadingRegistry()
    with serving(registry) as server:

        def before(asked: Asked) -> Reply | None:
            server.cut_request_after = 1000 if len(server.asked("PATCH")) == 2 else None
            if asked.method == "GET":
                return Reply(status=204, headers={"Range": stated}, length=None)
            return too_large(asked, RESUMED.chunk_bytes)

        registry.before = before
        upload(server.authority, uploads=RESUMED)
        assert stored(registry) == BLOB
        assert len(server.asked("POST")) == 3
        assert len(server.asked("PATCH")) == 3 + 5


def test_f14_a_small_put_that_was_cut_begins_again() -> None:
    registry = UploadingRegistry()
    with serving(registry) as server:
        server.cut_request_after = 50_000

        def before(asked: Asked) -> Reply | None:
            if asked.method == "PUT":
                server.cut_request_after = None
            return None

        registry.before = before
        upload(server.authority, uploads=WHOLE)
        assert stored(registry) == BLOB
        assert len(server.asked("POST")) == 2


def test_f14_an_upload_whose_last_answer_was_lost_is_found_done() -> None:
    registry = UploadingRegistry()

    def script(asked: Asked) -> Reply | None:
        reply = registry(asked)
        return None if asked.method == "PUT" else reply

    with serving(script) as server:
        upload(server.authority)
        assert stored(registry) == BLOB
        assert len(server.asked("PUT")) == 1


@pytest.mark.parametrize(("uploads", "most"), [(RESUMED, 20_000), (RESUMED, None), (WHOLE, None)])
def test_f15_a_session_that_the_registry_forgot_is_begun_again(uploads: UploadSettings, most: int | None) -> None:
    registry = UploadingRegistry()
    begun = 1 if most is None else 2

    def before(asked: Asked) -> Reply | None:
        if asked.method in ("PATCH", "PUT") and len(server.asked("POST")) == begun:
            registry.sessions.clear()
        return too_large(asked, most)

    registry.before = before
    with serving(registry) as server:
        upload(server.authority, uploads=uploads)
        assert stored(registry) == BLOB
        assert len(server.asked("POST")) == begun + 1


def test_a_body_that_is_too_large_for_one_request_goes_in_chunks() -> None:
    registry = UploadingRegistry(lambda asked: too_large(asked, 30_000))
    with serving(registry) as server:
        upload(server.authority, uploads=RESUMED)
        assert stored(registry) == BLOB
        assert len(server.asked("PATCH")) == 5


def test_content_damaged_on_the_way_is_sent_once_more_and_then_refused() -> None:
    def damage(asked: Asked) -> Reply | None:
        if asked.method == "PUT" and len(server.asked("PUT")) <= damaged:
            return Reply(status=400, body=b'{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}')
        return None

    registry = UploadingRegistry(damage)
    with serving(registry) as server:
        damaged = 1
        upload(server.authority)
        assert stored(registry) == BLOB
        damaged = 100
        with pytest.raises(DigestError):
            upload(server.authority, name="other")


def test_a_mount_saves_the_bytes_and_a_refused_one_is_an_open_upload() -> None:
    registry = UploadingRegistry()
    with serving(registry) as server:
        upload(server.authority)
        name = Reference.parse(f"{server.authority}/second")
        client = client_of()
        assert client.upload_blob(name, blob_descriptor(BLOB), pieces_of(BLOB), mount_from="app") is True
        assert registry.received == len(BLOB)
        third = Reference.parse(f"{server.authority}/third")
        assert client.upload_blob(third, blob_descriptor(BLOB), pieces_of(BLOB), mount_from="nobody") is False
        assert [target.partition("?")[0] for target in server.asked("POST")].count("/v2/third/blobs/uploads/") == 1
        assert registry.received == 2 * len(BLOB)


def test_a_registry_that_knows_no_mounts_gets_the_bytes() -> None:
    registry = UploadingRegistry(lambda asked: Reply(status=405) if "mount=" in asked.target else None)
    with serving(registry) as server:
        name = Reference.parse(f"{server.authority}/app")
        assert client_of().upload_blob(name, blob_descriptor(BLOB), pieces_of(BLOB), mount_from="x") is False
        assert stored(registry) == BLOB


@pytest.mark.parametrize("content", [b"", b"x", layer_bytes("edge", 20_000), layer_bytes("edge", 20_001)])
@pytest.mark.parametrize("most", [0, None])
def test_blobs_of_every_size_arrive_whole_and_in_chunks(content: bytes, most: int | None) -> None:
    registry = UploadingRegistry(lambda asked: too_large(asked, most))
    with serving(registry) as server:
        upload(server.authority, content, uploads=RESUMED)
        assert registry.blobs["app", str(Digest.of(content))] == content
        assert len(server.asked("PATCH")) == (0 if most is None else -(-len(content) // RESUMED.chunk_bytes))


@pytest.mark.parametrize("how", ["403 text", "403 json", "401"])
def test_f16_w02_expired_tokens_are_refreshed_once_for_all_workers(how: str) -> None:
    """ECR says that a token has expired by a 403 in plain text."""
    refusals = {
        "403 text": Reply(status=403, body=b"Your authorization token has expired. Reauthenticate and try again."),
        "403 json": Reply(status=403, body=b'{"errors":[{"code":"DENIED","message":"ExpiredTokenException"}]}'),
        "401": Reply(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'}),
    }
    wallet = Wallet(*(f"password-{number}" for number in range(10)))
    accepted = {"count": 0, "valid": 0}

    def before(asked: Asked) -> Reply | None:
        if "authorization" not in asked.headers:
            return refusals["401"]
        expected = b64encode(f"user:password-{accepted['valid']}".encode()).decode()
        if asked.headers["authorization"] != f"Basic {expected}":
            return refusals[how]
        accepted["count"] += 1
        if accepted["count"] % 30 == 0:
            accepted["valid"] += 1
        return None

    registry = UploadingRegistry(before)
    blobs = [layer_bytes(f"blob {number}", 3000) for number in range(60)]
    with serving(registry) as server:
        client = client_of(provider=wallet)
        name = Reference.parse(f"{server.authority}/app")
        parallel_map(lambda blob: client.upload_blob(name, blob_descriptor(blob), pieces_of(blob)), blobs, workers=8)
        assert len(registry.blobs) == 60
        assert accepted["valid"] == 4
        assert wallet.refreshed in (3, 4)


def test_f16_an_expired_token_is_noticed_at_a_head_whose_answer_has_no_body() -> None:
    """HEAD cannot say why: the same is asked by GET."""
    wallet, valid = Wallet("one", "two"), ["one"]

    def script(asked: Asked) -> Reply:
        if "authorization" not in asked.headers:
            return Reply(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        if asked.headers["authorization"] == f"Basic {b64encode(f'user:{valid[0]}'.encode()).decode()}":
            return Reply(status=404)
        return Reply(status=403, body=b"Your authorization token has expired. Reauthenticate and try again.")

    with serving(script) as server:
        client, name = client_of(provider=wallet), Reference.parse(f"{server.authority}/app:1")
        assert client.manifest_digest(name) is None
        valid[0] = "two"
        assert client.has_blob(name, Digest.of(b"")) is False
    assert wallet.refreshed == 1


def test_a_head_that_is_denied_says_what_a_get_says() -> None:
    denied = b'{"errors":[{"code":"DENIED","message":"not authorized to perform: ecr:BatchGetImage"}]}'
    with serving(lambda asked: Reply(status=403, body=denied)) as server:
        client, name = client_of(provider=Wallet("one")), Reference.parse(f"{server.authority}/app:1")
        with pytest.raises(AccessError, match="403 DENIED: not authorized to perform: ecr:BatchGetImage"):
            client.manifest_digest(name)
    assert [asked.method for asked in server.requests] == ["HEAD", "GET"]


def test_f16_credentials_that_stay_refused_are_an_access_error_without_a_loop() -> None:
    refusal = Reply(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
    wallet = Wallet("one", "two")
    with serving(lambda asked: refusal) as server:
        with pytest.raises(AccessError, match="refuses our credentials"):
            read(server.authority, provider=wallet)
        assert len(server.requests) == 3


def test_the_first_failure_wakes_what_waits_for_a_silent_registry() -> None:
    def script(asked: Asked) -> Reply:
        if "bad" in asked.target:
            time.sleep(0.2)
            return Reply(status=404)
        time.sleep(5)
        return Reply()

    with serving(script) as server:
        client = client_of()
        names = [Reference.parse(f"{server.authority}/{name}:1") for name in ("a", "b", "c", "bad", "d", "e")]
        began = time.monotonic()
        with pytest.raises(NotFoundUpstreamError):
            parallel_map(client.manifest, names, workers=4)
        assert time.monotonic() - began < 2


def test_ctrl_c_wakes_what_waits_for_a_silent_registry() -> None:
    def script(asked: Asked) -> Reply:
        time.sleep(5)
        return Reply()

    main = threading.get_ident()
    with serving(script) as server:
        client = client_of()
        names = [Reference.parse(f"{server.authority}/{name}:1") for name in "abcdef"]
        timer = threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT))
        timer.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            parallel_map(client.manifest, names, workers=4)
        assert time.monotonic() - began < 2
        timer.join()


def test_a_missing_repository_is_named() -> None:
    body = b'{"errors":[{"code":"NAME_UNKNOWN","message":"The repository does not exist"}]}'
    with serving(lambda asked: Reply(status=404, body=body)) as server:
        with pytest.raises(MissingRepositoryError, match=f"{server.authority}/app: the repository does not exist"):
            upload(server.authority)
        with pytest.raises(MissingRepositoryError):
            client_of().put_manifest(Reference.parse(f"{server.authority}/app:1"), GOOD.raw, OCI_MANIFEST)
        with pytest.raises(NotFoundUpstreamError, match="says that the repository does not exist"):
            client_of().manifest(Reference.parse(f"{server.authority}/app:1"))


def test_w04_an_immutable_tag_is_fine_when_it_names_the_same() -> None:
    body = b'{"errors":[{"code":"TAG_INVALID","message":"The image tag \'1\' already exists and is immutable."}]}'

    def script(asked: Asked) -> Reply:
        if asked.method == "PUT":
            return Reply(status=400, body=body)
        return Reply(headers={"Docker-Content-Digest": held})

    with serving(script) as server:
        reference = Reference.parse(f"{server.authority}/app:1")
        held = str(GOOD.digest)
        assert client_of().put_manifest(reference, GOOD.raw, OCI_MANIFEST) == GOOD.digest
        held = str(Digest.of(b"other"))
        with pytest.raises(ImmutableTagError, match="immutable"):
            client_of().put_manifest(reference, GOOD.raw, OCI_MANIFEST)


@pytest.mark.parametrize("code", ["BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN", "LAYERS_NOT_FOUND"])
def test_w06_a_manifest_whose_blobs_are_gone_says_so(code: str) -> None:
    body = f'{{"errors":[{{"code":"{code}","message":"gone"}}]}}'.encode()
    with serving(lambda asked: Reply(status=400, body=body)) as server, pytest.raises(MissingBlobError, match="gone"):
        client_of().put_manifest(Reference.parse(f"{server.authority}/app:1"), GOOD.raw, OCI_MANIFEST)


def test_a_denial_names_what_the_registry_said() -> None:
    body = b'{"errors":[{"code":"DENIED","message":"not authorized to perform: ecr:InitiateLayerUpload\\u001b[2J"}]}'
    with serving(lambda asked: Reply(status=403, body=body)) as server:
        with pytest.raises(AccessError, match="ecr:InitiateLayerUpload") as caught:
            upload(server.authority)
        assert "\x1b" not in str(caught.value)


def test_files_by_url_go_on_after_a_cut_when_the_server_can() -> None:
    def script(asked: Asked) -> Reply:
        reply = ranged(asked, most=40_000)
        headers = {**reply.headers, "ETag": '"v1"'}
        return Reply(status=reply.status, headers=headers, body=reply.body, length=reply.length, cut=reply.cut)

    policy = RetryPolicy(sleep=Sleeps())
    with serving(script) as server:
        files = HttpFiles(Transport(TransportSettings()), registries=Registries(), policy=policy)
        assert b"".join(files.stream(f"{server.url}/tool")) == BLOB
        assert [asked.headers.get("if-range") for asked in server.requests] == [None, '"v1"', '"v1"']


@pytest.mark.parametrize(
    ("later", "error"),
    [(Reply(body=BLOB), NetworkError), (Reply(status=404), NotFoundUpstreamError), (None, TransientError)],
)
def test_files_by_url_that_change_or_vanish_are_errors(later: Reply | None, error: type[Exception]) -> None:
    first = Reply(body=BLOB[:10], headers={"ETag": '"v1"'}, length=len(BLOB), cut=True)

    def script(asked: Asked) -> Reply | None:
        return first if len(server.requests) == 1 else later

    with serving(script) as server:
        files = HttpFiles(Transport(TransportSettings()), registries=Registries(), policy=RetryPolicy(sleep=Sleeps()))
        with pytest.raises(error):
            list(files.stream(f"{server.url}/tool"))


def test_files_by_url_that_do_not_exist_are_named_without_their_query() -> None:
    with serving(lambda asked: Reply(status=404)) as server:
        files = HttpFiles(Transport(TransportSettings()), registries=Registries(), policy=RetryPolicy())
        with pytest.raises(NotFoundUpstreamError) as caught:
            files.read(f"{server.url}/tool?signature=SIGNED", limit=10)
        assert "SIGNED" not in str(caught.value)
