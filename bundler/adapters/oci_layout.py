"""OCI image layouts, as a folder or in one tar (skopeo's `oci:` and `oci-archive:`, ours)."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from bundler.adapters.content import Checked
from bundler.adapters.tar_index import open_tar
from bundler.domain.digest import Digest
from bundler.domain.oci import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_MANIFEST_BYTES,
    Descriptor,
    Index,
    Manifest,
    parse_descriptor,
    parse_manifest,
    parse_strict_json,
)
from bundler.domain.reference import Reference
from bundler.errors import DigestError, FormatError, LimitError, LocalResourceError, NotFoundUpstreamError
from bundler.ports import Sink

CHUNK_BYTES = 1 << 20
MAX_ENTRIES = 10_000
NAME_ANNOTATIONS = ("org.opencontainers.image.ref.name", "io.containerd.image.name")


class OciLayout:
    """A layout; `path` is a folder or a tar."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: _Files | None = None

    def manifest(self, reference: Reference) -> Manifest | Index:
        """Return the manifest by digest where the reference has one, else by the name in index.json.

        Raises:
            NotFoundUpstreamError: the layout has no such image.
            DigestError: it is not what its digest says.
        """
        digest, stated = reference.digest, None
        if digest is None:
            entry = self._entry(reference)
            digest, stated = entry.digest, entry.media_type
        raw = self._files().read(_blob_name(digest), limit=MAX_MANIFEST_BYTES)
        if Digest.of(raw) != digest:
            raise DigestError(f"{self._path} ({reference})", f"holds {Digest.of(raw)} under the name {digest}")
        return parse_manifest(raw, subject=str(reference), media_type=stated)

    def read_blob(self, name: Reference, blob: Descriptor, sink: Sink, *, restart: Callable[[], None]) -> None:
        """Send a blob's bytes to `sink`, verified.

        Raises:
            DigestError: it is not what its digest says; asking again would not change that.
        """
        del restart
        checked = Checked(blob, subject=f"{self._path} ({name.name}@{blob.digest})")
        for piece in self._files().pieces(_blob_name(blob.digest)):
            checked.add(memoryview(piece))
            sink(memoryview(piece))
        checked.finish()

    def _entry(self, reference: Reference) -> Descriptor:
        """Return the entry of index.json that bears the reference's full name, or else its tag alone."""
        entries = self._entries()
        for wanted in (reference.tagged, reference.tag):
            for entry in entries:
                if wanted in [_full(entry.annotations.get(key), wanted) for key in NAME_ANNOTATIONS]:
                    return entry
        names = [entry.annotations.get(NAME_ANNOTATIONS[0], str(entry.digest)) for entry in entries[:20]]
        raise NotFoundUpstreamError(str(reference), f"{self._path} holds {', '.join(names) or 'no image'}")

    def _entries(self) -> list[Descriptor]:
        subject = f"{self._path}: index.json"
        document = parse_strict_json(self._files().read("index.json", limit=MAX_MANIFEST_BYTES), subject=subject)
        entries = document.get("manifests") if isinstance(document, dict) else None
        if not isinstance(entries, list):
            raise FormatError(subject, "has no list of manifests")
        if len(entries) > MAX_ENTRIES:
            raise LimitError(subject, f"lists {len(entries)} manifests; at most {MAX_ENTRIES} are allowed")
        found = [parse_descriptor(entry, subject=subject) for entry in entries]
        return [entry for entry in found if entry.media_type in INDEX_TYPES | MANIFEST_TYPES]

    def _files(self) -> _Files:
        if self._opened is None:
            files = _Folder(self._path) if self._path.is_dir() else self._tar()
            self._check_version(files)
            self._opened = files
        return self._opened

    def _tar(self) -> _Files:
        archive = open_tar(self._path)
        weakref.finalize(self, archive.close)
        return archive

    def _check_version(self, files: _Files) -> None:
        try:
            raw = files.read("oci-layout", limit=1 << 16)
        except NotFoundUpstreamError as error:
            raise FormatError(str(self._path), "is not an OCI image layout: it holds no oci-layout") from error
        document = parse_strict_json(raw, subject=f"{self._path}: oci-layout")
        version = document.get("imageLayoutVersion") if isinstance(document, dict) else None
        if version != "1.0.0":
            raise FormatError(str(self._path), f"is an OCI image layout of version {version!r:.40}")


class _Files(Protocol):
    """Files by name, wherever they stand."""

    def read(self, name: str, *, limit: int) -> bytes: ...

    def pieces(self, name: str) -> Iterator[bytes]: ...


class _Folder:
    """Files below a folder; names are ours (index.json, blobs/sha256/<hex>), links are not followed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str, *, limit: int) -> bytes:
        parts, count = [], 0
        for piece in self.pieces(name):
            count += len(piece)
            if count > limit:
                raise LimitError(str(self._folder / name), f"is longer than {limit} bytes")
            parts.append(piece)
        return b"".join(parts)

    def pieces(self, name: str) -> Iterator[bytes]:
        path = self._folder / name
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                while piece := file.read(CHUNK_BYTES):
                    yield piece
        except FileNotFoundError as error:
            raise NotFoundUpstreamError(str(path), "does not exist") from error
        except OSError as error:
            raise LocalResourceError(str(path), f"cannot be read: {error.strerror}") from error


def _blob_name(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"


def _full(name: str | None, wanted: str | None) -> str | None:
    """Return a name of index.json in its full form, so that `busybox:1` names docker.io/library/busybox:1."""
    if name is None or name == wanted:
        return name
    try:
        return Reference.parse(name).tagged if ":" in name or "/" in name else name
    except FormatError:
        return name
