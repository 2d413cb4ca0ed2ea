"""Image references, `registry/repository[:tag][@digest]` (grammar of distribution/reference, Docker's defaults)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from bundler.domain.digest import Digest
from bundler.domain.url import Url
from bundler.errors import FormatError

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:(?P<host>{_HOST})/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?\Z"
)
_WHOLE_HOST = re.compile(rf"{_HOST}\Z")
_WHOLE_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_MAX_NAME = 255
DOCKER_HUB = "docker.io"


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Reference:
    """A complete image reference: the registry is always named, tag and digest are each present or None."""

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Return the reference that `text` spells, with Docker's defaults: docker.io, and `latest` where nothing pins.

        Raises:
            FormatError: not a reference.
        """
        match = _REFERENCE.match(text)
        if match is None or len(text) > 2 * _MAX_NAME:
            raise FormatError(repr(text[:200]), "is not an image reference")
        host, path = _split_host(match["host"], match["path"])
        if path != path.lower():
            raise FormatError(repr(text[:200]), "is not an image reference: a repository is written in lower case")
        if not is_host(host):
            raise FormatError(repr(text[:200]), f"is not an image reference: no registry can be at {host[:100]}")
        if len(host) + 1 + len(path) > _MAX_NAME:
            raise FormatError(repr(text[:200]), f"has a name of over {_MAX_NAME} characters")
        digest = Digest.parse(match["digest"]) if match["digest"] else None
        tag = match["tag"] or (None if digest else "latest")
        return cls(registry=host, repository=path, tag=tag, digest=digest)

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def tagged(self) -> str:
        """`registry/repository:tag`, without the digest; the bare name where there is no tag."""
        return self.name if self.tag is None else f"{self.name}:{self.tag}"

    def pinned(self, digest: Digest) -> Reference:
        """Return the same reference with `digest`."""
        return replace(self, digest=digest)

    def __str__(self) -> str:
        return self.tagged if self.digest is None else f"{self.tagged}@{self.digest}"


def is_host(text: str) -> bool:
    """Whether `text` is `host` or `host:port` of a registry that can be asked: a port in range, an address that is."""
    if not _WHOLE_HOST.match(text):
        return False
    try:
        Url.parse(f"https://{text}")
    except FormatError:
        return False
    return True


def is_repository(text: str) -> bool:
    """Whether `text` is a path of repositories, or a prefix of one."""
    return _WHOLE_PATH.match(text) is not None


def _split_host(host: str | None, path: str) -> tuple[str, str]:
    """Tell a registry from a first path component: a registry has a dot, a port or is localhost."""
    if host is not None and not ("." in host or ":" in host or host == "localhost"):
        host, path = None, f"{host}/{path}"
    if host is None or host in ("index.docker.io", "registry-1.docker.io"):
        host = DOCKER_HUB
    if host == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    return host, path
