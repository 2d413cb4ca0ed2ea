"""`registries.yaml`: where upstream hosts are really asked on the connected side, as corporate proxies need.

    registry.k8s.io:
      url: https://mirror.example.com/registry.k8s.io
      caFile: corporate.pem
      realms: [https://login.example.com]

Nothing of this file enters lock, archive or evidence: there, the upstream name stands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bundler.adapters.documents import read_document
from bundler.domain.document import Document
from bundler.domain.reference import DOCKER_HUB
from bundler.domain.url import Origin, Url
from bundler.errors import DefinitionError, FormatError, UsageError

_KEYS = frozenset({"url", "caFile", "realms"})
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[0-9]{1,5})?\Z")
_PREFIX = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*\Z")
_LOOPBACK = re.compile(r"(?:localhost|127\.[0-9.]+|\[::1\])(?::[0-9]+)?\Z")
_OWN_ADDRESS = {DOCKER_HUB: "registry-1.docker.io"}
_OWN_REALMS = {
    DOCKER_HUB: "https://auth.docker.io",
    "registry.gitlab.com": "https://gitlab.com",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where one upstream host is asked.

    Attributes:
        host: the upstream name, as references and definitions have it.
        origin: scheme, host and port that are asked.
        prefix: path in front, without slashes at its ends; empty for none.
        realms: token servers that credentials may go to, besides the origin itself.
        ca_files: trusted in addition, for this host.
        login: the name that credentials are looked up under.
    """

    host: str
    origin: Origin
    prefix: str = ""
    realms: frozenset[Origin] = frozenset()
    ca_files: tuple[str, ...] = ()
    login: str = ""

    def repository(self, name: str) -> str:
        """Return the name that an upstream repository has there."""
        return f"{self.prefix}/{name}" if self.prefix else name


@dataclass(frozen=True, slots=True, kw_only=True)
class Registries:
    """The endpoints of all hosts: those of the file, and every other host under its own name."""

    mapped: Mapping[str, Endpoint] = field(default_factory=dict)

    def endpoint(self, host: str) -> Endpoint:
        """Return where `host` (`host` or `host:port`) is asked; loopback speaks plain HTTP unless mapped.

        Raises:
            FormatError: not a host.
        """
        if host in self.mapped:
            return self.mapped[host]
        scheme = "http" if _LOOPBACK.match(host) else "https"
        origin = Url.parse(f"{scheme}://{_OWN_ADDRESS.get(host, host)}").origin
        realms = frozenset({Url.parse(_OWN_REALMS[host]).origin}) if host in _OWN_REALMS else frozenset()
        return Endpoint(host=host, origin=origin, realms=realms, login=host)

    def locate(self, url: str) -> tuple[Url, Endpoint]:
        """Return where an upstream http(s) URL (of a chart repository, a tool, a file) is really asked.

        Raises:
            FormatError: not a URL.
        """
        parsed = Url.parse(url)
        endpoint = self.mapped.get(parsed.origin.authority)
        if endpoint is None:
            return parsed, Endpoint(host=parsed.origin.host, origin=parsed.origin, login=parsed.origin.authority)
        front = f"/{endpoint.prefix}" if endpoint.prefix else ""
        return Url(endpoint.origin, front + parsed.target), endpoint


def load_registries(environ: Mapping[str, str]) -> Registries:
    """Return the registries of the file BUNDLE_REGISTRIES, else of `eks-bundler/registries.yaml` in XDG_CONFIG_HOME.

    Raises:
        UsageError: BUNDLE_REGISTRIES names no file.
        DefinitionError: the file is wrong.
    """
    named = environ.get("BUNDLE_REGISTRIES")
    if named and not Path(named).is_file():
        raise UsageError("BUNDLE_REGISTRIES", f"names {named}, which is not a file")
    path = Path(named) if named else _default_path(environ)
    if path is None or not path.is_file():
        return Registries()
    return parse_registries(read_document(path), folder=path.parent)


def _default_path(environ: Mapping[str, str]) -> Path | None:
    home = environ.get("HOME")
    base = environ.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else None)
    return Path(base) / "eks-bundler" / "registries.yaml" if base else None


def parse_registries(document: Document, *, folder: Path) -> Registries:
    """Return the registries in a document; relative CA files start in `folder`.

    Raises:
        DefinitionError: with file:line:column.
    """
    if not isinstance(document.value, dict):
        raise DefinitionError(document.where(()), "is not a mapping of host names")
    found = {host: _Entry(document, host, folder).endpoint() for host in document.value}
    return Registries(mapped=found)


class _Entry:
    """One host of the file."""

    def __init__(self, document: Document, host: str, folder: Path) -> None:
        self._document = document
        self._host = host
        self._folder = folder
        value = document.value[host] if isinstance(document.value, dict) else None
        if not isinstance(value, dict):
            raise self._error("is not a mapping with url, caFile and realms")
        self._fields: dict[str, object] = value

    def endpoint(self) -> Endpoint:
        if not _HOST.match(self._host):
            raise self._error("is not a host name")
        unknown = next((key for key in self._fields if key not in _KEYS), None)
        if unknown is not None:
            raise self._error(f"has no key {unknown!r}; known are url, caFile and realms", unknown)
        own = Registries().endpoint(self._host)
        url = self._url(self._text("url") if "url" in self._fields else str(own.origin), "url")
        prefix = url.path.strip("/")
        if "?" in url.target or (prefix and not _PREFIX.match(prefix)):
            raise self._error("the path of the url is not a prefix of repository names", "url")
        return Endpoint(
            host=self._host,
            origin=url.origin,
            prefix=prefix,
            realms=self._realms() | (own.realms if url.origin == own.origin else frozenset()),
            ca_files=self._ca_files(),
            login=url.origin.authority if "url" in self._fields else own.login,
        )

    def _realms(self) -> frozenset[Origin]:
        value = self._fields.get("realms", [])
        if not isinstance(value, list):
            raise self._error("is not a list of URLs", "realms")
        return frozenset(self._url(item, "realms", number).origin for number, item in enumerate(value))

    def _ca_files(self) -> tuple[str, ...]:
        if "caFile" not in self._fields:
            return ()
        path = self._folder / self._text("caFile")
        if not path.is_file():
            raise self._error(f"{path} is not a file", "caFile")
        return (str(path),)

    def _text(self, key: str) -> str:
        value = self._fields.get(key)
        if not isinstance(value, str) or not value:
            raise self._error(f"{key} is missing" if value is None else f"{key} is not text", key)
        return value

    def _url(self, value: object, *path: str | int) -> Url:
        try:
            return Url.parse(value if isinstance(value, str) else "")
        except FormatError as error:
            raise self._error(f"{error.subject} {error.cause}", *path) from error

    def _error(self, cause: str, *path: str | int) -> DefinitionError:
        return DefinitionError(self._document.where((self._host, *path)), f"{self._host}: {cause}")
