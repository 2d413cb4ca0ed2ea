"""What servers that count have in common: how much it was, what happens at some point of it, and who is connected."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self

Address = tuple[str, int]


class Tally:
    """A number that grows, and what is called when it reaches another one."""

    def __init__(self) -> None:
        self.total = 0
        self._mark: tuple[int, Callable[[], object]] | None = None
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count; nobody else does so before this returns, nor before what was called has returned."""
        with self._lock:
            self.total += count
            self._look()

    def at(self, total: int, call: Callable[[], object]) -> None:
        """Call `call` once, when `total` is reached; at once where it has been."""
        with self._lock:
            self._mark = (total, call)
            self._look()

    def _look(self) -> None:
        if self._mark is not None and self.total >= self._mark[0]:
            call, self._mark = self._mark[1], None
            call()


class Guests:
    """Who is connected to a server: `came` is for the thread that accepts, so that nobody is overtaken."""

    def __init__(self) -> None:
        self._here: set[Address] = set()
        self._change = threading.Condition()

    def came(self, address: Address) -> None:
        """A connection was accepted."""
        with self._change:
            self._here.add(address)
            self._change.notify_all()

    def left(self, address: Address) -> None:
        """A connection was served to its end."""
        with self._change:
            self._here.discard(address)
            self._change.notify_all()

    def wait_until_gone(self, server: Address) -> None:
        """Until every connection made so far was served to its end: its client is gone, and all it sent was taken."""
        with socket.create_connection(server) as last:
            address = last.getsockname()
            with self._change:
                self._change.wait_for(lambda: address in self._here)
        with self._change:
            self._change.wait_for(lambda: not self._here)


@dataclass
class CountingServer:
    """An HTTP server on a port of its own that serves while the context holds.

    Attributes:
        bytes: of blobs, in the direction that the server is there for.
        requests: of any kind.
    """

    handler: ClassVar[type[CountingHandler]]
    bytes: Tally = field(default_factory=Tally, init=False)
    requests: Tally = field(default_factory=Tally, init=False)
    lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    guests: Guests = field(default_factory=Guests, init=False)

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), type("Handler", (self.handler,), {"far": self}))
        self._server.guests = self.guests
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.authority}"

    def wait_until_gone(self) -> None:
        """Until nobody who connected so far is there any more."""
        self.guests.wait_until_gone(("127.0.0.1", self._server.server_port))


class CountingHandler(BaseHTTPRequestHandler):
    """One connection to a counting server, which is `far`."""

    protocol_version = "HTTP/1.1"
    far: Any

    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def handle(self) -> None:
        with suppress(OSError):  # a client that was killed
            super().handle()

    def parse_request(self) -> bool:
        self.far.requests.add(1)
        return super().parse_request()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def say(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        """Answer; a Content-Length among the headers is that of a body that follows."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    guests: Guests

    def process_request(self, request: Any, client_address: Any) -> None:
        self.guests.came(client_address)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.guests.left(client_address)
