"""One guarded HTTP client for everything that is not an AWS API: registries, chart repositories, files.

Credentials never follow a redirect, redirects never lead inwards or to plain HTTP, nothing is decoded on the way,
every wait has a limit.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from bundler.adapters.buffers import BUFFER_BYTES, Buffers
from bundler.adapters.hosts import MOST, Hosts, limits_of
from bundler.adapters.http_connections import Connection, Outgoing, Pool, Response, Route
from bundler.adapters.http_errors import translated
from bundler.adapters.network import (
    CONNECT_TIMEOUT_S,
    FIRST_BYTE_TIMEOUT_S,
    Address,
    Clock,
    Gate,
    Resolve,
    Zone,
    resolve,
    tls_context,
    zone_of,
)
from bundler.adapters.proxies import Proxies, Proxy
from bundler.domain.credentials import Secret
from bundler.domain.url import Origin, Url
from bundler.errors import FormatError, LimitError, NetworkError, TransientError
from bundler.pacing import Bearing, Limits
from bundler.retry import MAX_RETRY_AFTER_S, asked_wait_s
from bundler.transfer import Once, Slot, check_stopped, pause

MAX_HOPS = 5
MAX_EXCERPT_BYTES = 64 << 10
TOO_MUCH = frozenset({429, 503})
AGAIN = frozenset({408, 429, 500, 502, 503, 504})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
USER_AGENT = "eks-bundler"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSettings:
    """What a transport is made of; the last six are replaced in tests only.

    Attributes:
        ca_files: PEM files trusted in addition to the system's (or SSL_CERT_FILE's) roots.
        proxies: proxies by scheme.
        connect_to: `host` or `host:port` -> TCP address to use instead. TLS, SNI, Host header and certificate check
            keep the name; no proxy is used.
        limits_of: requests at a time, to a host.
    """

    ca_files: tuple[str, ...] = ()
    proxies: Proxies = field(default_factory=Proxies)
    connect_to: Mapping[str, Address] = field(default_factory=dict)
    limits_of: Callable[[Origin], Limits] = limits_of
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    first_byte_timeout_s: float = FIRST_BYTE_TIMEOUT_S
    resolve: Resolve = resolve
    zone_of: Callable[[str], Zone] = zone_of
    clock: Clock = time.monotonic
    sleep: Callable[[float], None] = pause


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request.

    Attributes:
        url: where to.
        subject: what errors name; the thing that is read or written, not the URL.
        authorization: value of the Authorization header; sent to `url` only, never after a redirect.
        body: whole, or in chunks; with chunks `body_bytes` says how many bytes there are.
        answer_within_s: seconds until the first byte of the answer; None means the usual 60.
    """

    url: Url
    subject: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    authorization: Secret | None = None
    body: Outgoing = None
    body_bytes: int | None = None
    answer_within_s: float | None = None


_FIRST_BYTES = 128 << 10
_QUICK_S = 0.1
_buffers = Buffers()


