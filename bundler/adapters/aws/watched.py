"""botocore's connections under watch: calling off the work wakes a thread that waits for AWS."""

from __future__ import annotations

import functools
import socket
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse
from typing import Any

from bundler.transfer import Interruptible, check_stopped

BLOCK_BYTES = 1 << 20
PIECE_BYTES = 256 << 10


def watch(client: Any) -> None:
    """Let calling off the work end the calls of `client` at once, wherever they are but in a pause between two tries.

    botocore offers events before and after a request, and no way into one: its pools are replaced.
    """
    client.meta.events.register("before-send", _stop_here)
    client.meta.events.register_first("needs-retry", _stop_here)
    client._endpoint.http_session._pool_classes_by_scheme.update(_pools())


def _stop_here(**_: object) -> None:
    """Send nothing for work that has been called off: botocore would go on trying."""
    check_stopped()


class _Response(HTTPResponse):
    """An answer whose body can be taken as it comes."""

    def take(self, view: memoryview) -> int:
        """Put into `view` what has come, at least a byte of it; return how much, 0 at the end of the body.

        `readinto` would wait until `view` is full, however slowly the peer sends.
        """
        if self.fp is None or self.chunked or self.length is None:
            return self.readinto(view)
        count = self.fp.readinto1(view[: self.length])
        self.length -= count
        if not self.length or not count:
            self._close_conn()  # type: ignore[attr-defined]  # as each of its readers ends a body
        return count


class _Watched(HTTPConnection):
    """A connection whose blocked calls return when the work is called off; it is dead afterwards."""

    sock: socket.socket | None
    response_class = _Response

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"blocksize": BLOCK_BYTES, **options})

    def request(self, *args: Any, **options: Any) -> None:
        with Interruptible(self._wake):
            super().request(*args, **options)

    def send(self, data: Any) -> None:
        """Send bytes piece by piece: each piece has the deadline of a read, which ends what is slower than 4 KiB/s."""
        if not isinstance(data, bytes | memoryview):
            super().send(data)
            return
        view = memoryview(data)
        for start in range(0, len(view), PIECE_BYTES):
            super().send(view[start : start + PIECE_BYTES])

    def getresponse(self) -> HTTPResponse:
        with Interruptible(self._wake):
            return super().getresponse()

    def _wake(self) -> None:
        sock = self.sock
        if sock is not None:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


@functools.cache
def _pools() -> dict[str, type]:
    from botocore import awsrequest

    plain = type("WatchedConnection", (_Watched, awsrequest.AWSHTTPConnection), {})
    tls = type("WatchedTlsConnection", (_Watched, awsrequest.AWSHTTPSConnection), {})
    return {
        "http": type("WatchedPool", (awsrequest.AWSHTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("WatchedTlsPool", (awsrequest.AWSHTTPSConnectionPool,), {"ConnectionCls": tls}),
    }
