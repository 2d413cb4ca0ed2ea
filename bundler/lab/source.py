"""The lab's stand-in for everything upstream: one registry and one file server for the hosts that definitions name.

Each upstream host stands under its own name: the image `registry.k8s.io/pause` is the repository
`registry.k8s.io/pause`, and `https://aws.github.io/eks-charts/index.yaml` is `/aws.github.io/eks-charts/index.yaml`.
`registries.yaml` sends the hosts there, as a corporate proxy's would; nothing of that enters a lock.
"""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bundler.errors import DigestError
from bundler.lab.charts import oci_chart, repository_files
from bundler.lab.faults import Faults
from bundler.lab.http_server import Answer, Request, Server, Service
from bundler.lab.images import RECIPES, BuiltBlob, BuiltImage, build_images
from bundler.lab.lab import REGISTRIES_FILE
from bundler.lab.plain import PlainRegistry
from bundler.lab.registry_store import RegistryStore, Repository, StoredManifest
from bundler.lab.request_log import RequestLog


class Source:
    """Answers for all upstream hosts: `/v2/` by the registry, everything else out of `files` (`host/path`)."""

    def __init__(self, registry: Service, files: Mapping[str, bytes]) -> None:
        self._registry = registry
        self._files = files

    def answer(self, request: Request) -> Answer:
        """Return the answer of whichever side the path belongs to."""
        if request.path == "/v2" or request.path.startswith("/v2/"):
            return self._registry.answer(request)
        if request.method not in ("GET", "HEAD"):
            return Answer(status=405)
        content = self._files.get(request.path.removeprefix("/"))
        if content is None:
            return Answer(status=404, headers={"Content-Type": "text/plain"}, body=b"404 page not found\n")
        kind = "text/yaml" if request.path.endswith(".yaml") else "application/gzip"
        return Answer(status=200, headers={"Content-Type": kind}, body=content)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """Where a source is served, and the registries.yaml (BUNDLE_REGISTRIES) that leads there."""

    url: str
    registries_file: Path


@contextmanager
def source_registry(folder: Path, *, wheels: Path) -> Iterator[SourceFacts]:
    """Serve a source with all images and charts of the lab from `folder`, in this process.

    Args:
        folder: blobs, request log and registries.yaml.
        wheels: where images.WHEELS are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    registry = PlainRegistry(folder, faults=Faults(), log=RequestLog(folder / "requests.jsonl"))
    registry.store.prepare()
    fill(registry.store, lab_content(wheels))
    server = Server(Source(registry, repository_files()))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.port}"
    try:
        yield SourceFacts(url=url, registries_file=write_registries(folder, url))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def lab_content(wheels: Path) -> Iterator[BuiltImage]:
    """Yield everything that the source's registry holds: the images, and the chart that is an OCI artifact."""
    yield from build_images(wheels)
    yield oci_chart()


def fill(store: RegistryStore, images: Iterable[BuiltImage]) -> None:
    """Put images (and charts) into a registry's store, each under its host-prefixed name.

    Raises:
        DigestError: a blob is not what its image says.
    """
    for image in images:
        repository = store.repository(image.reference.name)
        for blob in image.blobs:
            _put_blob(store, repository, blob)
        for manifest in image.manifests:
            tag = image.reference.tag if manifest is image.index else None
            stored = StoredManifest(raw=manifest.raw, media_type=manifest.media_type, pushed_at=dt.datetime.now(dt.UTC))
            store.put_manifest(repository, stored, tag=tag)


def _put_blob(store: RegistryStore, repository: Repository, blob: BuiltBlob) -> None:
    known = store.blob(blob.digest)
    if known.is_file() and known.stat().st_size == blob.size:
        with store.lock:
            repository.blobs.add(blob.digest)
        return
    upload = store.start_upload(repository)
    upload.write(blob.read())
    if upload.digest != blob.digest:
        store.cancel_upload(upload)
        raise DigestError(
            f"{repository.name}@{blob.digest}", f"the bytes that were made have the digest {upload.digest}"
        )
    store.finish_upload(repository, upload)


def upstream_hosts() -> tuple[str, ...]:
    """Return every upstream host that the lab stands for."""
    hosts = {recipe.reference.registry for recipe in RECIPES} | {oci_chart().reference.registry}
    return tuple(sorted(hosts | {place.partition("/")[0] for place in repository_files()}))


def write_registries(folder: Path, url: str, *, ca_file: str | None = None) -> Path:
    """Write registries.yaml into `folder` and return where it is."""
    path = folder / REGISTRIES_FILE
    path.write_text(registries_text(url, ca_file=ca_file), encoding="utf-8")
    return path


def registries_text(url: str, *, ca_file: str | None = None) -> str:
    """Return a registries.yaml that sends every upstream host to the lab.

    Args:
        url: where `Source` is served, without a path.
        ca_file: the authority of an https `url`.
    """
    lines = ["# The lab's: every upstream host is asked on this machine. Nothing of it enters a lock or an archive."]
    for host in upstream_hosts():
        lines += [f"{host}:", f"  url: {url}/{host}"]
        if ca_file is not None:
            lines.append(f"  caFile: {json.dumps(ca_file)}")
    return "\n".join(lines) + "\n"
