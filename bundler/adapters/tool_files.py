"""Programs out of a cache or an archive, as files that can be run: written once, verified every time."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bundler.atomic import sync_folder
from bundler.domain.digest import Digest
from bundler.errors import DigestError, LocalResourceError

CHUNK_BYTES = 1 << 20


def tool_file(folder: Path, name: str, digest: Digest, content: Iterable[bytes | memoryview]) -> Path:
    """Return `folder/<digest>/<name>`, executable, after writing it from `content` unless it is there and right.

    Raises:
        DigestError: `content` is not what the digest names.
        LocalResourceError: the disk is full or not writable.
    """
    path = folder / digest.hex / name
    try:
        if not _is_right(path, digest):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write(path, digest, content)
    except OSError as error:
        raise LocalResourceError(str(path), f"cannot be written: {error.strerror}") from error
    return path


def _is_right(path: Path, digest: Digest) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest.hex
    except FileNotFoundError:
        return False


def _write(path: Path, digest: Digest, content: Iterable[bytes | memoryview]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    temporary, sha256 = Path(name), hashlib.sha256()
    try:
        with os.fdopen(handle, "wb") as file:
            for chunk in content:
                sha256.update(chunk)
                file.write(chunk)
            file.flush()
            os.fchmod(file.fileno(), 0o700)
            os.fsync(file.fileno())
        if sha256.hexdigest() != digest.hex:
            raise DigestError(path.name, f"is not the program that was pinned: sha256 is {sha256.hexdigest()}")
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
