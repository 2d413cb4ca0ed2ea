"""A registry to pull from that counts what it sends, and tells when it has sent so much."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bundler.domain.digest import Digest
from tests.fakes.images import FakeImage

SEND_BUFFER_BYTES = 1 << 20
_PIECE_BYTES = 64 << 10


@dataclass
class Sent:
    """One answer with a blob: the bytes from `start` up to `stop` have left."""

    digest: Digest
    start: int
    stop: int
    is_open: bool = True


@dataclass
class CountingSource:
    """Serves images from memory while the context holds; `log` keeps each blob's answers in order."""

    images: Mapping[str, FakeImage]
    log: list[Sent] = field(default_factory=list)
    total: int = 0
    threshold: int | None = None
    reached: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> CountingSource:
        self.blobs = {digest: raw for made in self.images.values() for digest, raw in made.blobs.items()}
        self.manifests = {digest: entry for made in self.images.values() for digest, entry in made.manifests.items()}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"source": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def after(self, count: int) -> threading.Event:
        """Return what is set when `count` more bytes of blobs have left."""
        with self.lock:
            self.reached = threading.Event()
            self.threshold = self.total + count
        return self.reached

    def count(self, sent: Sent, more: int) -> None:
        with self.lock:
            sent.stop += more
            self.total += more
            if self.threshold is not None and self.total >= self.threshold:
                self.reached.set()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    source: CountingSource

    def setup(self) -> None:
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def handle(self) -> None:
        with suppress(OSError):  # a client that was killed
            super().handle()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        place = self.path.rpartition("/")[2]
        if "/manifests/" in self.path:
            self._manifest(place)
        elif "/blobs/" in self.path:
            self._blob(Digest.parse(place))
        else:
            self._answer(200, b"{}")

    def _manifest(self, place: str) -> None:
        name = self.path.removeprefix("/v2/").partition("/manifests/")[0]
        made = self.source.images.get(name)
        digest = Digest.parse(place) if place.startswith("sha256:") else made.digest if made else None
        if digest not in self.source.manifests:
            self._answer(404, b"{}")
            return
        kind, raw = self.source.manifests[digest]
        self._answer(200, raw, {"Content-Type": kind, "Docker-Content-Digest": str(digest)})

    def _blob(self, digest: Digest) -> None:
        raw = self.source.blobs[digest]
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, stop = (int(found[1]), int(found[2]) + 1) if found else (0, len(raw))
        extra = {"Content-Range": f"bytes {start}-{stop - 1}/{len(raw)}"} if found else {}
        sent = Sent(digest, start, start)
        with self.source.lock:
            self.source.log.append(sent)
        with suppress(OSError):
            self._answer(206 if found else 200, b"", extra, length=stop - start)
            for at in range(start, stop, _PIECE_BYTES):
                piece = raw[at : min(at + _PIECE_BYTES, stop)]
                self.connection.sendall(piece)
                self.source.count(sent, len(piece))
            sent.is_open = False

    def _answer(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, *, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
