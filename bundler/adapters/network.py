"""Sockets under the HTTP client: where they may connect to, and when they are too slow to be honest."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from bundler.errors import UsageError
from bundler.transfer import Interruptible, check_stopped

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

CONNECT_TIMEOUT_S = 10.0
FIRST_BYTE_TIMEOUT_S = 60.0
STALL_WINDOW_S = 60.0
LEAST_BYTES_PER_S = 1024
BLOCK_BYTES = 64 << 10
"""Who asks for as much reads a body, and waits for all of it, from a peer that sent as much at once before."""
_SOON_S = 0.05
MOST_UNREAD_BYTES = 2 << 20
"""What one connection may hold of bytes that nobody has read: they are lost when this process is killed (tcp(7))."""

Address = tuple[str, int]
Resolve = Callable[[str, int], list[Address]]
Clock = Callable[[], float]


class Zone(IntEnum):
    """How far inside an address is. A redirect may lead outwards or stay, never inwards."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2
    LINK_LOCAL = 3


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def zone_of(address: str) -> Zone:
    """Return the zone of an IP address in text; IPv4 inside IPv6 counts as the IPv4 address."""
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = embedded or ip
    if ip.is_link_local or ip.is_multicast:
        return Zone.LINK_LOCAL
    if ip.is_loopback or ip.is_unspecified:
        return Zone.LOOPBACK
    return Zone.PUBLIC if ip.is_global else Zone.PRIVATE


class HopelessError(OSError):
    """Trying this again changes nothing: the name does not exist, or the address may not be connected to."""


class UnreachableError(OSError):
    """Nobody accepts a connection there now."""


class StalledError(OSError):
    """The peer keeps the connection alive with hardly any bytes."""


def resolve(host: str, port: int) -> list[Address]:
    """Return the addresses of a host.

    Raises:
        HopelessError: the name does not exist.
        UnreachableError: the name service does not answer.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        kind = UnreachableError if error.errno in (socket.EAI_AGAIN, socket.EAI_SYSTEM) else HopelessError
        raise kind(f"the name {host} cannot be resolved ({error.strerror})") from error
    except UnicodeError as error:
        raise HopelessError(f"{host[:100]!r} is not a host name") from error
    return list(dict.fromkeys((str(entry[4][0]), port) for entry in found))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Decides where connections go.

    Attributes:
        innermost: the innermost zone that may be connected to.
        connect_to: `host` or `host:port` -> the TCP address to use instead; names in TLS and HTTP stay as they are.
        resolve: name service.
        zone_of: zone of an address.
        seen: `host:port` -> the outermost zone it was ever reached in; shared by all gates of a transport.
        connect_timeout_s: seconds for one address to accept.
        patience_s: seconds that one send may take.
        clock: for the stall detector.
    """

    innermost: Zone = Zone.LINK_LOCAL
    connect_to: Mapping[str, Address] = field(default_factory=dict)
    resolve: Resolve = resolve
    zone_of: Callable[[str], Zone] = zone_of
    seen: dict[Address, Zone] = field(default_factory=dict)
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    patience_s: float = FIRST_BYTE_TIMEOUT_S
    clock: Clock = time.monotonic

    def override(self, host: str, port: int) -> Address | None:
        """Return the address that is to be used for a host, None where the name service decides."""
        return self.connect_to.get(f"{host}:{port}", self.connect_to.get(host))

    def open(self, host: str, port: int) -> WatchedSocket:
        """Return a connected socket.

        Raises:
            HopelessError: an address is in a zone that is not allowed, or the name does not exist.
            UnreachableError: none of the addresses accepts.
        """
        target = self.override(host, port) or (host, port)
        reason = "it has no address"
        for address, number in self.resolve(*target):
            zone = self.zone_of(address)
            if zone > self.innermost:
                where = zone.name.lower().replace("_", "-")
                raise HopelessError(f"the redirect to {host} leads to the {where} address {address}, which is refused")
            try:
                connected = _connect((address, number), self.connect_timeout_s, self.clock)
            except TimeoutError:
                reason = f"{address} port {number} did not accept within {self.connect_timeout_s:g} s"
            except OSError as error:
                reason = f"{address} port {number}: {error.strerror}"
            else:
                self.seen[host, port] = min(zone, self.seen.get((host, port), zone))
                return connected
        raise UnreachableError(f"no connection: {reason}")


def _connect(address: Address, timeout_s: float, clock: Clock) -> WatchedSocket:
    sock = WatchedSocket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM)
    sock.meter = Meter(clock)
    try:
        socket.socket.settimeout(sock, timeout_s)  # to connect, Python's own is the one that works
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MOST_UNREAD_BYTES // 2)  # the kernel doubles it
        with Interruptible(sock.wake):
            sock.connect(address)
        sock.settimeout(timeout_s)
    except BaseException:
        sock.close()
        raise
    return sock


