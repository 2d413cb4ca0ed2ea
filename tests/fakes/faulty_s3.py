"""An S3 that serves one object and misbehaves on request (reliability E16)."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_ERRORS = {
    "slowdown": (503, "SlowDown"),
    "416": (416, "InvalidRange"),
    "412": (412, "PreconditionFailed"),
    "gone": (404, "NoSuchKey"),
    "denied": (403, "AccessDenied"),
    "html": (503, ""),
    "301": (301, ""),
    "302": (302, ""),
    "307": (307, ""),
}
MODIFIED = "Fri, 02 Jan 2026 03:04:05 GMT"


class FaultyS3:
    """One object at any key.

    Attributes:
        mode: what is wrong: see `_Handler._serve`.
        faulty: how many GETs are hit; the rest are right.
        heads: how many HEADs came; a mode that is a redirect hits them too.
        ranges: the Range header of each GET.
        conditions: the If-Match header of each GET.
        hung_up: set when a client left an answer that hangs.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.etag = '"e1"'
        self.mode = ""
        self.faulty = 1 << 30
        self.heads = 0
        self.ranges: list[str] = []
        self.conditions: list[str] = []
        self.connections: set[object] = set()
        self.hung_up = threading.Event()
        self.url = ""


@contextmanager
def faulty_s3(content: bytes) -> Iterator[FaultyS3]:
    """Serve `content` on a port of its own."""
    state = FaultyS3(content)
    handler = type("Handler", (_Handler,), {"state": state})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _changed(body: bytes, mode: str) -> bytes:
    if mode == "flip":
        return bytes([body[0] ^ 1]) + body[1:]
    if mode == "short":
        return body[:-1]
    return body + b"x" if mode == "long" else body


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: cut connections are the point."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FaultyS3

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.state.heads += 1
        if self.state.mode.startswith("30"):
            self._error(*_ERRORS[self.state.mode])
            return
        self.send_response(200)
        self._headers(len(self.state.content), self.state.etag)
        self.end_headers()

    def do_GET(self) -> None:
        state = self.state
        assert not urlsplit(self.path).query.count("Signature"), "credentials must not stand in the URL"
        state.connections.add(self.client_address)
        state.ranges.append(self.headers.get("Range", ""))
        state.conditions.append(self.headers.get("If-Match", ""))
        hit = len(state.ranges) <= state.faulty
        with suppress(BrokenPipeError, ConnectionResetError):
            self._serve(state.mode if hit else "")

    def _serve(self, mode: str) -> None:
        if mode in _ERRORS:
            self._error(*_ERRORS[mode])
            return
        state = self.state
        first, last = (int(number) for number in self.headers["Range"].removeprefix("bytes=").split("-"))
        last = min(last, len(state.content) - 1)
        body = _changed(state.content[first : last + 1], mode)
        if mode == "norange":
            self.send_response(200)
            body = state.content
        else:
            self.send_response(206)
            total = len(state.content) + (1 if mode == "badtotal" else 0)
            self.send_header("Content-Range", f"bytes {first + (1 if mode == 'badrange' else 0)}-{last}/{total}")
        self._headers(len(body), '"e2"' if mode == "etag" else state.etag)
        self.end_headers()
        self._body(body, mode)

    def _body(self, body: bytes, mode: str) -> None:
        if mode in ("cut", "reset"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if mode == "reset":
                time.sleep(0.02)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            self.close_connection = True
            return
        if mode == "hang":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.connection.settimeout(20)
            if not self.rfile.read(1):
                self.state.hung_up.set()
            return
        if mode == "drip":
            for number in range(len(body)):
                self.wfile.write(body[number : number + 1])
                self.wfile.flush()
                time.sleep(0.01)
            return
        self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>m</Message></Error>'
        raw = (text if code else "<html>proxy</html>").encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        if status < 400:
            self.send_header("Location", f"{self.state.url}/login")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def _headers(self, size: int, etag: str) -> None:
        self.send_header("ETag", etag)
        self.send_header("Last-Modified", MODIFIED)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(size))
