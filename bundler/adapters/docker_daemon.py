"""Images that exist only in the local Docker daemon, by the docker SDK (extra `build`)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from bundler.adapters.docker_archive import saved_images
from bundler.adapters.docker_export import SavedImage, export, exported, read_exported
from bundler.adapters.tar_index import IndexedTar
from bundler.cache import Cache
from bundler.domain.digest import Digest
from bundler.domain.oci import MAX_MANIFEST_BYTES, Descriptor, Index, Manifest, parse_manifest
from bundler.domain.reference import Reference
from bundler.errors import (
    DigestError,
    FormatError,
    LocalResourceError,
    MissingToolError,
    NetworkError,
    NotFoundUpstreamError,
)
from bundler.ports import Sink
from bundler.transfer import check_stopped

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.images import Image

TIMEOUT_S = 120
CHUNK_BYTES = 1 << 20
EXTRA_HINT = "Install it: pip install 'eks-bundler[build]'"
DEFAULT_HOST = "unix:///var/run/docker.sock"
DAEMON_HINT = "Start the daemon, or say where it is: DOCKER_HOST=unix:///path/to/docker.sock"


class DockerDaemon:
    """The daemon that DOCKER_HOST names. Exported blobs stand in the cache."""

    def __init__(self, environ: Mapping[str, str], *, cache: Cache) -> None:
        self._environ = environ
        self._cache = cache

    def image_id(self, reference: Reference) -> Digest:
        """Return the id that the daemon's image of this name has now.

        Raises:
            NotFoundUpstreamError: the daemon has no such image.
            MissingToolError: the docker SDK is not installed, or the daemon does not answer.
        """
        with self._image(reference) as image:
            return Digest.parse(str(image.id))

    def manifest(self, reference: Reference) -> Manifest:
        """Return the image's manifest, after exporting it into the cache unless it is there.

        Raises:
            NotFoundUpstreamError: the daemon has no such image (any more).
            DigestError: what the daemon exports is not the image with that id.
        """
        with self._image(reference) as image:
            image_id = Digest.parse(str(image.id))
            subject = f"{reference.tagged} (image {image_id.short} of the Docker daemon)"
            found = exported(self._cache, image_id, subject=subject) or self._export(image, image_id, subject)
        if reference.digest not in (None, found.digest):
            cause = f"the Docker daemon holds another image under this name: {image_id}"
            raise NotFoundUpstreamError(str(reference), cause)
        return found

    def read_blob(self, name: Reference, blob: Descriptor, sink: Sink, *, restart: Callable[[], None]) -> None:
        """Send an exported blob to `sink`; a lost one is exported again."""
        read_exported(self._cache, blob, sink, restart=restart, again=lambda: self.manifest(name))

    @contextmanager
    def _image(self, reference: Reference) -> Iterator[Image]:
        """Ask for an image by name; the connection is closed afterwards, foreign errors are translated."""
        client = self._connect()
        from docker.errors import APIError, DockerException, ImageNotFound
        from requests.exceptions import RequestException

        try:
            yield client.images.get(reference.tagged)
        except ImageNotFound as error:
            raise NotFoundUpstreamError(reference.tagged, "the Docker daemon has no such image") from error
        except APIError as error:
            raise NetworkError(reference.tagged, f"the Docker daemon refuses: {error.explanation}"[:300]) from error
        except (DockerException, RequestException) as error:
            raise NetworkError(reference.tagged, f"the Docker daemon failed: {error}"[:300]) from error
        finally:
            client.close()

    def _connect(self) -> DockerClient:
        try:
            import docker
        except ImportError as error:
            raise MissingToolError("docker SDK", "is not installed", hint=EXTRA_HINT) from error
        where = self._environ.get("DOCKER_HOST") or DEFAULT_HOST
        scheme, _, path = where.partition("://")
        try:
            if scheme == "unix" and not Path(path).is_socket():
                raise MissingToolError("Docker daemon", f"does not run: there is no {path}", hint=DAEMON_HINT)
            return docker.DockerClient.from_env(environment=dict(self._environ), timeout=TIMEOUT_S)
        except docker.errors.DockerException as error:
            raise MissingToolError("Docker daemon", f"does not answer at {where}", hint=DAEMON_HINT) from error

    def _export(self, image: Image, image_id: Digest, subject: str) -> Manifest:
        """Spool `docker save` beside the cache, then take it apart: its list of contents stands at its end."""
        with self._spool(image) as file:
            archive = IndexedTar(file, subject=subject).index()
            saved = _only(saved_images(archive, subject=subject), subject)
            _check_id(archive, saved, image_id, subject)
            return export(archive, saved, cache=self._cache, subject=subject)

    @contextmanager
    def _spool(self, image: Image) -> Iterator[BinaryIO]:
        chunks = image.save(chunk_size=CHUNK_BYTES)
        folder = self._cache.folder
        with ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            except OSError as error:
                raise LocalResourceError(str(folder), f"cannot be written: {error.strerror}") from error
            for chunk in chunks:
                check_stopped()
                _write(file, chunk, folder)
            yield file


def _write(file: BinaryIO, chunk: bytes, folder: Path) -> None:
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:
        raise LocalResourceError(str(folder), f"cannot be written: {error.strerror}") from error


def _only(images: tuple[SavedImage, ...], subject: str) -> SavedImage:
    if len(images) != 1:
        raise FormatError(subject, f"the daemon exported {len(images)} images instead of one")
    return images[0]


def _check_id(archive: IndexedTar, saved: SavedImage, image_id: Digest, subject: str) -> None:
    """Refuse an export of another image.

    An image id is the digest of the config; with containerd's image store that of the manifest or index above it.

    Raises:
        DigestError: it is another image.
    """
    config = Digest.of(archive.read(saved.config, limit=MAX_MANIFEST_BYTES))
    if config != image_id and config not in _configs_below(archive, image_id, subject, depth=2):
        raise DigestError(subject, f"the daemon exported the image {config} where {image_id} was asked for")


def _configs_below(archive: IndexedTar, digest: Digest, subject: str, *, depth: int) -> frozenset[Digest]:
    """Return the config digests that a manifest or index of the archive leads to."""
    name = f"blobs/sha256/{digest.hex}"
    if not depth or archive.find(name) is None:
        return frozenset()
    raw = archive.read(name, limit=MAX_MANIFEST_BYTES)
    if Digest.of(raw) != digest:
        return frozenset()
    found = parse_manifest(raw, subject=subject)
    if isinstance(found, Index):
        below = (_configs_below(archive, child.digest, subject, depth=depth - 1) for child in found.manifests)
        return frozenset().union(*below)
    return frozenset({found.config.digest})