class Answer:
    """An answer whose body has not been read yet. Closing it before its end closes the connection."""

    def __init__(self, response: Response, *, url: Url, request: Request, where: str, slot: Slot) -> None:
        self.status = response.status
        self.url = url
        self._response = response
        self._is_open = True
        self._request = request
        self._where = where
        self._slot = slot
        self._excerpt: bytes | None = None

    def header(self, name: str) -> str | None:
        """Return a header; several of one name are joined by a comma."""
        return self._response.headers.get(name.lower())

    @property
    def length(self) -> int | None:
        """Content-Length in bytes, None where there is none that makes sense."""
        text = self.header("Content-Length") or ""
        return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None

    def blocks(self) -> Iterator[memoryview]:
        """Yield the body in a buffer that is used again: at first little, more as the far side is faster.

        Raises:
            TransientError: it was cut off, or the far side stalls.
            FormatError: its chunks are none.
        """
        size = _FIRST_BYTES
        with translated(self._request.subject, self._where), _buffers.lend() as buffer:
            while not self._response.is_done:
                since = time.monotonic()
                count = self._response.readinto(buffer[:size])
                if not count:
                    break
                yield buffer[:count]
                if time.monotonic() - since < _QUICK_S:
                    size = min(2 * size, BUFFER_BYTES)

    def read(self, limit: int) -> bytes:
        """Return the whole body.

        Raises:
            LimitError: it is longer than `limit` bytes, or encoded.
            TransientError: it was cut off.
        """
        encoding = (self.header("Content-Encoding") or "identity").lower()
        if encoding != "identity":
            raise LimitError(
                self._request.subject, f"the answer is encoded ({encoding[:40]!r}), which nobody asked for"
            )
        if self.length is not None and self.length > limit:
            raise LimitError(self._request.subject, f"the answer has {self.length} bytes; at most {limit} are read")
        content = bytearray()
        for block in self.blocks():
            content += block
            if len(content) > limit:
                raise LimitError(self._request.subject, f"the answer is longer than {limit} bytes")
        return bytes(content)

    def excerpt(self) -> bytes:
        """Return up to 64 KiB of a body that explains an error; nothing where it cannot be had. May be asked twice."""
        if self._excerpt is None:
            content = bytearray()
            with suppress(NetworkError, FormatError):
                for block in self.blocks():
                    content += block
                    if len(content) > MAX_EXCERPT_BYTES:
                        break
            self._excerpt = bytes(content[:MAX_EXCERPT_BYTES])
        return self._excerpt

    @property
    def text(self) -> str:
        """The excerpt for a message."""
        return self.visible(self.excerpt().decode("utf-8", "replace"))

    def visible(self, text: str) -> str:
        """Return what the far side said as one line of at most 200 visible characters, without the secret we sent."""
        if self._request.authorization is not None:
            text = Secret(self._request.authorization.reveal().partition(" ")[2]).hidden_in(text)
        return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:200]

    def close(self) -> None:
        """Let go of the connection: back to the pool when the body was read to its end, closed otherwise."""
        is_open, self._is_open = self._is_open, False
        try:
            if is_open:
                self._response.leave()
        finally:
            self._slot.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Transport:
    """Sends requests; one transport serves all threads."""

    def __init__(self, settings: TransportSettings) -> None:
        self.settings = settings
        self._pool = Pool(most=MOST)
        self._gates: dict[Zone, Gate] = {}
        self._making = Once()
        self._seen: dict[Address, Zone] = {}
        self._rest_until: dict[Origin, float] = {}
        self._hosts = Hosts(settings.limits_of)
        self._context: ssl.SSLContext | None = None
        self._trusting: dict[tuple[str, ...], Transport] = {}

    def trusting(self, ca_files: tuple[str, ...]) -> Transport:
        """Return a transport that trusts `ca_files` in addition; this one where there are none."""
        if not ca_files:
            return self
        with self._making:
            if ca_files not in self._trusting:
                settings = replace(self.settings, ca_files=self.settings.ca_files + ca_files)
                self._trusting[ca_files] = Transport(settings)
            return self._trusting[ca_files]

    def bearing(self, origin: Origin) -> Bearing:
        """What a host bears now, as far as its answers have said."""
        return self._hosts.of(origin).bearing

    def send(self, request: Request) -> Answer:
        """Return the answer, redirects of GET and HEAD followed.

        Raises:
            TransientError: no or a broken answer, or one that says "later" (408, 429, 500, 502, 503, 504).
            NetworkError: a redirect that is not followed, or the far side's certificate is not trusted.
            FormatError: the answer is not HTTP.
        """
        url, innermost = request.url, Zone.LINK_LOCAL
        for hop in range(MAX_HOPS + 1):
            answer = self._exchange(request, url, innermost=innermost, with_credentials=hop == 0)
            if answer.status not in REDIRECTS:
                return self._final(answer, request, was_redirected=hop > 0)
            with answer:
                following = _follow(request, url, answer)
            innermost = min(innermost, Zone.LOOPBACK, self._zone(url))
            url = following
        raise NetworkError(request.subject, f"{request.url.origin} redirects more than {MAX_HOPS} times")

    def _final(self, answer: Answer, request: Request, *, was_redirected: bool) -> Answer:
        if was_redirected and answer.status == 401:
            answer.close()
            raise NetworkError(
                request.subject, f"{answer.url.origin}, a redirect target, asks for credentials: refused"
            )
        if answer.status in AGAIN:
            with answer:
                raise self._later(answer, request)
        return answer

    def _later(self, answer: Answer, request: Request) -> TransientError:
        said = f": {answer.text}" if answer.text else ""
        error = TransientError(request.subject, f"{answer.url.origin} answered {answer.status}{said}")
        error.retry_after_s = asked_wait_s(answer.header("Retry-After"), answer.header("Date"))
        error.answered = True
        if error.retry_after_s is not None:
            until = self.settings.clock() + error.retry_after_s
            self._rest_until[answer.url.origin] = max(until, self._rest_until.get(answer.url.origin, until))
        return error

    def _zone(self, url: Url) -> Zone:
        """How far inside the host of `url` is; public where only a proxy knows."""
        return self._seen.get((url.origin.host, url.origin.port), Zone.PUBLIC)

    def _exchange(self, request: Request, url: Url, *, innermost: Zone, with_credentials: bool) -> Answer:
        check_stopped()
        rest_s = self._rest_until.get(url.origin, 0.0) - self.settings.clock()
        if rest_s > 0:
            self.settings.sleep(min(rest_s, MAX_RETRY_AFTER_S))
        route = self._route(url.origin, innermost)
        headers = {"Accept-Encoding": "identity", "User-Agent": USER_AGENT, **request.headers}
        if with_credentials and request.authorization is not None:
            headers["Authorization"] = request.authorization.reveal()
        if request.body is not None:
            headers["Content-Length"] = str(
                len(request.body) if isinstance(request.body, bytes) else request.body_bytes
            )
        pace = self._hosts.of(url.origin)
        slot = pace.enter()
        try:
            answer, latency_s = self._ask(request, url, headers, route=route, slot=slot)
        except BaseException:
            slot.leave()
            raise
        if answer.status in TOO_MUCH:
            pace.refused()
        elif not request.body and answer.status not in AGAIN:  # how long a body takes says nothing of the host
            pace.answered(latency_s)
        return answer

    def _ask(
        self, request: Request, url: Url, headers: Mapping[str, str], *, route: Route, slot: Slot
    ) -> tuple[Answer, float]:
        """Return the answer, and the seconds from the request, once there was a connection, to its head."""
        proxy = route.proxy
        where = str(url.origin) if proxy is None else f"{url.origin} (through the proxy {proxy.url.origin})"
        patience_s = self.settings.first_byte_timeout_s
        with translated(request.subject, where, is_direct=proxy is None):
            connection = self._pool.take(route) or Connection(route, context=self._tls, patience_s=patience_s)
            try:
                sent_at = self.settings.clock()  # not after it: who comes back late from sending has no near host
                connection.send(request.method, url, headers, request.body)
                within_s = patience_s if request.answer_within_s is None else request.answer_within_s
                head = connection.receive(request.method, within_s=within_s)
                latency_s = self.settings.clock() - sent_at
            except BaseException:
                connection.close()
                raise
        response = Response(head, connection, self._pool)
        return Answer(response, url=url, request=request, where=where, slot=slot), latency_s

    def _route(self, origin: Origin, innermost: Zone) -> Route:
        """One route per zone, so that a connection made for a trusted place never serves a redirect."""
        proxy = self._proxy(origin, innermost)
        return Route(origin=origin, gate=self._gate(innermost if proxy is None else Zone.LINK_LOCAL), proxy=proxy)

    def _tls(self) -> ssl.SSLContext:
        with self._making:
            if self._context is None:
                self._context = tls_context(self.settings.ca_files)
            return self._context

    def _proxy(self, origin: Origin, innermost: Zone) -> Proxy | None:
        """Return the proxy to use. A proxy resolves names itself: what can be seen to lead inwards is refused here."""
        if self._gate(innermost).override(origin.host, origin.port) is not None:
            return None
        proxy = self.settings.proxies.of(origin)
        if proxy is not None and innermost < Zone.LOOPBACK and _is_inner_name(origin.host, self.settings.zone_of):
            raise NetworkError(origin.host, "a redirect leads to a host that is not public: refused")
        return proxy

    def _gate(self, innermost: Zone) -> Gate:
        if innermost not in self._gates:
            settings = self.settings
            self._gates[innermost] = Gate(
                innermost=innermost,
                connect_to=settings.connect_to,
                resolve=settings.resolve,
                zone_of=settings.zone_of,
                seen=self._seen,
                connect_timeout_s=settings.connect_timeout_s,
                patience_s=settings.first_byte_timeout_s,
                clock=settings.clock,
            )
        return self._gates[innermost]


def _follow(request: Request, url: Url, answer: Answer) -> Url:
    """Return where a redirect leads, when following it is allowed at all."""
    answer.excerpt()
    if request.method not in ("GET", "HEAD"):
        raise NetworkError(request.subject, f"{url.origin} redirects a {request.method}, which is not followed")
    location = answer.header("Location")
    if location is None:
        raise NetworkError(request.subject, f"{url.origin} redirects to nowhere ({answer.status} without Location)")
    try:
        following = url.join(location)
    except FormatError as error:
        raise NetworkError(
            request.subject, f"{url.origin} redirects to {error.subject}, which {error.cause}"
        ) from error
    if url.origin.scheme == "https" and following.origin.scheme != "https":
        raise NetworkError(request.subject, f"{url.origin} redirects from https to plain http: refused")
    return following


def _is_inner_name(host: str, zone: Callable[[str], Zone]) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return zone(host) > Zone.PUBLIC
    except ValueError:
        return host.replace(".", "").isdigit() or host.startswith("0x")
