"""HTTP/1.1 over the guarded sockets of network.py: connections that are kept, answers read into buffers of ours."""

from __future__ import annotations

import re
import select
import ssl
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from bundler.adapters.network import Gate, Meter, WatchedSocket, WatchedTlsSocket
from bundler.adapters.proxies import Proxy
from bundler.domain.http_answer import MAX_HEAD_BYTES, Head, parse_chunk_size, parse_head
from bundler.domain.http_fields import MAX_FIELDS, HeadError, OversizedError
from bundler.domain.url import Origin, Url
from bundler.transfer import Interruptible, Once

MOST_HOSTS = 64
MOST_INTERIM = 10
MAX_LINE_BYTES = 4 << 10
MAX_UNREAD_BYTES = 4 << 10
_SCRATCH_BYTES = 16 << 10
_TOGETHER_BYTES = 64 << 10
"""Up to here the beginning of a body leaves with the head, in one call."""
_SOON_S = 0.05
_EMPTY_LINE = re.compile(rb"\r?\n\r?\n")

Outgoing = bytes | Iterable[memoryview] | None
"""A body: whole, or piece by piece."""


class _Socket(Protocol):
    """What a connection needs of a socket."""

    def sendall(self, data: bytes | memoryview, /) -> None: ...

    def recv_into(self, buffer: memoryview, /) -> int: ...

    def settimeout(self, value: float | None, /) -> None: ...

    def fileno(self) -> int: ...

    def close(self) -> None: ...


class CutError(OSError):
    """The peer ended the connection in the middle of an answer."""


class UnsendableError(ValueError):
    """What is to be sent holds a character that no header may hold."""


class ProxyError(OSError):
    """The proxy makes no way to the host."""

    def __init__(self, status: int) -> None:
        super().__init__(f"it answered {status}")
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How to get to an origin: what is kept for one route serves no other.

    Attributes:
        gate: decides where the connection goes.
        proxy: what it goes to instead of the origin.
    """

    origin: Origin
    gate: Gate
    proxy: Proxy | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from others."""
        return self.origin, self.gate.innermost, self.proxy

    @property
    def is_forwarded(self) -> bool:
        """Whether the proxy reads the requests, and gets whole URLs (RFC 9112 §3.2.2)."""
        return self.proxy is not None and self.origin.scheme == "http"


