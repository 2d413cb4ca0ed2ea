"""The HTTP client on the wire: bodies however they are framed and cut to pieces, connections that are kept or not."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundler.adapters.http import Request, Transport, TransportSettings
from bundler.adapters.http_connections import Connection, Outgoing
from bundler.adapters.network import Address
from bundler.adapters.proxies import Proxies, Proxy
from bundler.domain.credentials import Secret
from bundler.domain.url import Url
from bundler.errors import FormatError, NetworkError, StoppedError, TransientError
from bundler.lab.tls import make_authority, server_context
from bundler.transfer import parallel_map
from tests.fakes.scripted_server import Asked, Reply, ScriptedServer, serving

pytestmark = pytest.mark.loopback

FRAMINGS = ("length", "chunks", "end")


def framed(body: bytes, framing: str, sizes: list[int]) -> bytes:
    """An answer with `body`; in chunks, their sizes come round and round."""
    if framing == "length":
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    if framing == "end":
        return b"HTTP/1.1 200 OK\r\n\r\n" + body
    made, place = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 0
    while place < len(body):
        for size in sizes:
            piece, place = body[place : place + size], place + size
            made += b"%x;x=y\r\n" % len(piece) + piece + b"\r\n" if piece else b""
    return made + b"0\r\nTrailer: of no interest\r\n\r\n"


def cut(raw: bytes, sizes: list[int]) -> Iterator[bytes]:
    """Pieces of `raw`, their sizes round and round."""
    place = 0
    while place < len(raw):
        for size in sizes:
            if place < len(raw):
                yield raw[place : place + size]
            place += size


@contextmanager
def answering() -> Iterator[tuple[ScriptedServer, list[bytes]]]:
    """A server whose next answer goes out in these pieces; then it hangs up."""
    pieces: list[bytes] = []
    with serving(lambda asked: iter(pieces)) as server:
        yield server, pieces


def got(server: ScriptedServer, transport: Transport | None = None) -> bytes:
    url = Url.parse(f"{server.url}/x")
    with (transport or Transport(TransportSettings())).send(Request(url=url, subject="it")) as answer:
        return answer.read(1 << 20)


SIZES = st.lists(st.integers(1, 4000), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=20_000), st.sampled_from(FRAMINGS), SIZES, SIZES)
def test_a_body_is_read_however_it_is_framed_and_cut_to_pieces(
    body: bytes, framing: str, chunks: list[int], sizes: list[int]
) -> None:
    with answering() as (server, pieces):
        pieces[:] = cut(framed(body, framing, chunks), sizes)
        assert got(server) == body


@settings(max_examples=25, deadline=None)
@given(st.binary(min_size=1, max_size=5_000), st.sampled_from(("length", "chunks")), SIZES, st.data())
def test_a_body_that_was_cut_is_never_taken_for_whole(
    body: bytes, framing: str, chunks: list[int], data: st.DataObject
) -> None:
    raw = framed(body, framing, chunks)
    with answering() as (server, pieces):
        pieces[:] = [raw[: data.draw(st.integers(0, len(raw) - 1))]]
        with pytest.raises(TransientError):
            got(server)


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=2_000))
def test_any_bytes_are_an_answer_or_an_error_of_ours(raw: bytes) -> None:
    with answering() as (server, pieces):
        for head in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"):
            pieces[:] = [head + raw]
            with suppress(NetworkError, FormatError):
                got(server)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nlonger than it says\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 10_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 1000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
        b"\r\n" * 1000,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * (1 << 20),
    ],
)
def test_what_is_no_honest_answer_is_no_answer(answer: bytes) -> None:
    with answering() as (server, pieces):
        pieces[:] = [answer]
        with pytest.raises(FormatError):
            got(server)


def test_interim_answers_are_passed_over() -> None:
    with answering() as (server, pieces):
        pieces[:] = [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"]
        pieces.append(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert got(server) == b"ok"


def test_a_connection_serves_again_after_each_kind_of_whole_answer() -> None:
    answers = [framed(b"one", "length", [9]), framed(b"two", "chunks", [2]), framed(b"three", "length", [9])]
    with socket.create_server(("127.0.0.1", 0)) as listener, closing(Lines(listener, answers)) as server:
        transport = Transport(TransportSettings())
        url = Url.parse(f"http://127.0.0.1:{listener.getsockname()[1]}/x")
        for expected in (b"one", b"two", b"three"):
            with transport.send(Request(url=url, subject="it")) as answer:
                assert answer.read(100) == expected
        assert server.connections == 1


@pytest.mark.parametrize("more", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"x"])
def test_bytes_that_nobody_asked_for_are_no_answer_to_the_next_request(more: bytes) -> None:
    answers = [framed(b"one", "length", [9]) + more, framed(b"two", "length", [9])]
    with socket.create_server(("127.0.0.1", 0)) as listener, closing(Lines(listener, answers)) as server:
        transport = Transport(TransportSettings())
        url = Url.parse(f"http://127.0.0.1:{listener.getsockname()[1]}/x")
        for expected in (b"one", b"two"):
            with transport.send(Request(url=url, subject="it")) as answer:
                assert answer.read(100) == expected
        assert server.connections == 2


class Lines:
    """Answers each request, on however many connections, with the next of `answers`."""

    def __init__(self, listener: socket.socket, answers: list[bytes]) -> None:
        self.connections = 0
        self._listener = listener
        self._answers = list(answers)
        self._one = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader:
            for line in reader:
                if line == b"\r\n":
                    with self._one:
                        connection.sendall(self._answers.pop(0))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)


def test_a_header_that_would_become_two_is_not_sent() -> None:
    with serving(lambda asked: Reply()) as server:
        for value in ("Bearer a\r\nEvil: yes", "Bearer a\nb", "Bearer \0", "Bearer \u20ac"):
            request = Request(url=Url.parse(server.url), subject="it", authorization=Secret(value))
            with pytest.raises(FormatError, match="nothing was sent"):
                Transport(TransportSettings()).send(request)
        assert server.requests == []


def test_an_answer_that_comes_before_the_body_was_sent_is_read() -> None:
    """A registry that refuses says so and hangs up: what it said counts, not that the pipe broke."""
    hung_up = threading.Event()

    def refuse(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        connection.close()  # with bytes that nobody has read: the client's next ones are answered by a reset
        hung_up.set()

    def body() -> Iterator[memoryview]:
        yield memoryview(bytes(1 << 16))
        hung_up.wait()
        for _ in range(63):
            yield memoryview(bytes(1 << 16))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker = threading.Thread(target=refuse, args=(listener,))
        worker.start()
        url = Url.parse(f"http://127.0.0.1:{listener.getsockname()[1]}/up")
        request = Request(url=url, subject="blob", method="PUT", body=body(), body_bytes=64 << 16)
        with Transport(TransportSettings()).send(request) as answer:
            assert (answer.status, answer.read(10)) == (413, b"no")
        worker.join()


def test_only_the_wait_for_an_answer_says_how_near_a_host_is() -> None:
    now = 0.0

    def found_slowly(host: str, port: int) -> list[Address]:
        nonlocal now
        now += 1
        return [(host, port)]

    with serving(lambda asked: Reply(status=404)) as server:
        transport = Transport(TransportSettings(clock=lambda: now, resolve=found_slowly))
        url = Url.parse(f"{server.url}/x")
        transport.send(Request(url=url, subject="it")).close()
        assert now == 1
        assert transport.bearing(url.origin).is_here


def test_who_comes_back_late_from_sending_has_no_near_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many threads wait for the interpreter while a host takes its time: pushes over a link got 4 places of 64."""
    now, answering = 0.0, threading.Event()
    send = Connection.send

    def far(asked: Asked) -> Reply:
        nonlocal now
        now += 0.03
        answering.set()
        return Reply(status=404)

    def slowly(connection: Connection, method: str, url: Url, headers: Mapping[str, str], body: Outgoing) -> None:
        send(connection, method, url, headers, body)
        answering.wait()

    monkeypatch.setattr(Connection, "send", slowly)
    with serving(far) as server:
        transport = Transport(TransportSettings(clock=lambda: now))
        url = Url.parse(f"{server.url}/x")
        transport.send(Request(url=url, subject="it")).close()
        assert not transport.bearing(url.origin).is_here


