"""An HTTP server that does what a test tells it, honest or not, and remembers every request."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from bundler.adapters.http import Transport, TransportSettings
from bundler.adapters.oci_registry import RegistryClient
from bundler.adapters.registries_config import Endpoint, Registries
from bundler.adapters.registry_auth import CredentialProvider, FirstOf
from bundler.adapters.registry_upload import UploadSettings
from bundler.domain.credentials import Credentials, Secret
from bundler.domain.url import Url
from bundler.retry import RetryPolicy


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as it arrived; a body that was cut short is what came of it."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    was_cut: bool = False

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer.

    Attributes:
        body: whole or in pieces; pieces may wait between them.
        length: Content-Length to state; "right" for the true one, None for none (then the connection closes).
        cut: close the connection after the body, whatever was stated.
        reset: break it instead: what the client has not read yet may be lost.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Iterable[bytes] = b""
    length: int | str | None = "right"
    cut: bool = False
    reset: bool = False


Script = Callable[[Asked], Reply | Iterator[bytes] | bytes | None]
"""Answers a request; raw bytes go out as they are, an iterator's piece by piece, None hangs up."""


class ScriptedServer:
    """Listens while the context holds."""

    def __init__(self, script: Script, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Asked] = []
        self.script = script
        self.cut_request_after: int | None = None
        self._tls = tls
        self._listener = socket.create_server((host, 0))
        self.host, self.port = host, int(self._listener.getsockname()[1])
        self.connections = 0
        self._closed = threading.Event()
        self._connections: list[socket.socket] = []

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.authority}"

    def asked(self, method: str) -> list[str]:
        """The targets that were asked with a method, in order."""
        return [request.target for request in self.requests if request.method == method]

    def __enter__(self) -> ScriptedServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        for sock in (self._listener, *self._connections):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.append(connection)
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError):
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as reader:
                while self._one(connection, reader):
                    pass

    def _one(self, connection: socket.socket, reader: object) -> bool:
        request = _read_request(reader, self.cut_request_after)
        if request is None:
            return False
        self.requests.append(request)
        reply = self.script(request)
        if reply is None or request.was_cut:
            return False
        if not isinstance(reply, Reply):
            for piece in [reply] if isinstance(reply, bytes) else reply:
                connection.sendall(piece)
            return False
        return _send(connection, reply, is_head=request.method == "HEAD")


def _read_request(reader, cut_after: int | None) -> Asked | None:  # type: ignore[no-untyped-def]
    line = reader.readline(65536).decode("latin-1").split()
    if len(line) != 3:
        return None
    headers: dict[str, str] = {}
    while (text := reader.readline(65536).decode("latin-1").strip()) != "":
        name, _, value = text.partition(":")
        headers[name.lower()] = value.strip()
    length = int(headers.get("content-length", 0))
    wanted = length if cut_after is None else min(length, cut_after)
    body = reader.read(wanted)
    return Asked(method=line[0], target=line[1], headers=headers, body=body, was_cut=len(body) < length)


def _send(connection: socket.socket, reply: Reply, *, is_head: bool) -> bool:
    pieces: Iterable[bytes] = [reply.body] if isinstance(reply.body, bytes) else reply.body
    headers = dict(reply.headers)
    if reply.length == "right":
        pieces = list(pieces)
        headers.setdefault("Content-Length", str(sum(len(piece) for piece in pieces)))
    elif reply.length is not None:
        headers["Content-Length"] = str(reply.length)
    closes = reply.cut or reply.length is None
    if closes:
        headers["Connection"] = "close"
    head = f"HTTP/1.1 {reply.status} Scripted\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
    connection.sendall(head.encode("latin-1"))
    if not is_head:
        for piece in pieces:
            connection.sendall(piece)
    if reply.reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return not closes


class Sleeps:
    """A sleep that only remembers; with it, retries take no time."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


class Wallet:
    """A credential provider: `passwords` are handed out one after the other, the next after each refresh."""

    def __init__(self, *passwords: str, username: str = "user") -> None:
        self.passwords = list(passwords)
        self.username = username
        self.refreshed = 0
        self.hosts: list[str] = []

    def credentials(self, host: str) -> Credentials | None:
        self.hosts.append(host)
        password = self.passwords[min(self.refreshed, len(self.passwords) - 1)]
        return Credentials(username=self.username, password=Secret(password))

    def refresh(self, host: str) -> None:
        del host
        self.refreshed += 1


def client_of(
    settings: TransportSettings | None = None,
    *,
    provider: CredentialProvider | None = None,
    registries: Registries | None = None,
    policy: RetryPolicy | None = None,
    uploads: UploadSettings | None = None,
) -> RegistryClient:
    """A client whose retries take no time."""
    return RegistryClient(
        Transport(settings or TransportSettings()),
        provider=provider or FirstOf(),
        registries=registries or Registries(),
        policy=policy or RetryPolicy(sleep=Sleeps(), chance=lambda: 1.0),
        uploads=uploads or UploadSettings(),
    )


def mapped(host: str, url: str, *realms: str, ca_files: tuple[str, ...] = ()) -> Registries:
    """Registries in which `host` is asked at `url`."""
    parsed = Url.parse(url)
    endpoint = Endpoint(
        host=host,
        origin=parsed.origin,
        prefix=parsed.path.strip("/"),
        realms=frozenset(Url.parse(realm).origin for realm in realms),
        ca_files=ca_files,
        login=parsed.origin.authority,
    )
    return Registries(mapped={host: endpoint})


@contextmanager
def serving(script: Script, **options: object) -> Iterator[ScriptedServer]:
    """A server with a script."""
    with ScriptedServer(script, **options) as server:  # type: ignore[arg-type]
        yield server
