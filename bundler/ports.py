"""What the stages ask of the outside world, in their own words. Adapters fit these by shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from bundler.domain.digest import Digest
from bundler.domain.image_map import ImageMap
from bundler.domain.oci import Descriptor, Index, Manifest
from bundler.domain.reference import Reference
from bundler.domain.release import Rendering
from bundler.pacing import Bearing

Sink = Callable[[memoryview], None]
"""Takes the next bytes of a stream; the memory is only valid during the call."""

Put = Callable[[int, memoryview], None]
"""Takes the bytes at an offset; the memory is only valid during the call."""

Reopen = Callable[[int], Iterator[memoryview]]
"""Yields a blob's bytes from an offset; may be called again after a failure."""


class ImageSource(Protocol):
    """Anything images are taken from: a registry, an OCI layout, a Docker daemon."""

    def manifest(self, reference: Reference) -> Manifest | Index:
        """Return the manifest by digest where the reference has one, else by tag; raw bytes, verified.

        Raises:
            NotFoundUpstreamError: upstream says that it does not exist.
        """
        ...

    def read_blob(self, name: Reference, blob: Descriptor, sink: Sink, *, restart: Callable[[], None]) -> None:
        """Send a blob's bytes to `sink`, in order and verified: exactly `blob.size` bytes with `blob.digest`.

        `restart` is called when the bytes sent so far must be forgotten and the blob begins again.

        Raises:
            DigestError: upstream's content is not what the digest names.
        """
        ...


@runtime_checkable
class RangeSource(Protocol):
    """An ImageSource that gives parts of a blob, from several threads at a time."""

    def read_range(self, name: Reference, blob: Descriptor, start: int, stop: int, put: Put) -> int:
        """Send bytes `start` to `stop` of a blob to `put`, in order; return where they ended: `stop`, or `blob.size`.

        Whoever puts the parts together checks the digest.

        Raises:
            DigestError: there are more bytes than the blob has.
        """
        ...


class UrlSource(Protocol):
    """Files by http(s) URL on the connected side."""

    def stream(self, url: str) -> Iterator[bytes]:
        """Yield the content of `url` in chunks.

        Raises:
            NotFoundUpstreamError: the server says that it does not exist.
        """
        ...


class ChartRenderer(Protocol):
    """The real `helm template`."""

    def render(self, chart: bytes, rendering: Rendering, *, images: ImageMap | None = None) -> str:
        """Return the Kubernetes manifests of the chart in the .tgz `chart`, hooks and CRDs included.

        Args:
            chart: the packed chart.
            rendering: release, namespace, values, Kubernetes version.
            images: rewrites what the chart names to private references, after rendering.

        Raises:
            DefinitionError: the chart does not render with these values.
            ClosureError: a pod would run an image that `images` does not know.
        """
        ...


class ImageRegistry(Protocol):
    """A registry that images are pushed to."""

    def manifest_digest(self, reference: Reference) -> Digest | None:
        """Return the digest that `reference` has there, None when absent; only a 200 is present."""
        ...

    def has_blob(self, name: Reference, digest: Digest) -> bool:
        """Whether the repository holds the blob; only a 200 is present."""
        ...

    def is_new(self, name: Reference) -> bool:
        """Whether the registry says that the repository has no tag, or does not exist; False where it does not say."""
        ...

    def bearing(self, name: Reference) -> Bearing:
        """What the registry bears now, as far as is known."""
        ...

    def upload_blob(self, name: Reference, blob: Descriptor, content: Reopen, *, mount_from: str | None = None) -> bool:
        """Give the repository a blob; return True where a mount from `mount_from` (a repository) saved the bytes.

        With `mount_from` it need not be asked before whether the blob is there: then, too, the bytes are saved.

        Raises:
            DigestError: `content` is not what the digest names; the upload was never completed.
        """
        ...

    def put_manifest(self, reference: Reference, raw: bytes, media_type: str) -> Digest:
        """Store a manifest under the reference's tag, or digest where it has no tag; return the digest it got.

        Raises:
            ConflictError: the tag is immutable and holds another digest.
        """
        ...


class ByteSource(Protocol):
    """An archive by offset: a local file, or ranged GETs of one unchanged S3 object."""

    @property
    def name(self) -> str:
        """Path or s3:// address, for messages."""
        ...

    @property
    def size(self) -> int:
        """Length in bytes."""
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`.

        Raises:
            FormatError: the source ends before.
        """
        ...

    def stream(self, offset: int, length: int) -> Iterator[memoryview]:
        """Yield exactly `length` bytes from `offset` in chunks of at most 1 MiB, each valid until the next.

        Raises:
            FormatError: the source ends before.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredState:
    """One small object of a site's state.

    Attributes:
        version: changes with each write.
        age_s: seconds since it was written, by the store's own clock.
    """

    content: bytes
    version: str
    age_s: float


class StateStore(Protocol):
    """Small objects with compare-and-swap, shared by all operators of a site."""

    def address(self, name: str) -> str:
        """Return what people and their programs call an object: `s3://bucket/key`."""
        ...

    def get(self, name: str) -> StoredState | None:
        """Return an object, None where there is none."""
        ...

    def put(self, name: str, content: bytes, *, replaces: str | None) -> str:
        """Write an object in place of version `replaces` (None: of nothing); return its new version.

        Raises:
            StaleStateError: something else stands there.
        """
        ...

    def delete(self, name: str, *, version: str) -> None:
        """Remove that version of an object.

        Raises:
            StaleStateError: something else stands there.
        """
        ...
