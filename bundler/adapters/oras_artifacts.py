"""Artifacts (charts and others) by the oras library, over our registry client.

oras gives its model and its verbs: how an artifact's manifest, layers, config and titles are made, and `push` and
`pull` of files. Its own session, authorization and retries never run: digests are not checked there, and credentials
follow redirects. Importing this module imports oras and requests (0.2 s): do it where it is used.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jsonschema
import oras.auth
import oras.container
import oras.provider
import oras.schemas
import requests

from bundler.adapters.chart_tar import MAX_PACKED_BYTES
from bundler.adapters.oci_registry import RegistryClient
from bundler.domain.digest import Digest
from bundler.domain.oci import (
    HELM_CHART,
    HELM_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
)
from bundler.domain.reference import Reference
from bundler.errors import FormatError, LimitError
from bundler.ports import ImageSource

TITLE = "org.opencontainers.image.title"
VERSION = "org.opencontainers.image.version"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartArtifact:
    """A chart as a registry has it: its manifest, its Chart.yaml as JSON, its .tgz, and layers such as provenance."""

    manifest: Manifest
    config: bytes
    content: bytes
    further: tuple[bytes, ...] = ()


def pull_chart(images: ImageSource, reference: Reference) -> ChartArtifact:
    """Return a chart from a registry, every byte verified.

    Raises:
        NotFoundUpstreamError: it does not exist.
        FormatError: it is there, but not an artifact as oras knows them, or not a Helm chart.
    """
    manifest = images.manifest(reference)
    _require_artifact(manifest.raw, reference)
    if not isinstance(manifest, Manifest) or manifest.config.media_type != HELM_CONFIG:
        raise FormatError(str(reference), "is an image, not a Helm chart")
    if not manifest.layers or manifest.layers[0].media_type != HELM_CHART:
        raise FormatError(str(reference), "does not have the chart's content as its first layer")
    config, content, *further = (_read(images, reference, blob) for blob in manifest.blobs)
    return ChartArtifact(manifest=manifest, config=config, content=content, further=tuple(further))


def _require_artifact(raw: bytes, reference: Reference) -> None:
    """Check a manifest against oras's model of an artifact."""
    try:
        jsonschema.validate(json.loads(raw), oras.schemas.manifest)
    except jsonschema.ValidationError as error:
        raise FormatError(str(reference), f"is not an OCI artifact: {error.message[:200]}") from error


def push_chart(client: RegistryClient, reference: Reference, *, config: bytes, content: bytes) -> Digest:
    """Push a chart (Chart.yaml as JSON, and its .tgz) under the reference's tag; return its manifest's digest.

    The manifest depends on the arguments alone.
    """
    registry = ArtifactRegistry(client)
    name = reference.repository.rpartition("/")[2]
    with tempfile.TemporaryDirectory() as folder:
        chart, about = Path(folder) / f"{name}.tgz", Path(folder) / "config.json"
        chart.write_bytes(content)
        about.write_bytes(config)
        answer = registry.push(
            target=registry.target(reference),
            files=[f"{chart}:{HELM_CHART}"],
            manifest_config=f"{about}:{HELM_CONFIG}",
            manifest_annotations={TITLE: name, VERSION: reference.tag or ""},
            disable_path_validation=True,
            quiet=True,
        )
    return Digest.parse(answer.headers["Docker-Content-Digest"])


def _read(images: ImageSource, reference: Reference, blob: Descriptor) -> bytes:
    if blob.size > MAX_PACKED_BYTES:
        raise LimitError(str(reference), f"has a blob of {blob.size} bytes; a chart's have at most {MAX_PACKED_BYTES}")
    content = bytearray()
    images.read_blob(reference, blob, content.extend, restart=content.clear)
    return bytes(content)


class ArtifactRegistry(oras.provider.Registry):
    """oras's registry with every request replaced by our client's."""

    def __init__(self, client: RegistryClient) -> None:
        super().__init__()
        self.session = _NoSession()
        self.auth = _NoAuth()
        self._client = client

    def target(self, reference: Reference) -> str:
        """Return the reference as oras writes it.

        Raises:
            FormatError: oras would read it as another one.
        """
        if self._reference(self.get_container(reference.tagged)) != reference:
            raise FormatError(str(reference), "is not a reference that oras reads alike")
        return reference.tagged

    def upload_blob(
        self,
        blob: str,
        container: str | oras.container.Container,
        layer: dict[str, Any],
        do_chunked: bool = False,
        chunk_size: int = 0,
    ) -> requests.Response:
        """Upload a file as a blob, unless the repository has it."""
        del do_chunked, chunk_size
        name = self._reference(self.get_container(container))
        media_type, digest, size = layer["mediaType"], Digest.parse(layer["digest"]), layer["size"]
        if not self._client.has_blob(name, digest):
            described = Descriptor(media_type=media_type, digest=digest, size=size)
            self._client.upload_blob(name, described, _file_content(Path(blob)))
        return _answer(201, digest)

    def upload_manifest(self, manifest: dict[str, Any], container: oras.container.Container) -> requests.Response:
        """Store a manifest."""
        raw = json.dumps(manifest, separators=(",", ":"), ensure_ascii=False).encode()
        return _answer(201, self._client.put_manifest(self._reference(container), raw, OCI_MANIFEST))

    def get_manifest(
        self,
        container: str | oras.container.Container,
        allowed_media_type: list[str] | None = None,
        validation_schema: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return a manifest, verified, as JSON."""
        del allowed_media_type, validation_schema
        found = self._client.manifest(self._reference(self.get_container(container)))
        document: dict[str, Any] = json.loads(found.raw)
        return document

    def pull(self, *args: object, **options: object) -> NoReturn:
        """Refuse: it would unpack folders from outside. Blobs are read by `pull_chart` and the client."""
        del args, options
        raise _bypassed("to unpack an artifact")

    def do_request(self, *args: object, **options: object) -> NoReturn:
        """Refuse: nothing may bypass our client."""
        del args, options
        raise _bypassed("to send a request")

    def _reference(self, container: oras.container.Container) -> Reference:
        return Reference.parse(str(container.uri))


class _NoSession(requests.Session):
    """Stands where oras keeps its requests session."""

    def request(self, *args: object, **options: object) -> NoReturn:
        del args, options
        raise _bypassed("to send a request")

    def send(self, *args: object, **options: object) -> NoReturn:
        del args, options
        raise _bypassed("to send a request")


class _NoAuth:
    """Stands where oras keeps its credentials: it gets none to load, and none to send."""

    def load_configs(self, container: object, configs: object = None) -> None:
        """Load nothing."""

    def __getattr__(self, name: str) -> NoReturn:
        raise _bypassed(f"to use auth.{name}")


def _bypassed(what: str) -> RuntimeError:
    return RuntimeError(f"oras tried {what} of its own")


def _answer(status: int, digest: Digest) -> requests.Response:
    answer = requests.Response()
    answer.status_code = status
    answer.headers["Docker-Content-Digest"] = str(digest)
    return answer


def _file_content(path: Path) -> Callable[[int], Iterator[memoryview]]:
    def read(start: int) -> Iterator[memoryview]:
        with path.open("rb") as file:
            file.seek(start)
            while piece := file.read(_CHUNK_BYTES):
                yield memoryview(piece)

    return read
