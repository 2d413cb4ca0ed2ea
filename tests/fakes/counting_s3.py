"""An S3 that counts: multipart uploads and ranged reads as cheap as Python allows, and the faults a test asks for.

    python -m tests.fakes.counting_s3 FOLDER [--sink]

As a program it prints its URL and serves until it is killed: the bench's far side. With `--sink` it counts what it is
sent, checks nothing and keeps nothing. Keys are kept as plain files below FOLDER.
"""

from __future__ import annotations

import argparse
import base64
import datetime as dt
import hashlib
import json
import os
import re
import socket
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.fakes.counting import Address, Guests, Tally

BUFFER_BYTES = 1 << 20
NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request: its API name, number among those of that name (from 1), key, query, headers."""

    operation: str
    number: int
    key: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens instead.

    Attributes:
        status: an error with `code`; 0 for none.
        early: it is answered before the body was read.
        cut_after: the connection is reset when so many bytes of the body came, or went.
        drip_s: seconds between two bytes of the answer.
        headers: replace those of the right answer.
        lose_answer: the request is done, and the connection reset instead of an answer.
        flip: one bit of the body is wrong, on its way in or out.
        short: bytes that the answer states and does not send.
    """

    status: int = 0
    code: str = ""
    early: bool = False
    cut_after: int | None = None
    drip_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    lose_answer: bool = False
    flip: bool = False
    short: int = 0


Script = Callable[[Asked], Fault | None]


@dataclass
class Attempt:
    """One request that brings a part.

    Attributes:
        part: its number.
        count: bytes that came.
        is_stored: all of them, and S3 holds the part.
    """

    part: int
    count: int = 0
    is_stored: bool = False


@dataclass
class _Part:
    path: Path
    size: int
    sha256: bytes

    @property
    def etag(self) -> str:
        return f'"{self.sha256.hex()[:32]}"'

    @property
    def checksum(self) -> str:
        return base64.b64encode(self.sha256).decode()


@dataclass
class _Object:
    path: Path
    size: int
    etag: str
    checksum: str | None = None


