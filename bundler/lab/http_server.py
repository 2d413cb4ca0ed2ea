"""A small HTTP/1.1 server for the lab's registries: threads, keep-alive, TLS, bodies streamed both ways."""

from __future__ import annotations

import io
import logging
import socket
import ssl
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import parse_qsl, urlsplit

_LOG = logging.getLogger(__name__)
_CHUNK_BYTES = 256 << 10
_DRAIN_BYTES = 1 << 20
_CHUNK_LINE_BYTES = 4096
_IDLE_S = 300


class CutError(Exception):
    """The connection is to end here without another byte: a planned fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSlice:
    """A part of a file as the body of an answer."""

    path: Path
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What goes back. A HEAD request gets the headers of `body` and none of its bytes; `cut` ends in its middle."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | FileSlice = b""
    cut: bool = False

    @property
    def length(self) -> int:
        """Content-Length."""
        return len(self.body) if isinstance(self.body, bytes) else self.body.length


class RequestBody:
    """The body of a request, by Content-Length or chunked; read once, never kept."""

    def __init__(self, source: io.BufferedIOBase, headers: Mapping[str, str]) -> None:
        self._source = source
        self._chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
        length = headers.get("Content-Length", "0")
        self.length = None if self._chunked else int(length) if length.isdigit() else 0
        self.cut_after: int | None = None
        self._left = self.length or 0
        self._ended = not self._chunked and self._left == 0

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body.

        Raises:
            ConnectionError: it ended early.
            CutError: a planned fault ends it.
        """
        seen = 0
        for chunk in self._chunks() if self._chunked else self._plain():
            if self.cut_after is not None and seen + len(chunk) > self.cut_after:
                yield chunk[: self.cut_after - seen]
                raise CutError
            seen += len(chunk)
            yield chunk
        if self.cut_after is not None:
            raise CutError

    def read(self, limit: int) -> bytes | None:
        """Return the whole body, or None when it is longer than `limit` bytes."""
        kept = bytearray()
        for chunk in self:
            kept += chunk
            if len(kept) > limit:
                return None
        return bytes(kept)

    def drain(self) -> bool:
        """Read what nobody wanted; False when that is too much and the connection should end."""
        seen = 0
        try:
            for chunk in self:
                seen += len(chunk)
                if seen > _DRAIN_BYTES:
                    return False
        except (OSError, CutError, ValueError):
            return False
        return True

    def _plain(self) -> Iterator[bytes]:
        while self._left:
            chunk = self._source.read(min(_CHUNK_BYTES, self._left))
            if not chunk:
                raise ConnectionError("the request body ended early")
            self._left -= len(chunk)
            yield chunk

    def _chunks(self) -> Iterator[bytes]:
        while not self._ended:
            size = int(self._source.readline(_CHUNK_LINE_BYTES).split(b";")[0].strip() or b"x", 16)
            self._ended = size == 0
            while size:
                chunk = self._source.read(min(_CHUNK_BYTES, size))
                if not chunk:
                    raise ConnectionError("the request body ended early")
                size -= len(chunk)
                yield chunk
            while self._source.readline(_CHUNK_LINE_BYTES).strip() and self._ended:
                continue  # trailers


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request without its connection."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: RequestBody


class Service(Protocol):
    """What answers requests."""

    def answer(self, request: Request) -> Answer:
        """Return the answer; raises CutError to end the connection without one."""
        ...


class Server(ThreadingHTTPServer):
    """One service on one port of 127.0.0.1, each connection in a thread of its own."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, service: Service, *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.service = service
        self.tls = tls
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept; the TLS handshake is left to the connection's own thread."""
        connection, address = super().get_request()
        if self.tls is not None:
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: object, client_address: object) -> None:
        """Write what went wrong with a connection to the log, not to stderr."""
        _LOG.info("connection %s ended: %s", client_address, request, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = _IDLE_S
    rbufsize = _CHUNK_BYTES
    server: Server

    def setup(self) -> None:
        super().setup()
        if isinstance(self.connection, ssl.SSLSocket):
            self.connection.do_handshake()

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        headers = _Headers(self.headers)
        request = Request(
            method=self.command,
            path=parts.path,
            query=dict(parse_qsl(parts.query, keep_blank_values=True)),
            headers=headers,
            body=RequestBody(self.rfile, headers),
        )
        try:
            answer = self.server.service.answer(request)
            if not request.body.drain():
                self.close_connection = True
            self._send(answer)
        except CutError:
            self._reset()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - http.server's own names

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(answer.length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        length = answer.length // 2 if answer.cut else answer.length
        if isinstance(answer.body, bytes):
            self.wfile.write(answer.body[:length])
        else:
            self._send_file(answer.body, length)
        if answer.cut:
            raise CutError

    def _send_file(self, part: FileSlice, length: int) -> None:
        with part.path.open("rb") as source:
            if isinstance(self.connection, ssl.SSLSocket):
                self._copy(source, part.offset, length)
            elif length:
                self.connection.sendfile(source, part.offset, length)

    def _copy(self, source: BinaryIO, offset: int, length: int) -> None:
        source.seek(offset)
        while length:
            chunk = source.read(min(_CHUNK_BYTES, length))
            self.connection.sendall(chunk)
            length -= len(chunk)

    def _reset(self) -> None:
        """End the connection so that the far side sees a reset and not an orderly end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.socket.close(self.connection)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's own name
        """Keep http.server from writing to stderr."""


class _Headers(Mapping[str, str]):
    """Case-insensitive headers as a plain mapping."""

    def __init__(self, headers: Message) -> None:
        self._headers = {name.lower(): str(value) for name, value in headers.items()}

    def __getitem__(self, name: str) -> str:
        return self._headers[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers)

    def __len__(self) -> int:
        return len(self._headers)
