"""An HTTP/1.1 server for one handler: a fixed number of connections, each bounded in bytes and in time.

Every worker accepts, serves and accepts again. A request body is never read, so nothing in it can be taken for
a request; what has one ends its connection.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import NoReturn, Protocol

from bundler.domain.http_message import (
    JSON,
    MAX_HEAD_BYTES,
    Answer,
    Exchange,
    Request,
    error_body,
    parse_request,
)
from bundler.errors import BundleError, FormatError, LimitError, LocalResourceError, StoppedError, UsageError
from bundler.transfer import Interruptible, check_stopped, parallel_map, pause

IDLE_S = 15.0
"""How long a connection may wait for its next request."""
HEAD_S = 10.0
"""How long the head of a request may take from its first byte; a TLS handshake as well."""
SEND_S = 60.0
SEND_BYTES = 256 << 10
"""What must go out within SEND_S: a client that takes less is given up."""
DRAIN_S = 2.0
DRAIN_BYTES = 1 << 20
BACKLOG = 128
_READ_BYTES = 8 << 10
ACCEPT_PAUSE_S = 0.2


class Opened(Protocol):
    """An answer whose body has begun to be read; see stages.serve."""

    @property
    def answer(self) -> Answer:
        """Status and headers."""
        ...

    @property
    def pieces(self) -> Generator[memoryview, None, None]:
        """The body; raises BundleError before its last piece where it must not complete."""
        ...

    @property
    def failure(self) -> BundleError | None:
        """What is to be told here of an answer that failed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds and bytes of one connection; tests take smaller ones."""

    idle_s: float = IDLE_S
    head_s: float = HEAD_S
    send_s: float = SEND_S
    send_bytes: int = SEND_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What answers on a listener.

    Attributes:
        handle: answers one request.
        log: is told of every exchange, from any thread.
        tls: None for plain HTTP.
        clock: seconds, for deadlines.
        now: seconds since 1970, for Date.
    """

    handle: Callable[[Request], Opened]
    log: Callable[[Exchange], None]
    tls: ssl.SSLContext | None = None
    limits: Limits = field(default_factory=Limits)
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one.

    Raises:
        UsageError: no such address on this host.
        LocalResourceError: the port is taken, or may not be.
    """
    name = address_text(host, port)
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise UsageError("--listen", f"{name} has no address: {error.strerror}") from error
    except UnicodeError as error:  # a label of over 63 characters, or none
        raise UsageError("--listen", f"{name} has no address: it is no host name") from error
    try:
        return socket.create_server(place[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        hint = "Give another one: --listen HOST:PORT; port 0 takes one that is free."
        raise LocalResourceError(name, f"cannot be listened on: {error.strerror}", hint=hint) from error


def address_text(host: str, port: int) -> str:
    """`HOST:PORT` as it stands in a reference or URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def serve_connections(listener: socket.socket, service: Service, *, connections: int) -> None:
    """Serve at most `connections` clients at a time; further ones wait until one leaves. Only Ctrl-C ends it."""
    parallel_map(lambda _: _work(listener, service), range(connections), workers=connections)


def _work(listener: socket.socket, service: Service) -> NoReturn:
    while True:
        check_stopped()
        try:
            with Interruptible(lambda: _shut(listener)):
                connection, address = listener.accept()
        except OSError:  # the client left before, or descriptors have run out; or all is called off
            pause(ACCEPT_PAUSE_S)
            continue
        _attend(connection, str(address[0]), service)


def _attend(connection: socket.socket, peer: str, service: Service) -> None:
    """Serve one connection to its end; nothing that happens to it reaches the others."""
    try:
        with _wrapped(connection, service.tls) as wrapped, Interruptible(lambda: _shut(wrapped)):
            wrapped.settimeout(service.limits.head_s)
            wrapped.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if isinstance(wrapped, ssl.SSLSocket):
                wrapped.do_handshake()
            talk = _Talk(wrapped, peer, service)
            while talk.exchange():
                pass
    except OSError:
        check_stopped()  # else the client went away, was too slow, or spoke no TLS
    except StoppedError:
        raise
    except Exception as error:  # noqa: BLE001 - a defect that one client meets must not end the others
        place = traceback.extract_tb(error.__traceback__)[-1]
        cause = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: a defect"
        service.log(Exchange(peer=peer, asked="-", status=500, sent_bytes=0, failure=cause))


def _wrapped(connection: socket.socket, tls: ssl.SSLContext | None) -> socket.socket:
    if tls is None:
        return connection
    return tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)


def _shut(connection: socket.socket) -> None:
    """Make whoever waits for this socket return; below TLS, whose own shutdown is not for two threads."""
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


