"""What makes a registry of the lab behave like ECR, and the plain one that stands for upstream.

Sources: Amazon ECR User Guide (image-tag-mutability, blob-mounting, registry_auth, common-errors-docker), ECR API
Reference (PutImage, UploadLayerPart, CompleteLayerUpload), and where those are silent what users saw:
aws/containers-roadmap#2831 (Range after a chunk), apple/containerization#790 (416), openai/tart#273 (201 for a chunk),
deis/builder#426 and flipt-io/flipt#3043 (403 for an expired token), aws/containers-roadmap#2179 (immutable re-push).
"""

from __future__ import annotations

import base64
import binascii
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, Protocol

from bundler.domain.digest import Digest
from bundler.lab.http_server import Request
from bundler.lab.place import Place
from bundler.lab.registry_refusal import RegistryError
from bundler.lab.registry_store import RegistryStore, Repository, Upload

TOKEN_LIFE_S = 12 * 3600
MIN_PART_BYTES = 5 << 20
_EXPIRED = "Your authorization token has expired. Reauthenticate and try again."


@dataclass(slots=True, kw_only=True)
class EcrSettings:
    """What tests may change while the lab runs (`/_lab/settings`).

    Attributes:
        token_life_s: how long a token made from now on lives.
        expired_as: `text` (deis/builder#426) or `json` (flipt-io/flipt#3043): both forms were seen.
        same_digest: what an immutable tag does with the digest it already has: `accept` (PutImage reference:
            ImageAlreadyExistsException, nothing changes) or `refuse` (aws/containers-roadmap#2179).
        blob_mounting: the account setting BLOB_MOUNTING.
    """

    token_life_s: float = TOKEN_LIFE_S
    expired_as: Literal["text", "json"] = "text"
    same_digest: Literal["accept", "refuse"] = "accept"
    blob_mounting: bool = False