class Meter:
    """Notices a peer that keeps a connection alive with hardly any bytes.

    Only time spent waiting for the network counts, and not the wait for the first byte of an answer, which has a
    limit of its own.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waited_s = 0.0
        self._moved = 0
        self._awaits_answer = False

    def now(self) -> float:
        """Seconds by this meter's clock."""
        return self._clock()

    def sent(self, count: int, since: float) -> None:
        """Count bytes that were sent, in the time since `since`."""
        self._awaits_answer = True
        self._count(count, since)

    def received(self, count: int, since: float) -> None:
        """Count bytes that were received."""
        if not self._awaits_answer:
            self._count(count, since)
        self._awaits_answer = False

    def _count(self, count: int, since: float) -> None:
        self._waited_s += self._clock() - since
        self._moved += count
        if self._waited_s < STALL_WINDOW_S:
            return
        rate = self._moved / self._waited_s
        self._waited_s, self._moved = 0.0, 0
        if rate < LEAST_BYTES_PER_S:
            raise StalledError(f"it stalled at {rate:.0f} bytes a second over {STALL_WINDOW_S:.0f} s")


class _Watched(socket.socket):
    """A socket that meters itself, and that calling off the work wakes.

    HTTP reads through `recv_into` and writes through `sendall`; TLS sockets write through `send`, and TLS within TLS
    reads through `recv`.
    """

    meter: Meter | None = None

    def wake(self) -> None:
        """Make a blocked call of another thread return; the connection is dead afterwards."""
        with suppress(OSError):
            socket.socket.shutdown(self, socket.SHUT_RDWR)  # not TLS's own, which would let plain bytes through

    def recv_into(self, buffer: WriteableBuffer, nbytes: int | None = None, flags: int = 0) -> int:
        view = memoryview(buffer).cast("B")
        view = view[:nbytes] if nbytes else view
        meter = self.meter
        if meter is None:
            return super().recv_into(view, len(view), flags)
        since = meter.now()
        with Interruptible(self.wake):
            count = self._receive(view, flags)
        check_stopped()
        meter.received(count, since)
        return count

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        view = memoryview(bytearray(buflen))
        return bytes(view[: self.recv_into(view, flags=flags)])

    def _receive(self, buffer: memoryview, flags: int) -> int:
        return super().recv_into(buffer, len(buffer), flags)

    def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        meter = self.meter
        if meter is None:
            return super().send(data, flags)
        since = meter.now()
        with Interruptible(self.wake):
            count = self._transmit(data, flags)
        check_stopped()
        meter.sent(count, since)
        return count

    def _transmit(self, data: ReadableBuffer, flags: int) -> int:
        return super().send(data, flags)

    def sendall(self, data: ReadableBuffer, flags: int = 0) -> None:
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[self.send(rest, flags) :]


class WatchedSocket(_Watched):
    """A plain TCP socket under watch.

    The kernel keeps its time limit (socket(7), SO_RCVTIMEO): one call then moves a whole block, where a socket with
    a limit of Python's own moves what happens to be there, and asks for the interpreter in between.
    """

    _limit_s: float | None = None
    _is_quick = False

    def settimeout(self, value: float | None) -> None:
        """Set the limit for each call."""
        self._limit_s = value
        limit = b"" if value is None else struct.pack("@ll", int(value), int(value % 1 * 1_000_000) or not value)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self.setsockopt(socket.SOL_SOCKET, option, limit.ljust(struct.calcsize("@ll"), b"\0"))
        super().settimeout(None)

    def gettimeout(self) -> float | None:
        """Return the limit."""
        return self._limit_s

    def _receive(self, buffer: memoryview, flags: int) -> int:
        whole = socket.MSG_WAITALL if self._is_quick and len(buffer) >= BLOCK_BYTES else 0
        try:
            count = super()._receive(buffer, flags | whole)
        except BlockingIOError as error:
            raise TimeoutError("timed out") from error
        self._is_quick = count >= BLOCK_BYTES
        return count

    def _transmit(self, data: ReadableBuffer, flags: int) -> int:
        try:
            return super()._transmit(data, flags)
        except BlockingIOError as error:
            raise TimeoutError("timed out") from error


class WatchedTlsSocket(_Watched, ssl.SSLSocket):
    """A TLS socket under watch; a call gives one record, 16 KiB, so that a block takes many of them."""

    def _receive(self, buffer: memoryview, flags: int) -> int:
        count, began = super()._receive(buffer, flags), time.monotonic()
        while len(buffer) >= BLOCK_BYTES and 0 < count < len(buffer) and time.monotonic() - began < _SOON_S:
            more = super()._receive(buffer[count:], flags)
            count += more
            if not more:
                break
        return count


def tls_context(ca_files: tuple[str, ...] = ()) -> ssl.SSLContext:
    """Return a verifying client context: the system's roots (SSL_CERT_FILE, SSL_CERT_DIR) and `ca_files` added.

    Raises:
        UsageError: a file holds no certificate.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    for name in ca_files:
        try:
            context.load_verify_locations(cafile=name)
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(name, f"cannot be read as CA certificates ({reason})") from error
    context.sslsocket_class = WatchedTlsSocket
    return context
