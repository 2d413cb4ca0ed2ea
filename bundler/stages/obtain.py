"""Pinned files of the definition (tools and others) -> blobs in the cache, with the digests that were asked for."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

from bundler.cache import CHUNK_BYTES, Cache
from bundler.domain.blob import Blob
from bundler.domain.definition import Definition, PinnedFile, Tool
from bundler.domain.digest import Digest
from bundler.domain.lock import LockedFile, LockedTool
from bundler.errors import DefinitionError, DigestError, FormatError, LimitError, LocalResourceError
from bundler.ports import UrlSource

MEDIA_TYPE = "application/octet-stream"
MAX_MEMBER_BYTES = 1 << 30


def obtain(
    definition: Definition, *, folder: Path, cache: Cache, urls: UrlSource
) -> tuple[tuple[LockedTool, ...], tuple[LockedFile, ...]]:
    """Return the tools (of the operator platforms) and files of the definition, their bytes in the cache.

    Args:
        definition: what is asked for.
        folder: relative paths start here (the definition's folder).
        cache: where the bytes go; what it already holds is not read again.
        urls: reads the files that are given by URL.

    Raises:
        DigestError: a file is not what its sha256 pins.
        DefinitionError: a path does not exist.
        NotFoundUpstreamError: a URL does not exist.
    """
    tools = [
        LockedTool(
            name=name,
            version=tool.version,
            platform=platform,
            content=obtain_one(tool.platforms[platform], folder=folder, cache=cache, urls=urls),
        )
        for name, tool in _tools(definition)
        for platform in sorted(definition.operator_platforms)
    ]
    files = [
        LockedFile(
            name=file.name,
            purpose=file.purpose,
            content=obtain_one(file, folder=folder, cache=cache, urls=urls),
        )
        for file in sorted(definition.files, key=lambda file: file.name)
    ]
    return tuple(tools), tuple(files)


def _tools(definition: Definition) -> tuple[tuple[Literal["helm", "kubectl"], Tool], ...]:
    return ("helm", definition.tools.helm), ("kubectl", definition.tools.kubectl)


def obtain_one(pinned: PinnedFile, *, folder: Path, cache: Cache, urls: UrlSource) -> Blob:
    """Return one pinned file (or its `member`), its bytes in the cache.

    Raises:
        DigestError: the file is not what its sha256 pins.
        DefinitionError: the path, or the member, does not exist.
    """
    if not _is_cached(cache, pinned.digest):
        chunks = urls.stream(pinned.url) if pinned.url is not None else _read(folder / str(pinned.path))
        try:
            cache.add(chunks, expect=pinned.digest)
        except DigestError as error:
            raise DigestError(
                str(pinned.url or pinned.path),
                f"is not the file that the definition pins:\n{error.cause}\nthe definition says {pinned.digest}",
                hint="Check where the file comes from; only then correct sha256 in the definition.",
            ) from error
    if pinned.member is not None:
        return _extract(pinned, cache)
    return Blob(media_type=MEDIA_TYPE, digest=pinned.digest, size=cache.path(pinned.digest).stat().st_size)


def _is_cached(cache: Cache, digest: Digest) -> bool:
    """Whether the cache holds the blob undamaged; a damaged one is dropped on the way."""
    if not cache.has(digest):
        return False
    try:
        for _ in cache.read(digest):
            pass
    except DigestError:
        return False
    return True


def _read(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except FileNotFoundError as error:
        raise DefinitionError(str(path), "does not exist", hint="Put the file there, or correct the path.") from error
    except OSError as error:
        raise LocalResourceError(str(path), f"cannot be read: {error.strerror}") from error


def _extract(pinned: PinnedFile, cache: Cache) -> Blob:
    """Take one regular file out of a pinned .tar.gz; nothing is ever written under a name from the tar."""
    subject = f"{pinned.url or pinned.path} ({pinned.member})"
    try:
        with tarfile.open(cache.path(pinned.digest), mode="r:*") as archive:
            info = archive.getmember(str(pinned.member))
            if not info.isreg() or info.issparse() or archive.fileobj is None:
                raise FormatError(subject, "is not a regular file")
            if info.size > MAX_MEMBER_BYTES:
                raise LimitError(subject, f"has {info.size} bytes; at most {MAX_MEMBER_BYTES} are allowed")
            archive.fileobj.seek(info.offset_data)
            digest, size = cache.add(_stretch(archive.fileobj, info.size))
    except KeyError:
        raise DefinitionError(subject, "the archive has no such member", hint="Correct `member`.") from None
    except (tarfile.TarError, EOFError, OSError) as error:
        raise FormatError(subject, f"cannot be read as a tar archive ({error})") from error
    return Blob(media_type=MEDIA_TYPE, digest=digest, size=size)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _stretch(file: _Readable, size: int) -> Iterator[bytes]:
    """Yield the next `size` bytes."""
    while size:
        chunk = file.read(min(CHUNK_BYTES, size))
        if not chunk:
            raise EOFError("it ends within the member")
        size -= len(chunk)
        yield chunk
