"""A registry to pull from that counts what it sends, and keeps a log of it."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Self

from bundler.domain.digest import Digest
from tests.fakes.counting import CountingHandler, CountingServer
from tests.fakes.images import FakeImage

SEND_BUFFER_BYTES = 1 << 20
_PIECE_BYTES = 64 << 10


@dataclass
class Sent:
    """One answer with a blob: the bytes from `start` up to `stop` have left."""

    digest: Digest
    start: int
    stop: int


class _Handler(CountingHandler, BaseHTTPRequestHandler):
    far: CountingSource

    def setup(self) -> None:
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        super().setup()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        place = self.path.rpartition("/")[2]
        if "/manifests/" in self.path:
            self._manifest(place)
        elif "/blobs/" in self.path:
            self._blob(Digest.parse(place))
        else:
            self.say(200, body=b"{}")

    def _manifest(self, place: str) -> None:
        name = self.path.removeprefix("/v2/").partition("/manifests/")[0]
        made = self.far.images.get(name)
        digest = Digest.parse(place) if place.startswith("sha256:") else made.digest if made else None
        if digest not in self.far.manifests:
            self.say(404, body=b"{}")
            return
        kind, raw = self.far.manifests[digest]
        self.say(200, {"Content-Type": kind, "Docker-Content-Digest": str(digest)}, raw)

    def _blob(self, digest: Digest) -> None:
        raw = self.far.blobs[digest]
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, stop = (int(found[1]), int(found[2]) + 1) if found else (0, len(raw))
        extra = {"Content-Range": f"bytes {start}-{stop - 1}/{len(raw)}"} if found else {}
        sent = Sent(digest, start, start)
        with self.far.lock:
            self.far.log.append(sent)
        with suppress(OSError):
            self.say(206 if found else 200, {"Content-Length": str(stop - start), **extra})
            for at in range(start, stop, _PIECE_BYTES):
                piece = raw[at : min(at + _PIECE_BYTES, stop)]
                self.connection.sendall(piece)
                sent.stop += len(piece)
                self.far.bytes.add(len(piece))


@dataclass
class CountingSource(CountingServer):
    """Serves images from memory; `log` keeps the answers with blobs in the order in which they began."""

    handler = _Handler
    images: Mapping[str, FakeImage]
    log: list[Sent] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.blobs = {digest: raw for made in self.images.values() for digest, raw in made.blobs.items()}
        self.manifests = {digest: entry for made in self.images.values() for digest, entry in made.manifests.items()}
        return super().__enter__()