@dataclass
class CountingS3:
    """The state of the server; a test reads the counts.

    Attributes:
        requests: how often each operation was asked for.
        bytes: of bodies that came, of parts that were cut too.
        attempts: every request with a part, in the order in which they came.
        sent: bytes of objects that went out, or are about to.
        ranges: first and last byte of each GET, in order.
        connections: how many were made.
        script: asked before every request.
    """

    folder: Path
    sink: bool = False
    url: str = ""
    requests: Counter[str] = field(default_factory=Counter)
    bytes: Tally = field(default_factory=Tally)
    attempts: list[Attempt] = field(default_factory=list)
    guests: Guests = field(default_factory=Guests)
    sent: int = 0
    ranges: list[tuple[int, int]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    connections: int = 0
    script: Script = lambda _: None
    objects: dict[str, _Object] = field(default_factory=dict)
    uploads: dict[str, tuple[str, dict[int, _Part]]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, key: str, path: Path) -> None:
        """Serve a file as the object `bucket/key`."""
        self.objects[key] = _Object(path, path.stat().st_size, '"first"')

    def replace(self, key: str) -> None:
        """Let somebody write the object anew: the same bytes under another ETag."""
        self.objects[key].etag = '"replaced"'

    def content(self, key: str) -> bytes:
        """The bytes of an object."""
        return self.objects[key].path.read_bytes()

    @property
    def received(self) -> int:
        """Bytes of bodies that came."""
        return self.bytes.total

    def wait_until_gone(self) -> None:
        """Until nobody who connected so far is there any more."""
        parts = urlsplit(self.url)
        self.guests.wait_until_gone((str(parts.hostname), parts.port or 0))

    def asked(self, method: str, target: str, headers: dict[str, str]) -> Asked:
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        operation = _operation(method, query)
        with self.lock:
            self.requests[operation] += 1
            number = self.requests[operation]
            if operation == "GetObject":
                self.headers.append(headers)
        return Asked(
            operation=operation, number=number, key=unquote(parts.path).strip("/"), query=query, headers=headers
        )


@contextmanager
def counting_s3(folder: Path, *, sink: bool = False) -> Iterator[CountingS3]:
    """Serve on a port of its own while held."""
    state = CountingS3(folder=folder, sink=sink)
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    state.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    open_ones: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                connection, address = listener.accept()
            except OSError:
                return
            state.guests.came(address)
            open_ones.append(connection)
            state.connections += 1
            threading.Thread(target=_serve, args=(state, connection, address), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield state
    finally:
        for sock in (listener, *open_ones):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


def _operation(method: str, query: dict[str, str]) -> str:
    if "uploads" in query:
        return "CreateMultipartUpload" if method == "POST" else "ListMultipartUploads"
    if "uploadId" in query:
        names = {"PUT": "UploadPart", "GET": "ListParts", "POST": "CompleteMultipartUpload"}
        return names.get(method, "AbortMultipartUpload")
    return {"HEAD": "HeadObject", "GET": "GetObject", "PUT": "PutObject"}.get(method, method)


class _CutError(OSError):
    """The connection is to be reset."""


def _serve(state: CountingS3, connection: socket.socket, address: Address) -> None:
    try:
        _exchange(state, connection)
    finally:
        state.guests.left(address)


def _exchange(state: CountingS3, connection: socket.socket) -> None:
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with suppress(OSError, ValueError), connection, connection.makefile("rb", buffering=64 << 10) as reader:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while _Exchange(state, connection, reader, buffer).run():
                pass
        except _CutError:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class _Exchange:
    """One request and its answer."""

    def __init__(self, state: CountingS3, connection: socket.socket, reader: Any, buffer: memoryview) -> None:
        self._state = state
        self._connection = connection
        self._reader = reader
        self._buffer = buffer
        self._fault = Fault()
        self._is_head = False
        self._attempt = Attempt(0)

    def run(self) -> bool:
        line = self._reader.readline(65536).decode("latin-1").split()
        if len(line) != 3:
            return False
        headers: dict[str, str] = {}
        while (text := self._reader.readline(65536).decode("latin-1").strip()) != "":
            name, _, value = text.partition(":")
            headers[name.lower()] = value.strip()
        asked = self._state.asked(line[0], line[1], headers)
        self._is_head = line[0] == "HEAD"
        self._fault = self._state.script(asked) or Fault()
        if self._fault.early:
            self._error(self._fault.status, self._fault.code)
            return False
        if headers.get("expect", "").lower() == "100-continue":
            self._connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        part = self._body(asked)
        if self._fault.status:
            self._error(self._fault.status, self._fault.code)
            return True
        getattr(self, f"_{asked.operation}", self._unknown)(asked, part)
        return True

    def _body(self, asked: Asked) -> _Part | None:
        """Take the body; into a file where it is a part or an object."""
        left = int(asked.headers.get("content-length", 0))
        if not left:
            return None
        kept = asked.operation in ("UploadPart", "PutObject") and not self._state.sink
        sha256, size, flip = hashlib.sha256(), left, self._fault.flip
        if asked.operation == "UploadPart":
            self._attempt = Attempt(int(asked.query["partNumber"]))
            self._state.attempts.append(self._attempt)
        handle, name = tempfile.mkstemp(dir=self._state.folder) if kept else (-1, os.devnull)
        try:
            while left:
                piece = self._buffer[: min(left, len(self._buffer))]
                piece = piece[: self._reader.readinto1(piece)]
                if not piece:
                    raise _CutError
                left -= len(piece)
                if asked.operation in ("UploadPart", "PutObject"):
                    self._attempt.count += len(piece)
                    self._state.bytes.add(len(piece))
                if self._fault.cut_after is not None and size - left >= self._fault.cut_after:
                    raise _CutError
                if flip:
                    piece[0] ^= 1
                    flip = False
                if kept:
                    sha256.update(piece)
                    os.write(handle, piece)
        finally:
            if handle >= 0:
                os.close(handle)
        return _Part(Path(name), size, sha256.digest())

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        if self._fault.lose_answer:
            raise _CutError
        headers = {"Content-Length": str(len(body)), **headers, **self._fault.headers}
        head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
        self._connection.sendall(head.encode() + (b"" if self._is_head else body))

    def _xml(self, name: str, inner: str) -> None:
        self._answer(200, {}, f'<?xml version="1.0"?><{name} {NAMESPACE}>{inner}</{name}>'.encode())

    def _error(self, status: int, code: str) -> None:
        self._answer(
            status, {}, f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>m</Message></Error>'.encode()
        )

    def _unknown(self, _asked: Asked, _part: _Part | None) -> None:
        self._error(405, "MethodNotAllowed")

    def _HeadObject(self, asked: Asked, _: _Part | None) -> None:  # noqa: N802 - the API's name
        found = self._state.objects.get(asked.key)
        if found is None:
            self._answer(404, {})
            return
        more = {} if found.checksum is None else {"x-amz-checksum-sha256": found.checksum}
        self._answer(200, {"ETag": found.etag, "Content-Length": str(found.size), **more})

    def _GetObject(self, asked: Asked, _: _Part | None) -> None:  # noqa: N802
        found = self._state.objects.get(asked.key)
        if found is None:
            self._error(404, "NoSuchKey")
            return
        if asked.headers.get("if-match", found.etag) != found.etag:
            self._error(412, "PreconditionFailed")
            return
        size = found.size
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("range", "bytes=0-"))
        assert match is not None
        first, last = int(match[1]), min(int(match[2] or size), size - 1)
        with self._state.lock:
            self._state.ranges.append((first, last))
        self._answer(
            206 if "range" in asked.headers else 200,
            {
                "ETag": found.etag,
                "Content-Range": f"bytes {first}-{last}/{size}",
                "Content-Length": str(last - first + 1),
                "Last-Modified": "Fri, 02 Jan 2026 03:04:05 GMT",
            },
        )
        self._send(found.path, first, last + 1 - first)

    def _send(self, path: Path, first: int, length: int) -> None:
        fault = self._fault
        whole = min(length - fault.short, length if fault.cut_after is None else fault.cut_after)
        with self._state.lock:
            self._state.sent += whole
        with path.open("rb") as file:
            if fault.drip_s or fault.flip:
                file.seek(first)
                content = bytearray(file.read(whole))
                content[0] ^= int(fault.flip)
                for number in range(0, whole, 1 if fault.drip_s else whole):
                    self._connection.sendall(content[number : number + (1 if fault.drip_s else whole)])
                    time.sleep(fault.drip_s)
            else:
                self._connection.sendfile(file, first, whole)
        if whole < length:
            if fault.cut_after is not None:
                raise _CutError
            self._connection.shutdown(socket.SHUT_WR)
            raise ConnectionAbortedError

    def _PutObject(self, asked: Asked, part: _Part | None) -> None:  # noqa: N802
        if part is not None and not self._state.sink:
            self._state.objects[asked.key] = _Object(part.path, part.size, part.etag)
        self._answer(200, {"ETag": '"whole"'})

    def _CreateMultipartUpload(self, asked: Asked, _: _Part | None) -> None:  # noqa: N802
        with self._state.lock:
            upload_id = f"upload-{len(self._state.uploads) + 1}"
            self._state.uploads[upload_id] = (asked.key, {})
        self._xml("InitiateMultipartUploadResult", f"<UploadId>{upload_id}</UploadId>")

    def _UploadPart(self, asked: Asked, part: _Part | None) -> None:  # noqa: N802
        assert part is not None
        stated = asked.headers.get("x-amz-checksum-sha256")
        if self._state.sink:
            part = _Part(part.path, part.size, base64.b64decode(stated or "AAAA"))
        elif stated is not None and stated != part.checksum:
            self._error(400, "BadDigest")
            return
        held = self._state.uploads.get(asked.query["uploadId"])
        if held is None:
            self._error(404, "NoSuchUpload")
            return
        held[1][int(asked.query["partNumber"])] = part
        self._attempt.is_stored = True
        more = {} if stated is None else {"x-amz-checksum-sha256": stated}
        self._answer(200, {"ETag": part.etag, **more})

    def _ListMultipartUploads(self, asked: Asked, _: _Part | None) -> None:  # noqa: N802
        bucket = asked.key.partition("/")[0]
        when = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        lines = [
            f"<Upload><Key>{escape(key.removeprefix(bucket + '/'))}</Key><UploadId>{upload_id}</UploadId>"
            f"<Initiated>{(when + dt.timedelta(seconds=number)).isoformat()}</Initiated>"
            "<ChecksumAlgorithm>SHA256</ChecksumAlgorithm></Upload>"
            for number, (upload_id, (key, _)) in enumerate(self._state.uploads.items())
        ]
        self._xml("ListMultipartUploadsResult", "<IsTruncated>false</IsTruncated>" + "".join(lines))

    def _ListParts(self, asked: Asked, _: _Part | None) -> None:  # noqa: N802
        held = self._state.uploads[asked.query["uploadId"]][1]
        lines = [
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(part.etag)}</ETag><Size>{part.size}</Size>"
            f"<ChecksumSHA256>{part.checksum}</ChecksumSHA256></Part>"
            for number, part in sorted(held.items())
        ]
        self._xml("ListPartsResult", "<IsTruncated>false</IsTruncated>" + "".join(lines))

    def _CompleteMultipartUpload(self, asked: Asked, _: _Part | None) -> None:  # noqa: N802
        there = self._state.objects.get(asked.key)
        held = self._state.uploads.get(asked.query["uploadId"])
        if held is None:
            self._error(404, "NoSuchUpload")
            return
        wanted = asked.headers.get("if-match")
        if ("if-none-match" in asked.headers and there is not None) or (
            wanted is not None and (there is None or there.etag != wanted)
        ):
            self._error(412, "PreconditionFailed")
            return
        parts = [part for _, part in sorted(held[1].items())]
        joined = hashlib.sha256(b"".join(part.sha256 for part in parts)).digest()
        path = Path(os.devnull) if self._state.sink else self._join(parts)
        checksum = f"{base64.b64encode(joined).decode()}-{len(parts)}"
        size = sum(part.size for part in parts)
        self._state.objects[asked.key] = _Object(path, size, f'"{joined.hex()[:32]}-{len(parts)}"', checksum)
        del self._state.uploads[asked.query["uploadId"]]
        self._xml("CompleteMultipartUploadResult", "<ETag>e</ETag>")

    def _join(self, parts: list[_Part]) -> Path:
        handle, name = tempfile.mkstemp(dir=self._state.folder)
        with os.fdopen(handle, "wb") as whole:
            for part in parts:
                whole.write(part.path.read_bytes())
                part.path.unlink()
        return Path(name)

    def _AbortMultipartUpload(self, asked: Asked, _: _Part | None) -> None:  # noqa: N802
        self._state.uploads.pop(asked.query["uploadId"], None)
        self._answer(204, {})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sink", action="store_true")
    parser.add_argument("--serve", type=Path)
    given = parser.parse_args()
    with counting_s3(given.folder, sink=given.sink) as state:
        if given.serve is not None:
            state.put(f"bucket/{given.serve.name}", given.serve)
        print(json.dumps({"url": state.url}), flush=True)  # noqa: T201
        threading.Event().wait()


if __name__ == "__main__":
    main()
