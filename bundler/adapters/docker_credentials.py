"""Credentials that docker, podman and skopeo keep: configuration files and credential helpers."""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from bundler.adapters.process import run
from bundler.domain.credentials import Credentials, Secret
from bundler.domain.reference import DOCKER_HUB
from bundler.errors import AccessError
from bundler.transfer import Once

MAX_FILE_BYTES = 1 << 20
MAX_HELPER_OUTPUT_BYTES = 1 << 20
HELPER_TIMEOUT_S = 30.0
HELPER_NOT_FOUND = b"credentials not found in native keychain"
TOKEN_USER = "<token>"  # noqa: S105 - the word by which helpers say that the secret is an identity token

_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_HUB_NAMES = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})
_HUB_SERVER = "https://index.docker.io/v1/"


class DockerCredentials:
    """Looks in REGISTRY_AUTH_FILE, `$XDG_RUNTIME_DIR/containers/auth.json`, then DOCKER_CONFIG or `~/.docker`.

    The first file that knows a host decides. What was found is kept until `refresh`.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._known: dict[str, Credentials | None] = {}
        self._looking = Once()

    def credentials(self, host: str) -> Credentials | None:
        """Return what the files or a helper hold for `host`.

        Raises:
            AccessError: a file or a helper's answer cannot be understood.
            MissingToolError: the helper that a file names is not installed.
        """
        with self._looking:
            if host not in self._known:
                self._known[host] = self._look(host)
            return self._known[host]

    def refresh(self, host: str) -> None:
        """Forget what was found, so that the next question reads again."""
        with self._looking:
            self._known.pop(host, None)

    def _look(self, host: str) -> Credentials | None:
        for path in self._paths():
            found = self._in_file(path, host)
            if found is not None:
                return found
        return None

    def _paths(self) -> Iterator[Path]:
        environ = self._environ
        if environ.get("REGISTRY_AUTH_FILE"):
            yield Path(environ["REGISTRY_AUTH_FILE"])
        if environ.get("XDG_RUNTIME_DIR"):
            yield Path(environ["XDG_RUNTIME_DIR"]) / "containers" / "auth.json"
        if environ.get("DOCKER_CONFIG"):
            yield Path(environ["DOCKER_CONFIG"]) / "config.json"
        elif environ.get("HOME"):
            yield Path(environ["HOME"]) / ".docker" / "config.json"

    def _in_file(self, path: Path, host: str) -> Credentials | None:
        config = _read(path)
        helpers = _mapping(config.get("credHelpers"))
        helper = next((value for key, value in helpers.items() if _same_host(key, host)), None)
        if helper is not None:
            return self._from_helper(helper, host, path)
        for key, value in _mapping(config.get("auths")).items():
            entry = _mapping(value)
            if _same_host(key, host) and entry:
                return _from_entry(entry, subject=f"{path}: {key}")
        store = config.get("credsStore")
        return self._from_helper(store, host, path) if store else None

    def _from_helper(self, name: object, host: str, path: Path) -> Credentials | None:
        if not isinstance(name, str) or not _HELPER.match(name):
            raise AccessError(str(path), f"names the credential helper {name!r:.80}, which is not a name")
        program = f"docker-credential-{name}"
        server = _HUB_SERVER if host in _HUB_NAMES else host
        done = run(
            [program, "get"],
            timeout_s=HELPER_TIMEOUT_S,
            input=server.encode(),
            env=self._environ,
            max_output_bytes=MAX_HELPER_OUTPUT_BYTES,
        )
        if done.returncode != 0:
            if HELPER_NOT_FOUND in done.stdout.lower():
                return None
            raise AccessError(
                host, f"{program} ended with {done.returncode}", hint=f"Try it: echo {server} | {program} get"
            )
        return _from_answer(done.stdout, subject=f"{program} ({host})")


def _read(path: Path) -> Mapping[str, object]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise AccessError(str(path), f"cannot be read: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise AccessError(str(path), f"is larger than {MAX_FILE_BYTES} bytes")
    return _object(raw, subject=str(path)) if raw.strip() else {}


def _object(raw: bytes, *, subject: str) -> Mapping[str, object]:
    """Return a JSON object; what stands in it is never repeated in an error."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise AccessError(subject, "is not JSON") from None
    if not isinstance(value, dict):
        raise AccessError(subject, "is not a JSON object")
    return value


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _same_host(key: str, host: str) -> bool:
    """Whether a key of a file (`host`, `host:port`, or such a URL as Docker Hub has) is about the whole of `host`."""
    try:
        parts = urlsplit(key if "://" in key else f"//{key}")
    except ValueError:
        return False
    if parts.path.strip("/") not in ("", "v1", "v2"):
        return False
    name = parts.netloc.lower()
    return name == host.lower() or (name in _HUB_NAMES and host in _HUB_NAMES)


def _from_entry(entry: Mapping[str, object], *, subject: str) -> Credentials | None:
    token = entry.get("identitytoken")
    if isinstance(token, str) and token:
        return Credentials(username="", password=Secret(token), is_identity_token=True)
    username, password = entry.get("username"), entry.get("password")
    if isinstance(username, str) and isinstance(password, str) and username:
        return Credentials(username=username, password=Secret(password))
    auth = entry.get("auth")
    if not isinstance(auth, str) or not auth:
        return None
    try:
        pair = b64decode(auth, validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        raise AccessError(subject, "auth is not base64 text") from None
    username, colon, password = pair.partition(":")
    if not colon or not username:
        raise AccessError(subject, "auth is not a user name and a password")
    return Credentials(username=username, password=Secret(password.rstrip("\0")))


def _from_answer(raw: bytes, *, subject: str) -> Credentials:
    answer = _object(raw, subject=subject)
    username, secret = answer.get("Username"), answer.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str) or not secret:
        raise AccessError(subject, "the answer holds no user name and secret")
    if username == TOKEN_USER:
        return Credentials(username="", password=Secret(secret), is_identity_token=True)
    return Credentials(username=username, password=Secret(secret))