class _Talk:
    """The exchanges on one connection."""

    def __init__(self, connection: socket.socket, peer: str, service: Service) -> None:
        self._connection = connection
        self._peer = peer
        self._service = service
        self._limits = service.limits
        self._unread = bytearray()

    def exchange(self) -> bool:
        """Answer one request; return whether another one may follow."""
        try:
            head = self._head()
            request = None if head is None else parse_request(head, peer=self._peer)
        except (FormatError, LimitError) as error:
            self._refuse(error)
            return False
        if request is None:
            return False
        stays = request.keep_alive and not request.has_body
        opened = self._service.handle(request)
        with closing(opened.pieces):
            completed = self._send(request, opened, stays=stays)
        if completed and request.has_body:
            self._linger()
        return completed and stays

    def _head(self) -> bytes | None:
        """Return the next head, None where the client has no more to ask.

        Raises:
            TimeoutError: it does not come in time.
            FormatError: it is something else from its first byte.
            LimitError: it is too long.
        """
        ends_s, allowed_s, has_begun = None, self._limits.idle_s, bool(self._unread)
        while (end := self._unread.find(b"\r\n\r\n")) < 0:
            if len(self._unread) > MAX_HEAD_BYTES:
                break
            if has_begun:
                now_s = self._service.clock()
                ends_s = now_s + self._limits.head_s if ends_s is None else ends_s
                allowed_s = ends_s - now_s
            if allowed_s <= 0:
                raise TimeoutError
            self._connection.settimeout(allowed_s)
            received = self._connection.recv(_READ_BYTES)
            if not received:
                return None
            self._unread += received
            has_begun = True
            while self._unread.startswith(b"\r\n"):  # an empty line before a request is none (RFC 9112 §2.2)
                del self._unread[:2]
            first = bytes(self._unread[:1])
            if first.strip(b"\r") and not first.isalpha():  # a client that tries TLS first waits for us to say so
                raise FormatError(self._peer, "speaks no HTTP; this port has no TLS unless it was given --tls")
        if not 0 <= end <= MAX_HEAD_BYTES:
            raise LimitError(self._peer, f"sent a head of over {MAX_HEAD_BYTES} bytes")
        head = bytes(self._unread[:end])
        del self._unread[: end + 4]
        return head

    def _send(self, request: Request, opened: Opened, *, stays: bool) -> bool:
        """Send an answer; return whether it is complete. What must not complete breaks the connection."""
        sent, failure = 0, None if opened.failure is None else str(opened.failure)
        try:
            self._write(memoryview(self._head_of(opened.answer, stays=stays)))
            for piece in opened.pieces:
                self._write(piece)
                sent += len(piece)
        except BundleError as error:
            check_stopped()
            failure = str(error)
            self._reset()
            return False
        except OSError:
            failure = failure or "the client left, or took too little for too long"
            raise
        finally:
            self._log(f"{request.method} {request.path}", opened.answer.status, sent, failure)
        return True

    def _head_of(self, answer: Answer, *, stays: bool) -> bytes:
        lines = [
            f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
            f"Date: {formatdate(self._service.now(), usegmt=True)}",
            *(f"{name}: {value}" for name, value in answer.headers.items()),
        ]
        if answer.status != 304:
            lines.append(f"Content-Length: {answer.length}")
        if not stays:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def _write(self, content: memoryview) -> None:
        for start in range(0, len(content), self._limits.send_bytes):
            rest, ends_s = content[start : start + self._limits.send_bytes], self._service.clock() + self._limits.send_s
            while rest:  # TLS would begin its time limit anew with each record
                allowed_s = ends_s - self._service.clock()
                if allowed_s <= 0:
                    raise TimeoutError
                self._connection.settimeout(allowed_s)
                rest = rest[self._connection.send(rest) :]

    def _refuse(self, error: BundleError) -> None:
        """Say what is wrong with a request that cannot be read; nobody knows where the next one would begin."""
        body = error_body("UNSUPPORTED", error.cause)
        status = 431 if isinstance(error, LimitError) else 400
        answer = Answer(status=status, headers={"Content-Type": JSON}, body=body)
        self._write(memoryview(self._head_of(answer, stays=False) + body))
        self._log("-", status, len(body), error.cause)
        self._linger()

    def _log(self, asked: str, status: int, sent_bytes: int, failure: str | None) -> None:
        self._service.log(Exchange(peer=self._peer, asked=asked, status=status, sent_bytes=sent_bytes, failure=failure))

    def _linger(self) -> None:
        """Take what still comes and drop it, for a moment: to close at once would tear our answer up on its way."""
        ends_s, left = self._service.clock() + DRAIN_S, DRAIN_BYTES
        self._connection.shutdown(socket.SHUT_WR)
        while left > 0 and (allowed_s := ends_s - self._service.clock()) > 0:
            self._connection.settimeout(allowed_s)
            received = self._connection.recv(_READ_BYTES)
            if not received:
                return
            left -= len(received)

    def _reset(self) -> None:
        """End the connection so that nobody can take what came for the whole: the far side sees a reset."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
