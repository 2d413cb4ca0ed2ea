"""The two members that make the archive an OCI image layout (image-spec, image-layout.md)."""

from __future__ import annotations

from bundler.domain.blob import Blob
from bundler.domain.canonical import canonical_json
from bundler.domain.lock import Lock
from bundler.domain.oci import OCI_INDEX

OCI_LAYOUT_PATH = "oci-layout"
OCI_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
INDEX_PATH = "index.json"
REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"


def index_json(lock: Lock) -> bytes:
    """Return `index.json`: images and charts only, each under its full reference."""
    entries = [_entry(image.target, str(image.reference)) for image in lock.images]
    entries += [_entry(chart.manifest.blob, chart.reference) for chart in lock.charts]
    manifests = [entry for _, entry in sorted(entries, key=lambda item: item[0])]
    return canonical_json({"manifests": manifests, "mediaType": OCI_INDEX, "schemaVersion": 2})


def _entry(target: Blob, reference: str) -> tuple[str, dict[str, object]]:
    return reference, {
        "annotations": {CONTAINERD_NAME: reference, REF_NAME: reference},
        "digest": str(target.digest),
        "mediaType": target.media_type,
        "size": target.size,
    }