class Tokens:
    """Passwords for the user AWS that expire."""

    def __init__(self, settings: EcrSettings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._ends: dict[str, float] = {}
        self._lock = threading.Lock()

    def issue(self) -> tuple[str, float]:
        """Return a new password and the time (seconds since 1970) at which it ends."""
        token, ends = secrets.token_urlsafe(48), self._clock() + self._settings.token_life_s
        with self._lock:
            self._ends[token] = ends
        return token, ends

    def expire_all(self) -> None:
        """Let every password end now."""
        with self._lock:
            self._ends = dict.fromkeys(self._ends, 0.0)

    def state(self, token: str) -> Literal["valid", "expired", "unknown"]:
        """Return whether a password is good."""
        with self._lock:
            ends = self._ends.get(token)
        if ends is None:
            return "unknown"
        return "valid" if self._clock() < ends else "expired"


class RepositorySettings(Protocol):
    """What the ECR API says of a repository (moto's model object)."""

    image_tag_mutability: str
    image_tag_mutability_exclusion_filters: list[dict[str, str]] | None
    encryption_configuration: dict[str, str]


FindSettings = Callable[[str], RepositorySettings | None]


class EcrRules:
    """ECR: repositories are made by the API, tags may be immutable, tokens end, blobs are not shared."""

    service = "ecr.dkr"
    chunk_status = 201  # distribution-spec wants 202; ECR answers 201

    def __init__(
        self, place: Place, store: RegistryStore, *, settings: EcrSettings, tokens: Tokens, find: FindSettings
    ) -> None:
        self._store = store
        self._settings = settings
        self._tokens = tokens
        self._account = place.account
        self.host = place.registry_host
        self._find = find

    def authorize(self, request: Request) -> None:
        """Let requests with a living token of the user AWS pass."""
        user, password = _basic(request.headers.get("authorization", ""))
        state = self._tokens.state(password) if user == "AWS" else "unknown"
        if state == "expired":
            raise self.expired()
        if state == "unknown":
            error = RegistryError(401, "UNAUTHORIZED", "Not Authorized")
            error.plain = True
            error.headers["WWW-Authenticate"] = f'Basic realm="https://{self.host}/",service="ecr.amazonaws.com"'
            raise error

    def expired(self) -> RegistryError:
        """403 and not 401, without a challenge: clients that wait for a challenge never log in again."""
        error = RegistryError(403, "DENIED", _EXPIRED)
        error.plain = self._settings.expired_as == "text"
        return error

    def existing(self, name: str) -> Repository:
        """Return a repository that the API has made."""
        if self._find(name) is None:
            self._store.forget(name)
            message = f"The repository with name '{name}' does not exist in the registry with id '{self._account}'"
            raise RegistryError(404, "NAME_UNKNOWN", message)
        return self._store.repository(name)

    def target(self, name: str) -> Repository:
        """A push makes nothing: it needs what the API has made."""
        return self.existing(name)

    def check_tag(self, repository: Repository, tag: str, digest: Digest) -> None:
        """Refuse to move an immutable tag."""
        settings, held = self._find(repository.name), repository.tags.get(tag)
        if settings is None or held is None or not _is_immutable(settings, tag):
            return
        if held == digest and self._settings.same_digest == "accept":
            return
        message = (
            f"The image tag '{tag}' already exists in the '{repository.name}' repository and cannot be overwritten "
            "because the repository is immutable."
        )
        raise RegistryError(400, "TAG_INVALID", message)

    def check_upload(self, upload: Upload) -> None:
        """Refuse what CompleteLayerUpload refuses: nothing at all, or a part but the last below 5 MiB."""
        if upload.received == 0:
            message = "The specified layer upload does not contain any layer parts"
            raise RegistryError(400, "BLOB_UPLOAD_INVALID", message)
        if any(part < MIN_PART_BYTES for part in [part for part in upload.parts if part][:-1]):
            raise RegistryError(400, "BLOB_UPLOAD_INVALID", "Layer parts must be at least 5 MiB in size")

    def may_mount(self, source: str, target: str) -> bool:
        """Only with BLOB_MOUNTING=ENABLED, and only between repositories of equal encryption."""
        one, two = self._find(source), self._find(target)
        if not self._settings.blob_mounting or one is None or two is None:
            return False
        return one.encryption_configuration == two.encryption_configuration

    def offset(self, _upload: Upload, stated: int | None) -> int:
        """A chunk without Content-Range begins at byte 0, whatever came before."""
        return stated or 0

    def progress(self, upload: Upload) -> int:
        """The Range header stays at the end of the first chunk, although later ones are taken."""
        return upload.first_part

    def missing_blobs(self, repository: Repository, digests: list[Digest]) -> RegistryError:
        """LayersNotFound, in the API's words."""
        return RegistryError(404, "BLOB_UNKNOWN", f"Layers {self._required(repository, digests)}")

    def missing_children(self, repository: Repository, digests: list[Digest]) -> RegistryError:
        """ReferencedImagesNotFound, in the API's words."""
        return RegistryError(404, "MANIFEST_BLOB_UNKNOWN", f"Images {self._required(repository, digests)}")

    def _required(self, repository: Repository, digests: list[Digest]) -> str:
        listed = ", ".join(digest.text for digest in digests)
        return (
            f"with digests '[{listed}]' required for pushing image into repository with name '{repository.name}' "
            f"in the registry with id '{self._account}' do not exist"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """The user name and password that a plain registry asks for, by Basic or through a token (`bearer`)."""

    user: str
    password: str
    bearer: bool = False


class PlainRules:
    """A registry as Debian's docker-registry is one: it makes repositories by itself and keeps its word on ranges."""

    chunk_status = 202

    def __init__(self, store: RegistryStore, *, service: str = "source", login: Login | None = None) -> None:
        self.service = service
        self._store = store
        self._login = login
        self._bearers: set[str] = set()

    def authorize(self, request: Request) -> None:
        """Ask for the login, when there is one."""
        if self._login is None:
            return
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if self._login.bearer and scheme.lower() == "bearer" and value in self._bearers:
            return
        if not self._login.bearer and self.knows(request):
            return
        error = RegistryError(401, "UNAUTHORIZED", "authentication required")
        error.headers["WWW-Authenticate"] = self._challenge(request)
        raise error

    def _challenge(self, request: Request) -> str:
        if self._login is None or not self._login.bearer:
            return 'Basic realm="lab"'
        return f'Bearer realm="http://{request.headers.get("host", "127.0.0.1")}/token",service="lab"'

    def knows(self, request: Request) -> bool:
        """Whether the request carries the login as Basic."""
        wanted = (self._login.user, self._login.password) if self._login is not None else None
        return _basic(request.headers.get("authorization", "")) == wanted

    def bearer(self) -> str:
        """Return a new bearer token."""
        token = secrets.token_urlsafe(32)
        self._bearers.add(token)
        return token

    def expired(self) -> RegistryError:
        """401, as docker-registry answers."""
        return RegistryError(401, "UNAUTHORIZED", "authentication required")

    def existing(self, name: str) -> Repository:
        """Return a repository that was pushed to."""
        if name not in self._store.repositories:
            raise RegistryError(404, "NAME_UNKNOWN", "repository name not known to registry", detail={"name": name})
        return self._store.repository(name)

    def target(self, name: str) -> Repository:
        """A push makes the repository."""
        return self._store.repository(name)

    def check_tag(self, repository: Repository, tag: str, digest: Digest) -> None:
        """Tags move freely."""

    def check_upload(self, upload: Upload) -> None:
        """Any session makes a blob."""

    def may_mount(self, _source: str, _target: str) -> bool:
        """Blobs are shared."""
        return True

    def offset(self, upload: Upload, stated: int | None) -> int:
        """A chunk without Content-Range goes on where the last one ended."""
        return upload.received if stated is None else stated

    def progress(self, upload: Upload) -> int:
        """All that came."""
        return upload.received

    def missing_blobs(self, _repository: Repository, digests: list[Digest]) -> RegistryError:
        """The one code for blobs and children."""
        detail = {"Digest": digests[0].text}
        return RegistryError(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry", detail=detail)

    def missing_children(self, repository: Repository, digests: list[Digest]) -> RegistryError:
        """Return the same as for blobs."""
        return self.missing_blobs(repository, digests)


def _is_immutable(settings: RepositorySettings, tag: str) -> bool:
    mode = settings.image_tag_mutability
    excluded = any(fnmatchcase(tag, item["filter"]) for item in settings.image_tag_mutability_exclusion_filters or [])
    return excluded if mode.startswith("MUTABLE") else not excluded


def _basic(header: str) -> tuple[str, str]:
    scheme, _, value = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password
