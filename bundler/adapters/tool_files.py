"""Programs out of a cache or an archive, as files that can be run: written once, verified every time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from bundler.atomic import publish_stream
from bundler.domain.digest import Digest
from bundler.errors import DigestError, LocalResourceError


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
            publish_stream(path, _checked(content, digest, name), mode=0o700)
    except OSError as error:
        raise LocalResourceError(str(path), f"cannot be written: {error.strerror}") from error
    return path


def _is_right(path: Path, digest: Digest) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest.hex
    except FileNotFoundError:
        return False


def _checked(content: Iterable[bytes | memoryview], digest: Digest, name: str) -> Iterator[bytes | memoryview]:
    sha256 = hashlib.sha256()
    for chunk in content:
        sha256.update(chunk)
        yield chunk
    if sha256.hexdigest() != digest.hex:
        raise DigestError(name, f"is not the program that was pinned: sha256 is {sha256.hexdigest()}")
