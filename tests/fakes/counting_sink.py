"""A registry to push to that counts what it is sent, keeps places of uploads and digests, and no content."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from bundler.domain.digest import Digest

_PIECE_BYTES = 256 << 10


@dataclass
class Place:
    """An upload: what came of it so far."""

    count: int = 0
    sha256: object = field(default_factory=hashlib.sha256)


@dataclass
class CountingSink:
    """Serves while the context holds.

    Attributes:
        hashes: whether the digest of every blob is checked.
        blobs: repository and digest of every blob, with its size in bytes.
        completed: how often each of them was completed.
        received: bytes of blobs that came, of uploads that were never completed too.
    """

    hashes: bool = True
    blobs: dict[tuple[str, str], int] = field(default_factory=dict)
    manifests: dict[tuple[str, str], bytes] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    completed: Counter[tuple[str, str]] = field(default_factory=Counter)
    received: int = 0
    threshold: int | None = None
    reached: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> CountingSink:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"sink": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def forget(self) -> None:
        """Be empty again."""
        with self.lock:
            for held in (self.blobs, self.manifests, self.places, self.completed):
                held.clear()
            self.received = 0

    def after(self, count: int) -> threading.Event:
        """Return what is set when `count` more bytes of blobs have come."""
        with self.lock:
            self.reached = threading.Event()
            self.threshold = self.received + count
        return self.reached

    def count(self, place: Place, piece: memoryview) -> None:
        if self.hashes:
            place.sha256.update(piece)  # type: ignore[attr-defined]
        with self.lock:
            place.count += len(piece)
            self.received += len(piece)
            if self.threshold is not None and self.received >= self.threshold:
                self.reached.set()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    sink: CountingSink

    def handle(self) -> None:
        with suppress(OSError):  # a client that was killed
            super().handle()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _say(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def _length(self) -> int:
        return int(self.headers.get("Content-Length", 0))

    def _names(self) -> tuple[str, str, dict[str, str]]:
        """Repository, what follows `blobs/` or `manifests/`, and the query."""
        parts = urlsplit(self.path)
        found = re.fullmatch(r"/v2/(.+)/(?:blobs|manifests)/(.*)", parts.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        return (found[1], found[2], query) if found else ("", "", query)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name, place, _ = self._names()
        if "/uploads/" in self.path:
            self._where(name, place.removeprefix("uploads/"))
        elif "/manifests/" in self.path and (name, place) in self.sink.manifests:
            raw = self.sink.manifests[name, place]
            self._say(200, {"Docker-Content-Digest": str(Digest.of(raw))}, raw)
        elif (name, place) in self.sink.blobs:
            self._say(200)
        else:
            self._say(404, body=b'{"errors":[{"code":"NAME_UNKNOWN","message":"no"}]}')

    def _where(self, name: str, number: str) -> None:
        held = self.sink.places.get(number)
        if held is None:
            self._say(404, body=b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"no"}]}')
            return
        location = f"/v2/{name}/blobs/uploads/{number}"
        self._say(204, {"Location": location, "Range": f"0-{max(held.count - 1, 0)}"})

    def do_POST(self) -> None:
        name, _, query = self._names()
        mounted = (query.get("from", ""), query.get("mount", ""))
        if mounted in self.sink.blobs:
            self.sink.blobs[name, mounted[1]] = self.sink.blobs[mounted]
            self._say(201)
            return
        with self.sink.lock:
            number = str(len(self.sink.places) + 1)
            self.sink.places[number] = Place()
        self._say(202, {"Location": f"/v2/{name}/blobs/uploads/{number}"})

    def do_PATCH(self) -> None:
        name, place, _ = self._names()
        number = place.removeprefix("uploads/")
        held = self._take(number)
        if held is not None:
            location = f"/v2/{name}/blobs/uploads/{number}"
            self._say(202, {"Location": location, "Range": f"0-{held.count - 1}"})

    def do_PUT(self) -> None:
        name, place, query = self._names()
        if "/manifests/" in self.path:
            raw = self.rfile.read(self._length)
            self.sink.manifests[name, place] = self.sink.manifests[name, str(Digest.of(raw))] = raw
            self._say(201, {"Docker-Content-Digest": str(Digest.of(raw))})
            return
        held = self._take(place.removeprefix("uploads/"))
        if held is None:
            return
        if self.sink.hashes and f"sha256:{held.sha256.hexdigest()}" != query["digest"]:  # type: ignore[attr-defined]
            self._say(400, body=b'{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}')
            return
        with self.sink.lock:
            self.sink.blobs[name, query["digest"]] = held.count
            self.sink.completed[name, query["digest"]] += 1
        self._say(201)

    def _take(self, number: str) -> Place | None:
        """Read the body into an upload; None where that is not possible, and was said."""
        held, left = self.sink.places.get(number), self._length
        begins = int(self.headers.get("Content-Range", "-1").partition("-")[0] or -1)
        if held is None or begins not in (-1, held.count):
            self.close_connection = True
            self._say(404 if held is None else 416, {"Connection": "close"})
            return None
        buffer = memoryview(bytearray(_PIECE_BYTES))
        while left:
            got = self.rfile.readinto1(buffer[: min(left, len(buffer))])  # type: ignore[attr-defined]
            if not got:
                raise ConnectionResetError
            self.sink.count(held, buffer[:got])
            left -= got
        return held
