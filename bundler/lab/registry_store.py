"""What a registry of the lab holds: blobs as files named by digest, repositories and tags in memory."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bundler.domain.digest import Digest
from bundler.domain.oci import INDEX_TYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredManifest:
    """A manifest or index exactly as it was pushed."""

    raw: bytes
    media_type: str
    pushed_at: dt.datetime

    @property
    def digest(self) -> Digest:
        """SHA-256 of the pushed bytes."""
        return Digest.of(self.raw)

    @property
    def document(self) -> dict[str, object]:
        """The parsed JSON."""
        value = json.loads(self.raw)
        return value if isinstance(value, dict) else {}

    @property
    def is_index(self) -> bool:
        """Whether this names manifests and not layers."""
        return self.media_type in INDEX_TYPES or "manifests" in self.document

    @property
    def layer_bytes(self) -> int:
        """Compressed size as ECR states it: all layers (0 for an index)."""
        layers = self.document.get("layers", [])
        return sum(int(layer.get("size", 0)) for layer in layers) if isinstance(layers, list) else 0


@dataclass(slots=True, kw_only=True)
class Repository:
    """One repository: its tags, its manifests, and the blobs that belong to it."""

    name: str
    tags: dict[str, Digest] = field(default_factory=dict)
    manifests: dict[Digest, StoredManifest] = field(default_factory=dict)
    blobs: set[Digest] = field(default_factory=set)

    def find(self, reference: str) -> StoredManifest | None:
        """Return the manifest that a tag or digest names."""
        digest = self.tags.get(reference)
        if digest is None:
            digest = next((known for known in self.manifests if known.text == reference), None)
        return self.manifests.get(digest) if digest is not None else None

    def tags_of(self, digest: Digest) -> list[str]:
        """Return the tags that name `digest`, sorted."""
        return sorted(tag for tag, tagged in self.tags.items() if tagged == digest)


class Upload:
    """An upload session: bytes so far in a file, hashed as they come."""

    def __init__(self, repository: str, path: Path) -> None:
        self.id = path.name
        self.repository = repository
        self.path = path
        self.received = 0
        self.first_part = 0  # bytes after the first PATCH; ECR reports no progress beyond it
        self.parts: list[int] = []
        self._hash = hashlib.sha256()
        self.busy = threading.Lock()
        path.touch()

    def write(self, chunks: Iterable[bytes]) -> int:
        """Append what comes and return how many bytes came; what came before a failure stays."""
        before = self.received
        try:
            with self.path.open("ab", buffering=0) as out:
                for chunk in chunks:
                    out.write(chunk)
                    self._hash.update(chunk)
                    self.received += len(chunk)
        finally:
            count = self.received - before
            self.parts.append(count)
            if len(self.parts) == 1:
                self.first_part = count
        return count

    @property
    def digest(self) -> Digest:
        """SHA-256 of the bytes so far."""
        return Digest("sha256:" + self._hash.hexdigest())


class RegistryStore:
    """All repositories of one registry. Thread-safe; `lock` may be held around several calls."""

    def __init__(self, folder: Path) -> None:
        self._blobs = folder / "blobs"
        self._uploads_folder = folder / "uploads"
        self._uploads: dict[str, Upload] = {}
        self.repositories: dict[str, Repository] = {}
        self.lock = threading.RLock()

    def prepare(self) -> None:
        """Make the folders."""
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._uploads_folder.mkdir(parents=True, exist_ok=True)

    def repository(self, name: str) -> Repository:
        """Return the repository called `name`, made empty when it is new."""
        with self.lock:
            return self.repositories.setdefault(name, Repository(name=name))

    def forget(self, name: str) -> None:
        """Drop a repository; its blobs stay as files, reachable by nobody."""
        with self.lock:
            self.repositories.pop(name, None)

    def blob(self, digest: Digest) -> Path:
        """Where the blob is, or would be."""
        return self._blobs / digest.hex

    def holds(self, repository: Repository, digest: Digest) -> bool:
        """Whether the blob belongs to the repository."""
        with self.lock:
            return digest in repository.blobs

    def mount(self, digest: Digest, *, source: str, target: Repository) -> bool:
        """Let `target` share a blob of the repository called `source`; False when that does not have it."""
        with self.lock:
            origin = self.repositories.get(source)
            if origin is None or digest not in origin.blobs:
                return False
            target.blobs.add(digest)
            return True

    def start_upload(self, repository: Repository) -> Upload:
        """Open an upload session."""
        upload = Upload(repository.name, self._uploads_folder / secrets.token_hex(16))
        with self.lock:
            self._uploads[upload.id] = upload
        return upload

    def upload(self, repository: Repository, upload_id: str) -> Upload | None:
        """Return an open session of this repository."""
        with self.lock:
            upload = self._uploads.get(upload_id)
        return upload if upload is not None and upload.repository == repository.name else None

    def finish_upload(self, repository: Repository, upload: Upload) -> Digest:
        """Turn the session's bytes into a blob of the repository."""
        digest = upload.digest
        upload.path.replace(self.blob(digest))
        with self.lock:
            self._uploads.pop(upload.id, None)
            repository.blobs.add(digest)
        return digest

    def cancel_upload(self, upload: Upload) -> None:
        """Throw a session away."""
        with self.lock:
            self._uploads.pop(upload.id, None)
        with contextlib.suppress(FileNotFoundError):
            upload.path.unlink()

    def drop_uploads(self) -> None:
        """Throw all sessions away, as a registry does that restarts or after a day."""
        with self.lock:
            uploads = list(self._uploads.values())
        for upload in uploads:
            self.cancel_upload(upload)

    def put_manifest(self, repository: Repository, manifest: StoredManifest, *, tag: str | None) -> None:
        """Store a manifest and point `tag` at it; the bytes that came first for a digest stay."""
        with self.lock:
            repository.manifests.setdefault(manifest.digest, manifest)
            if tag is not None:
                repository.tags[tag] = manifest.digest
