"""The users of `bundle serve`: an htpasswd file with bcrypt hashes, as docker-registry takes it (htpasswd -B)."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from bundler.errors import LocalResourceError, UsageError
from bundler.transfer import Once

MAX_FILE_BYTES = 1 << 20
MAX_PASSWORD_BYTES = 72
"""bcrypt looks at no more, and every maker of such files cuts there."""
_HASH = re.compile(rb"\$2[aby]\$(?P<cost>0[4-9]|1[0-9])\$[./A-Za-z0-9]{53}\Z")
_NOBODY = b"$2b$%b$" + b"." * 53
_HINT = "Make it with bcrypt: htpasswd -B -c FILE USER"


class Passwords:
    """Users and their hashes; safe for several threads at once.

    A hash is meant to be slow, so one is computed at a time, and what was right once is remembered under a key of
    this process. Somebody unknown takes as long as somebody with a wrong password.
    """

    def __init__(self, hashes: Mapping[bytes, bytes]) -> None:
        self._hashes = hashes
        self._key = secrets.token_bytes(32)
        self._right: dict[bytes, bytes] = {}
        self._turn = Once()
        self._nobody = _NOBODY % max((_cost(one) for one in hashes.values()), default=b"04")

    def allowed(self, user: str, password: str) -> bool:
        """Whether `user` has this password."""
        name, secret = user.encode(), password.encode()[:MAX_PASSWORD_BYTES]
        proof = hmac.digest(self._key, name + b"\0" + secret, hashlib.sha256)
        if hmac.compare_digest(self._right.get(name, b""), proof):
            return True
        with self._turn:
            right = _matches(secret, self._hashes.get(name, self._nobody)) and name in self._hashes
        if right:
            self._right[name] = proof
        return right


def _matches(password: bytes, hashed: bytes) -> bool:
    import bcrypt

    try:
        return bcrypt.checkpw(password, hashed)
    except ValueError:  # a password with a NUL, which no hash is of
        return False


def _cost(hashed: bytes) -> bytes:
    return hashed[4:6]


def load_passwords(path: Path) -> Passwords:
    """Read an htpasswd file; it is read once.

    Raises:
        UsageError: a line that is no `user:hash` with a bcrypt hash of a cost of at most 19, or no user at all.
        LocalResourceError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise LocalResourceError(str(path), f"cannot be read: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise UsageError(str(path), f"has over {MAX_FILE_BYTES} bytes, more than any honest htpasswd file", hint=_HINT)
    return Passwords(_parse(raw, str(path)))


def _parse(raw: bytes, source: str) -> dict[bytes, bytes]:
    """Return user -> hash; what stands in a line is in no message."""
    found: dict[bytes, bytes] = {}
    for number, line in enumerate(map(bytes.strip, raw.splitlines()), 1):
        if not line or line.startswith(b"#"):
            continue
        user, _, hashed = line.partition(b":")
        if not user or not _HASH.match(hashed):
            raise UsageError(source, f"line {number} is no user with a bcrypt hash", hint=_HINT)
        if found.setdefault(user, hashed) != hashed:
            raise UsageError(source, f"line {number} names a user a second time")
    if not found:
        raise UsageError(source, "names no user", hint=_HINT)
    return found