class Connection:
    """One connection: a request, its answer read to the end, and the next request.

    Attributes:
        is_whole: whether all that was to be sent was taken; else no other request may follow.
    """

    def __init__(self, route: Route, *, context: Callable[[], ssl.SSLContext], patience_s: float) -> None:
        self.route = route
        self.is_whole = True
        self._patience_s = patience_s
        self._held = b""
        self._limit_s: float | None = None
        near = route.origin if route.proxy is None else route.proxy.url.origin
        self._sock: _Socket = route.gate.open(near.host, near.port)
        try:
            if route.proxy is not None and near.scheme == "https":
                self._secure(context(), near.host)
            if route.proxy is not None and not route.is_forwarded:
                self._pass(route.proxy)
            if route.origin.scheme == "https":
                self._secure(context(), route.origin.host)
        except BaseException:
            self.close()
            raise

    def send(self, method: str, url: Url, headers: Mapping[str, str], body: Outgoing) -> None:
        """Send a request whose `headers` say how long the body is.

        A peer that does not listen any more may have said why: then nothing is raised, and the answer is read.

        Raises:
            UnsendableError: a header holds what none may.
            OSError: it cannot be sent.
        """
        proxied = self.route.proxy.headers if self.route.proxy is not None and self.route.is_forwarded else {}
        target = str(url) if self.route.is_forwarded else url.target
        head = _head(f"{method} {target} HTTP/1.1", {"Host": url.origin.authority, **headers, **proxied})
        self._limit(self._patience_s)
        try:
            self._send(head, body)
        except (BrokenPipeError, ConnectionResetError):
            self.is_whole = False

    def _send(self, head: bytes, body: Outgoing) -> None:
        if isinstance(body, bytes):
            self._sock.sendall(head + body)
            return
        for piece in body or ():
            if head and len(piece) <= _TOGETHER_BYTES:
                self._sock.sendall(b"".join((head, piece)))
            else:
                if head:
                    self._sock.sendall(head)
                self._sock.sendall(piece)
            head = b""
        if head:
            self._sock.sendall(head)

    def receive(self, method: str, *, within_s: float) -> Head:
        """Return the head of the answer to the request that was sent last.

        Raises:
            HeadError: it is none.
            OSError: it does not come.
        """
        self._limit(within_s)
        for _ in range(MOST_INTERIM):
            head = parse_head(self._head(), method=method)
            if not head.is_interim:
                return head
        raise HeadError("no end of interim answers")

    def line(self) -> bytes:
        """Return the next line, with its end."""
        while (end := self._held.find(b"\n") + 1) == 0:
            if len(self._held) > MAX_LINE_BYTES:
                raise OversizedError("a line without an end")
            self._held += self._more()
        line, self._held = self._held[:end], self._held[end:]
        return line

    def take(self, view: memoryview) -> int:
        """Put into `view` what has come, at least a byte of it; return how much, 0 where the peer has ended."""
        if not self._held:
            return self._sock.recv_into(view)
        count = min(len(view), len(self._held))
        view[:count] = self._held[:count]
        self._held = self._held[count:]
        return count

    @property
    def is_fresh(self) -> bool:
        """Whether nothing has come that nobody asked for, the end of the connection among it."""
        if self._held:
            return False
        poll = select.poll()
        poll.register(self._sock.fileno(), select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """End it."""
        self._sock.close()

    def _limit(self, seconds: float) -> None:
        if seconds != self._limit_s:
            self._sock.settimeout(seconds)
            self._limit_s = seconds

    def _head(self) -> bytes:
        """Return what comes before the next empty line."""
        searched = 0
        while True:
            match = _EMPTY_LINE.search(self._held, max(0, searched - len(b"\r\n\r")))
            if match is not None:
                break
            if len(self._held) > MAX_HEAD_BYTES:
                raise OversizedError("headers without an end")
            searched = len(self._held)
            self._held += self._more()
        head, self._held = self._held[: match.start()], self._held[match.end() :]
        return head

    def _more(self) -> bytes:
        scratch = memoryview(bytearray(_SCRATCH_BYTES))
        count = self._sock.recv_into(scratch)
        if not count:
            raise CutError("it ended without an answer" if not self._held else "it ended in the middle of an answer")
        return bytes(scratch[:count])

    def _pass(self, proxy: Proxy) -> None:
        """Let the proxy open a way to the origin (RFC 9110 §9.3.6)."""
        origin = self.route.origin
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        place = f"{host}:{origin.port}"
        self._limit(self._patience_s)
        self._sock.sendall(_head(f"CONNECT {place} HTTP/1.1", {"Host": place, **proxy.headers}))
        status = self.receive("CONNECT", within_s=self._patience_s).status
        if not 200 <= status < 300:
            raise ProxyError(status)
        if self._held:
            raise HeadError("bytes after the proxy's answer that nobody asked for")

    def _secure(self, context: ssl.SSLContext, host: str) -> None:
        name = host.rstrip(".")
        if isinstance(self._sock, ssl.SSLSocket):  # TLS to the origin within TLS to the proxy
            from urllib3.util.ssltransport import SSLTransport

            self._sock = cast("_Socket", SSLTransport(self._sock, context, name))
            return
        self._limit_s = None
        secured = context.wrap_socket(
            cast("WatchedSocket", self._sock), server_hostname=name, do_handshake_on_connect=False
        )
        self._sock = secured
        if isinstance(secured, WatchedTlsSocket):
            with Interruptible(secured.wake):
                secured.do_handshake()
            secured.meter = Meter(self.route.gate.clock)


def _head(line: str, headers: Mapping[str, str]) -> bytes:
    lines = [line, *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    text = "\r\n".join(lines)
    if not text.count("\r") == text.count("\n") == len(lines) - 1 or "\0" in text:
        raise UnsendableError("a header would have a line end in it")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise UnsendableError("a header would have characters that are not Latin-1") from error


class Response:
    """An answer as it comes; only when it was read to its end its connection serves again.

    Attributes:
        is_done: whether all of the body was read.
    """

    def __init__(self, head: Head, connection: Connection, pool: Pool) -> None:
        self.status = head.status
        self.headers = head.headers
        self.is_done = head.length == 0
        self._connection = connection
        self._pool = pool
        self._keeps_alive = head.keeps_alive
        self._left = 0 if head.is_chunked else head.length
        self._is_chunked = head.is_chunked
        self._failure: OSError | None = None

    @property
    def left(self) -> int | None:
        """Bytes still to come; None where only the end says so."""
        return None if self._is_chunked and not self.is_done else self._left

    def readinto(self, view: memoryview) -> int:
        """Put into `view` what comes soon, at least a byte of it; return how much, 0 at the end.

        Raises:
            CutError: the peer ended before the body did.
            HeadError: the chunks are none.
            OSError: nothing comes any more.
        """
        if self._failure is not None:
            raise self._failure
        count, began = self._some(view), time.monotonic()
        while 0 < count < len(view) and not self.is_done and time.monotonic() - began < _SOON_S:
            try:
                count += self._some(view[count:])
            except OSError as error:
                self._failure = error
                break
        return count

    def leave(self) -> None:
        """Let go of the connection; nothing may be read any more. Next to nothing is read, else it would be lost."""
        serves_again = False
        try:
            if not self.is_done and self.left is not None and self.left <= MAX_UNREAD_BYTES:
                rest = memoryview(bytearray(self.left))
                while self.readinto(rest):
                    pass
            serves_again = self.is_done and self._keeps_alive and self._connection.is_whole
        except (HeadError, OSError):
            serves_again = False
        finally:
            if serves_again:
                self._pool.give(self._connection)
            else:
                self._connection.close()

    def _some(self, view: memoryview) -> int:
        if self._is_chunked and not self._left and not self.is_done:
            self._left = self._next_chunk()
        if self.is_done:
            return 0
        count = self._connection.take(view if self._left is None else view[: self._left])
        if self._left is None:
            self.is_done = not count
            return count
        if not count:
            raise CutError(f"it ended {self._left} bytes early")
        self._left -= count
        if self._is_chunked and not self._left and self._connection.line() not in (b"\r\n", b"\n"):
            raise HeadError("a chunk that is longer than it says")
        self.is_done = not self._left and not self._is_chunked
        return count

    def _next_chunk(self) -> int:
        size = parse_chunk_size(self._connection.line())
        if size:
            return size
        for _ in range(MAX_FIELDS):  # the trailer is of no interest
            if self._connection.line() in (b"\r\n", b"\n"):
                self.is_done = True
                return 0
        raise OversizedError("no end of headers after the body")


class Pool:
    """Connections that wait for their next request, the one that was used last first."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._idle: OrderedDict[tuple[object, ...], deque[Connection]] = OrderedDict()
        self._changing = Once()
        weakref.finalize(self, _close_all, self._idle)

    def take(self, route: Route) -> Connection | None:
        """Return one that the peer has not ended, None where there is none."""
        while True:
            with self._changing:
                waiting = self._idle.get(route.key)
                connection = waiting.pop() if waiting else None
            if connection is None or connection.is_fresh:
                return connection
            connection.close()

    def give(self, connection: Connection) -> None:
        """Keep it for the next request."""
        unwanted: list[Connection] = []
        with self._changing:
            key = connection.route.key
            self._idle.setdefault(key, deque()).append(connection)
            self._idle.move_to_end(key)
            if len(self._idle[key]) > self._most:
                unwanted.append(self._idle[key].popleft())
            if len(self._idle) > MOST_HOSTS:
                unwanted += self._idle.popitem(last=False)[1]
        for one in unwanted:
            one.close()


def _close_all(idle: Mapping[tuple[object, ...], Iterable[Connection]]) -> None:
    for connection in [one for kept in idle.values() for one in kept]:
        connection.close()