class Tunnels:
    """A proxy that opens a way to one server, whatever name is asked for; over TLS where it has a context."""

    def __init__(self, server: ScriptedServer, tls: ssl.SSLContext | None) -> None:
        self.asked: list[bytes] = []
        self._server = server
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        self.asked.append(head)
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        far = socket.create_connection((self._server.host, self._server.port))
        threading.Thread(target=_pump, args=(far, connection), daemon=True).start()
        _pump(connection, far)

    def close(self) -> None:
        self._listener.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while piece := source.recv(1 << 16):
            sink.sendall(piece)
    except OSError:
        pass
    finally:
        for one in (source, sink):
            one.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_https_goes_through_a_tunnel_that_only_the_proxy_gets_credentials_for(tmp_path: Path, scheme: str) -> None:
    authority, content = make_authority("tunnels"), bytes(range(256)) * 4000
    context = server_context(authority, ("127.0.0.1", "reg.example"), folder=tmp_path / "pair")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    with serving(lambda asked: Reply(body=content), tls=context) as server:
        with closing(Tunnels(server, context if scheme == "https" else None)) as tunnels:
            found = Proxy.parse(f"{scheme}://me:hunter2@127.0.0.1:{tunnels.port}", variable="HTTPS_PROXY")
            trusting = TransportSettings(
                proxies=Proxies(by_scheme={"https": found}), ca_files=(str(tmp_path / "ca.pem"),)
            )
            with Transport(trusting).send(Request(url=Url.parse("https://reg.example/x"), subject="it")) as answer:
                assert answer.read(1 << 21) == content
        assert tunnels.asked[0].startswith(b"CONNECT reg.example:443 HTTP/1.1\r\nHost: reg.example:443\r\n")
        assert b"Basic " in tunnels.asked[0]
        asked: Asked = server.requests[0]
        assert asked.target == "/x"
        assert "proxy-authorization" not in asked.headers


