"""urllib3's connection pools over the guarded sockets of network.py."""

from __future__ import annotations

import http.client
import ssl
import weakref
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from bundler.adapters.network import Gate, Meter, WatchedTlsSocket
from bundler.adapters.proxies import Proxy

BLOCK_BYTES = 1 << 20
HOSTS = 64


_bodies: weakref.WeakKeyDictionary[object, http.client.HTTPResponse] = weakref.WeakKeyDictionary()


def body_of(response: urllib3.BaseHTTPResponse) -> http.client.HTTPResponse:
    """Return what urllib3's answer wraps: it reads into a buffer of ours, where urllib3 makes new memory each time."""
    return _bodies[response]


class GuardedConnection(HTTPConnection):
    """A connection that goes through a gate."""

    def __init__(self, *args: Any, gate: Gate, **options: Any) -> None:
        super().__init__(*args, **options)
        self._gate = gate
        self._body: http.client.HTTPResponse | None = None
        self.response_class = self._respond  # type: ignore[assignment]

    def _respond(self, *args: Any, **options: Any) -> http.client.HTTPResponse:
        self._body = http.client.HTTPResponse(*args, **options)
        return self._body

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
        """Return the answer, and remember what it wraps."""
        response = super().getresponse()
        if self._body is not None:
            _bodies[response] = self._body
        self._body = None
        return response

    def _new_conn(self) -> Any:
        return self._gate.open(self._dns_host, self.port)

    def connect(self) -> None:
        """Connect; from then on the socket's patience is that for sending, not that for connecting."""
        super().connect()
        if isinstance(self.sock, WatchedTlsSocket):
            self.sock.meter = Meter(self._gate.clock)
        self.sock.settimeout(self._gate.patience_s)

    def request(self, *args: Any, **options: Any) -> None:
        """Send a request; a connection that is used again would otherwise send with the connect timeout."""
        if self.sock is not None:
            self.timeout = self._gate.patience_s
        super().request(*args, **options)


class GuardedTlsConnection(GuardedConnection, HTTPSConnection):
    """The same with TLS."""


class _Pools(urllib3.PoolManager):
    """Makes pools whose connections go through `gate`."""

    gate: Gate

    def _new_pool(
        self, scheme: str, host: str, port: int, request_context: dict[str, Any] | None = None
    ) -> urllib3.HTTPConnectionPool:
        pool = super()._new_pool(scheme, host, port, request_context)
        pool.ConnectionCls = GuardedTlsConnection if scheme == "https" else GuardedConnection
        pool.conn_kw["gate"] = self.gate
        return pool


class _ProxiedPools(_Pools, urllib3.ProxyManager):
    """The same through a proxy."""


def make_pool_manager(
    gate: Gate, *, proxy: Proxy | None, context: ssl.SSLContext, connections: int
) -> urllib3.PoolManager:
    """Return pools for any number of hosts with at most `connections` idle connections each."""
    options: dict[str, Any] = {
        "num_pools": HOSTS,
        "maxsize": connections,
        "block": False,
        "retries": False,
        "blocksize": BLOCK_BYTES,
        "ssl_context": context,
    }
    pools: _Pools
    if proxy is None:
        pools = _Pools(**options)
    else:
        pools = _ProxiedPools(str(proxy.url.origin), proxy_headers=proxy.headers, **options)
    pools.gate = gate
    return pools
