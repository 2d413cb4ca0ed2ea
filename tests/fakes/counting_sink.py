"""A registry to push to that counts what it is sent, keeps places of uploads and digests, and no content."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from bundler.domain.digest import Digest
from tests.fakes.counting import CountingHandler, CountingServer

_PIECE_BYTES = 256 << 10


@dataclass
class Place:
    """An upload.

    Attributes:
        count: bytes that came of it so far.
        digest: of what it is to become; empty until a PUT says so, which of one in chunks is the last request.
        is_done: it has become that.
    """

    count: int = 0
    digest: str = ""
    is_done: bool = False
    sha256: hashlib._Hash = field(default_factory=hashlib.sha256, repr=False)


class _Handler(CountingHandler, BaseHTTPRequestHandler):
    far: CountingSink

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
        elif "/manifests/" in self.path and (name, place) in self.far.manifests:
            raw = self.far.manifests[name, place]
            self.say(200, {"Docker-Content-Digest": str(Digest.of(raw))}, raw)
        elif (name, place) in self.far.blobs:
            self.say(200)
        else:
            self.say(404, body=b'{"errors":[{"code":"NAME_UNKNOWN","message":"no"}]}')

    def _where(self, name: str, number: str) -> None:
        held = self.far.places.get(number)
        if held is None or number in self.far.given_up:
            self.say(404, body=b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"no"}]}')
            return
        location = f"/v2/{name}/blobs/uploads/{number}"
        self.say(204, {"Location": location, "Range": f"0-{max(held.count - 1, 0)}"})

    def do_POST(self) -> None:
        name, _, query = self._names()
        mounted = (query.get("from", ""), query.get("mount", ""))
        if mounted in self.far.blobs:
            self.far.blobs[name, mounted[1]] = self.far.blobs[mounted]
            self.say(201)
            return
        with self.far.lock:
            number = str(len(self.far.places) + 1)
            self.far.places[number] = Place()
        self.say(202, {"Location": f"/v2/{name}/blobs/uploads/{number}"})

    def do_PATCH(self) -> None:
        name, place, _ = self._names()
        number = place.removeprefix("uploads/")
        held = self._take(number)
        if held is not None:
            location = f"/v2/{name}/blobs/uploads/{number}"
            self.say(202, {"Location": location, "Range": f"0-{held.count - 1}"})

    def do_PUT(self) -> None:
        name, place, query = self._names()
        if "/manifests/" in self.path:
            raw = self.rfile.read(self._length)
            self.far.manifests[name, place] = self.far.manifests[name, str(Digest.of(raw))] = raw
            self.say(201, {"Docker-Content-Digest": str(Digest.of(raw))})
            return
        held = self._take(place.removeprefix("uploads/"), digest=query["digest"])
        if held is None:
            return
        if self.far.hashes and f"sha256:{held.sha256.hexdigest()}" != query["digest"]:
            self.say(400, body=b'{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}')
            return
        with self.far.lock:
            held.is_done = True
            self.far.blobs[name, query["digest"]] = held.count
            self.far.completed[name, query["digest"]] += 1
        self.say(201)

    def _take(self, number: str, *, digest: str = "") -> Place | None:
        """Read the body into an upload; None where that is not possible, and was said."""
        held, left = self.far.places.get(number), self._length
        begins = int(self.headers.get("Content-Range", "-1").partition("-")[0] or -1)
        if held is None or number in self.far.given_up or begins not in (-1, held.count):
            self.close_connection = True
            self.say(404 if held is None else 416, {"Connection": "close"})
            return None
        held.digest = held.digest or digest
        buffer = memoryview(bytearray(_PIECE_BYTES))
        while left:
            got = self.rfile.readinto1(buffer[: min(left, len(buffer))])  # type: ignore[attr-defined]
            if not got:
                if not self.far.keeps_cut:
                    self.far.given_up.add(number)
                raise ConnectionResetError
            self.far.count(held, buffer[:got])
            left -= got
        return held


@dataclass
class CountingSink(CountingServer):
    """Takes what is pushed.

    Attributes:
        hashes: whether the digest of every blob is checked.
        keeps_cut: whether an upload that was cut within a request can be gone on with; docker-registry gives it up.
        blobs: repository and digest of every blob, with its size in bytes.
        places: every upload that was begun.
        completed: how often each blob was completed.
    """

    handler = _Handler
    hashes: bool = True
    keeps_cut: bool = True
    blobs: dict[tuple[str, str], int] = field(default_factory=dict)
    manifests: dict[tuple[str, str], bytes] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    given_up: set[str] = field(default_factory=set)
    completed: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def received(self) -> int:
        """Bytes of blobs that came, of uploads that were never completed too."""
        return self.bytes.total

    def forget(self) -> None:
        """Be empty again; what was counted stays."""
        with self.lock:
            for held in (self.blobs, self.manifests, self.places, self.given_up, self.completed):
                held.clear()

    def count(self, place: Place, piece: memoryview) -> None:
        """Take a piece of an upload."""
        if self.hashes:
            place.sha256.update(piece)
        place.count += len(piece)
        self.bytes.add(len(piece))
