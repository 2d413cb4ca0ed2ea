"""The proxy of a site whose network profile is `proxy`; a site without one is closed."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints

from bundler.domain.schema import Strict

MAX_BYPASSES = 100
_PLAIN_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45}")


def is_plain_host(host: str) -> bool:
    """Return whether a name or an address is made of letters, digits, dots, hyphens and colons alone."""
    return _PLAIN_HOST.fullmatch(host) is not None


def _proxy_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user name or password: user data is readable by every pod that reaches IMDS")
    plain = parts.hostname is not None and is_plain_host(parts.hostname)
    if parts.scheme not in ("http", "https") or not plain or parts.path not in ("", "/") or parts.query:
        raise ValueError("must be http://HOST:PORT and nothing more")
    if not parts.port:  # reading it also refuses what is no port
        raise ValueError("must have a port from 1 to 65535")
    return url.rstrip("/")


ProxyUrl = Annotated[
    str, StringConstraints(max_length=300, pattern=r"^https?://[A-Za-z0-9.:@\[\]-]+/?$"), AfterValidator(_proxy_url)
]
Bypass = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:/-]{1,253}$")]


class Proxy(Strict):
    """How nodes reach what has no VPC endpoint.

    The cluster, its Services, IMDS and the Region's endpoints are never asked through it, whatever stands here.
    """

    https_proxy: ProxyUrl
    http_proxy: ProxyUrl | None = None
    no_proxy: tuple[Bypass, ...] = Field(
        default=(), max_length=MAX_BYPASSES, description="further hosts, .domains and networks, such as the VPC's"
    )