def test_who_waits_for_an_answer_through_tls_within_tls_is_called_off(tmp_path: Path) -> None:
    authority, asked, ended, too_late = make_authority("tunnels"), *(threading.Event() for _ in range(3))
    context = server_context(authority, ("127.0.0.1", "reg.example"), folder=tmp_path / "pair")
    (tmp_path / "ca.pem").write_bytes(authority.pem)

    def late(_: Asked) -> Reply:
        asked.set()
        if not ended.wait(3):
            too_late.set()
        return Reply()

    def ask() -> None:
        with pytest.raises(StoppedError):
            transport.send(Request(url=Url.parse("https://reg.example/x"), subject="it"))

    def fail() -> None:
        asked.wait()
        time.sleep(0.3)  # until the answer is waited for
        raise NetworkError("another", "failed")

    with serving(late, tls=context) as server, closing(Tunnels(server, context)) as tunnels:
        proxy = Proxy.parse(f"https://127.0.0.1:{tunnels.port}", variable="HTTPS_PROXY")
        trusting = TransportSettings(proxies=Proxies(by_scheme={"https": proxy}), ca_files=(str(tmp_path / "ca.pem"),))
        transport = Transport(trusting)
        with pytest.raises(NetworkError, match="another"):
            parallel_map(lambda act: act(), [ask, fail], workers=2)
        ended.set()
    assert not too_late.is_set()
