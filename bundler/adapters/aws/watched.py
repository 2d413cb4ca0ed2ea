"""botocore's connections under watch: calling off the work wakes a thread that waits for AWS."""

from __future__ import annotations

import functools
import socket
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse
from typing import Any

from bundler.transfer import Interruptible, check_stopped


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


class _Watched(HTTPConnection):
    """A connection whose blocked calls return when the work is called off; it is dead afterwards."""

    sock: socket.socket | None

    def request(self, *args: Any, **options: Any) -> None:
        with Interruptible(self._wake):
            super().request(*args, **options)

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
