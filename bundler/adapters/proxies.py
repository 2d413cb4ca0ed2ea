"""Proxies from the environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY), read once and explicitly."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from bundler.domain.credentials import Secret
from bundler.domain.url import Origin, Url
from bundler.errors import FormatError, UsageError

_FORM = "Write http://[USER:PASSWORD@]HOST[:PORT]."
_USERINFO = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:%@]*\Z")
"""What may stand in front of the host unescaped; helm and kubectl print the whole URL where anything else does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """One proxy; `userinfo` (`user:password`) only ever goes to it.

    Attributes:
        secrets: whatever of `userinfo` no message may show, as it is and as the variable spells it.
    """

    url: Url
    userinfo: Secret | None = None
    secrets: tuple[Secret, ...] = ()

    @classmethod
    def parse(cls, text: str, *, variable: str) -> Proxy:
        """Return the proxy in the text of an environment variable; `host:port` means http.

        Raises:
            UsageError: not the URL of a proxy.
        """
        text = text if "://" in text else f"http://{text}"
        scheme, _, rest = text.partition("://")
        userinfo, _, place = rest.rpartition("@")
        if not _USERINFO.match(userinfo):
            cause = "is not the URL of a proxy: its user name or password holds a character that has to be escaped"
            raise UsageError(variable, cause, hint="Write / as %2F, ? as %3F, # as %23, @ as %40, and so on.")
        try:
            url = Url.parse(f"{scheme}://{place}")
        except FormatError as error:
            raise UsageError(variable, f"is not the URL of a proxy: {error.cause}") from error
        if url.target != "/":
            raise UsageError(variable, "is not the URL of a proxy: something follows the host", hint=_FORM)
        return cls(url=url, userinfo=Secret(unquote(userinfo)) if userinfo else None, secrets=_secrets(userinfo))

    @property
    def headers(self) -> dict[str, str]:
        """What the proxy knows us by; for it and nobody else."""
        if self.userinfo is None:
            return {}
        return {"proxy-authorization": f"Basic {base64.b64encode(self.userinfo.reveal().encode()).decode()}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxies:
    """Which proxy serves which URL.

    Attributes:
        by_scheme: `http` and `https` -> proxy.
        exceptions: entries of NO_PROXY.
    """

    by_scheme: Mapping[str, Proxy] = field(default_factory=dict)
    exceptions: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Proxies:
        """Return what the variables say; lower case wins, as in curl."""
        found = {}
        for scheme in ("http", "https"):
            for variable in (f"{scheme}_proxy", f"{scheme}_proxy".upper()):
                if environ.get(variable):
                    found[scheme] = Proxy.parse(environ[variable], variable=variable)
                    break
        exceptions = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
        return cls(by_scheme=found, exceptions=tuple(e.strip().lower() for e in exceptions.split(",") if e.strip()))

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The texts that no message may show."""
        return tuple(secret for proxy in self.by_scheme.values() for secret in proxy.secrets)

    def of(self, origin: Origin) -> Proxy | None:
        """Return the proxy for an origin, None where it is reached directly; loopback always is."""
        proxy = self.by_scheme.get(origin.scheme)
        if proxy is None or _is_loopback(origin.host):
            return None
        if any(_covers(exception, origin) for exception in self.exceptions):
            return None
        return proxy


def _secrets(userinfo: str) -> tuple[Secret, ...]:
    """Password (or all, where there is none) and the whole, the longest first: one may be within another."""
    spelt = (userinfo, userinfo.partition(":")[2])
    texts = {text for one in spelt for text in (one, unquote(one)) if text}
    return tuple(Secret(text) for text in sorted(texts, key=lambda text: (-len(text), text)))


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _covers(exception: str, origin: Origin) -> bool:
    """Whether one entry of NO_PROXY (name, .suffix, address, network, each with or without port) is about `origin`."""
    if exception == "*":
        return True
    address = _address(origin.host)
    if address is not None and "/" in exception:
        return _in_network(address, exception)
    name, port = _split(exception)
    if port is not None and port != origin.port:
        return False
    suffix = name.removeprefix("*").removeprefix(".")
    return origin.host == suffix or (address is None and origin.host.endswith(f".{suffix}"))


def _split(exception: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(f"//[{exception}]" if exception.count(":") > 1 else f"//{exception}")
        name, port = parts.hostname or exception, parts.port
    except ValueError:
        return exception, None
    return name, port


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _in_network(address: ipaddress.IPv4Address | ipaddress.IPv6Address, network: str) -> bool:
    try:
        return address in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
