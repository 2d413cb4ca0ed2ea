"""http and https URLs, in the one plain form that every parser reads alike."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from bundler.errors import FormatError

MOST_CHARACTERS = 8192
_PLAIN = re.compile(rf"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]{{1,{MOST_CHARACTERS}}}\Z")
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9\-_~:][A-Za-z0-9\-._~:]*)+(?:\?[A-Za-z0-9\-._~:/?@!$&'()*+,;=%]+)?\Z")
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62})?(?:\.[A-Za-z0-9_-]{1,63})*\.?"
_AUTHORITY = re.compile(rf"(?P<host>{_HOST}|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{{1,5}}))?\Z")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """Scheme, host and port: what credentials are bound to."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """`host`, or `host:port` where the port is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


@dataclass(frozen=True, slots=True)
class Url:
    """An absolute URL without user name and fragment. `target` is path and query, beginning with a slash."""

    origin: Origin
    target: str

    @classmethod
    def parse(cls, text: str) -> Url:
        """Return the URL that `text` spells.

        Raises:
            FormatError: not http or https, a user name or password in it, or characters that parsers disagree about.
        """
        if not _PLAIN.match(text):
            raise FormatError(_safe(text), "is not a URL")
        try:
            parts = urlsplit(text)
        except ValueError as error:
            raise FormatError(_safe(text), "is not a URL") from error
        if parts.scheme not in _DEFAULT_PORTS:
            raise FormatError(_safe(text), "is neither http nor https")
        if "@" in parts.netloc:
            raise FormatError(_safe(text), "holds a user name or password, which belong into a credential store")
        match = _AUTHORITY.match(parts.netloc)
        port = int(match["port"] or _DEFAULT_PORTS[parts.scheme]) if match else 0
        if match is None or not 0 < port < 65536:
            raise FormatError(_safe(text), "names no host")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(Origin(parts.scheme, match["host"].strip("[]").lower(), port), target)

    def join(self, location: str) -> Url:
        """Return the URL that a Location header with this text means here.

        Raises:
            FormatError: not a URL.
        """
        if len(location) <= MOST_CHARACTERS and _PLAIN_PATH.match(
            location
        ):  # what registries send for each upload: the rest of this is slow
            return Url(self.origin, location)
        if not _PLAIN.match(location):
            raise FormatError(_safe(location), "is not a URL")
        return Url.parse(urljoin(str(self), location))

    @property
    def path(self) -> str:
        """The path, without the query."""
        return self.target.partition("?")[0]

    @property
    def shown(self) -> str:
        """For messages: without the query, which may hold a signature or a token."""
        return f"{self.origin}{self.path}"

    def __str__(self) -> str:
        return f"{self.origin}{self.target}"


def _safe(text: str) -> str:
    """A URL for messages: no user name, no query, nothing that moves a cursor.

    A password may hold what ends a host: everything in front of the last `@` counts as one.
    """
    _, at, rest = text.rpartition("@")
    return repr((f"…{at}" if at else "") + rest.partition("?")[0][:200])
