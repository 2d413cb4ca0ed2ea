"""A registry in memory that fits the ports ImageSource and ImageRegistry (tests/contract holds it to the adapters)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bundler.domain.digest import Digest
from bundler.domain.oci import Descriptor, Index, Manifest, parse_manifest
from bundler.domain.reference import Reference
from bundler.errors import ConflictError, DigestError, NotFoundUpstreamError
from bundler.pacing import Bearing
from bundler.ports import Reopen, Sink
from tests.fakes.images import FakeImage


@dataclass
class MemoryRegistry:
    """Repositories by name; `log` keeps what was asked, in order."""

    immutable: bool = False
    mounts: bool = True
    blobs: dict[str, dict[Digest, bytes]] = field(default_factory=dict)
    manifests: dict[str, dict[Digest, tuple[str, bytes]]] = field(default_factory=dict)
    tags: dict[str, dict[str, Digest]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    fail: Callable[[str], None] = lambda step: None

    def offer(self, name: str, image: FakeImage) -> Reference:
        """Store `image` under a full reference."""
        reference = Reference.parse(name)
        self.blobs.setdefault(reference.name, {}).update(image.blobs)
        self.manifests.setdefault(reference.name, {}).update(image.manifests)
        self.tags.setdefault(reference.name, {})[str(reference.tag)] = image.digest
        return reference

    def manifest(self, reference: Reference) -> Manifest | Index:
        self._note(f"GET manifest {reference}")
        digest = self._resolve(reference)
        if digest is None:
            raise NotFoundUpstreamError(str(reference), "does not exist upstream")
        media_type, raw = self.manifests[reference.name][digest]
        return parse_manifest(raw, subject=str(reference), media_type=media_type)

    def read_blob(self, name: Reference, blob: Descriptor, sink: Sink, *, restart: Callable[[], None]) -> None:
        del restart
        self._note(f"GET blob {blob.digest}")
        content = self.blobs.get(name.name, {}).get(blob.digest)
        if content is None:
            raise NotFoundUpstreamError(str(blob.digest), "does not exist upstream")
        for start in range(0, len(content), 300):
            sink(memoryview(content[start : start + 300]))

    def manifest_digest(self, reference: Reference) -> Digest | None:
        self._note(f"HEAD manifest {reference}")
        return self._resolve(reference)

    def has_blob(self, name: Reference, digest: Digest) -> bool:
        self._note(f"HEAD blob {name.name} {digest}")
        return digest in self.blobs.get(name.name, {})

    def is_new(self, name: Reference) -> bool:
        self._note(f"GET tags {name.name}")
        return not self.tags.get(name.name)

    def bearing(self, name: Reference) -> Bearing:
        del name
        return Bearing(8)

    def upload_blob(self, name: Reference, blob: Descriptor, content: Reopen, *, mount_from: str | None = None) -> bool:
        other = self.blobs.get(f"{name.registry}/{mount_from}", {}) if mount_from and self.mounts else {}
        if mount_from and blob.digest in self.blobs.get(name.name, {}):
            return True
        if blob.digest in other:
            self._note(f"MOUNT {name.name} {blob.digest}")
            self.blobs.setdefault(name.name, {})[blob.digest] = other[blob.digest]
            return True
        self._note(f"PUT blob {name.name} {blob.digest}")
        data = b"".join(bytes(chunk) for chunk in content(0))
        if Digest.of(data) != blob.digest:
            raise DigestError(str(blob.digest), "is not what was sent")
        self.blobs.setdefault(name.name, {})[blob.digest] = data
        return False

    def put_manifest(self, reference: Reference, raw: bytes, media_type: str) -> Digest:
        self._note(f"PUT manifest {reference}")
        digest = Digest.of(raw)
        parsed = parse_manifest(raw, subject=str(reference), media_type=media_type)
        self._require(reference, parsed)
        tags = self.tags.setdefault(reference.name, {})
        if reference.tag is not None:
            if self.immutable and tags.get(reference.tag, digest) != digest:
                raise ConflictError(str(reference), "the tag is immutable and holds another digest")
            tags[reference.tag] = digest
        self.manifests.setdefault(reference.name, {})[digest] = (media_type, raw)
        return digest

    def _require(self, reference: Reference, parsed: Manifest | Index) -> None:
        if isinstance(parsed, Index):
            wanted, held = {m.digest for m in parsed.manifests}, set(self.manifests.get(reference.name, {}))
        else:
            wanted, held = {blob.digest for blob in parsed.blobs}, set(self.blobs.get(reference.name, {}))
        if wanted - held:
            raise ConflictError(str(reference), f"lacks {sorted(wanted - held)[0]}")

    def _resolve(self, reference: Reference) -> Digest | None:
        if reference.digest is not None:
            return reference.digest if reference.digest in self.manifests.get(reference.name, {}) else None
        return self.tags.get(reference.name, {}).get(str(reference.tag))

    def _note(self, step: str) -> None:
        self.log.append(step)
        self.fail(step)
