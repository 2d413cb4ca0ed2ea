"""The lab's charts: small ones of ours under upstream's names and value keys, whose packed bytes never differ.

They are served as upstream serves its own: metrics-server from an https repository whose index points to another host,
aws-vpc-cni from one with relative addresses, coredns as an OCI artifact. (AWS publishes eks-pod-identity-agent as
source only, so it is in no repository here either; definitions give its folder.)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from bundler.data import data_folder
from bundler.domain.digest import Digest
from bundler.domain.oci import HELM_CHART, HELM_CONFIG, OCI_MANIFEST
from bundler.domain.reference import Reference
from bundler.lab.images import BuiltBlob, BuiltImage, BuiltManifest
from bundler.lab.layers import Content, Entry, gzip_stored, tar_stream

VERSION = "1.0.0-lab.1"
EKS_CHARTS = "https://aws.github.io/eks-charts"
METRICS_SERVER = "https://kubernetes-sigs.github.io/metrics-server"
COREDNS = "oci://ghcr.io/coredns/charts/coredns"
_RELEASES = "https://github.com/kubernetes-sigs/metrics-server/releases/download"
_EPOCH = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedChart:
    """A chart as .tgz, and the fields of its Chart.yaml."""

    metadata: dict[str, str]
    content: bytes

    @property
    def name(self) -> str:
        """The chart's name."""
        return self.metadata["name"]

    @property
    def version(self) -> str:
        """The chart's version."""
        return self.metadata["version"]

    @property
    def file(self) -> str:
        """The file name that helm gives it."""
        return f"{self.name}-{self.version}.tgz"


def chart_folder(name: str) -> Path:
    """Return the source folder of one of the lab's charts."""
    return data_folder("manifests") / "lab" / "charts" / name


def pack(folder: Path) -> PackedChart:
    """Return the chart in `folder`, packed so that equal files give equal bytes, whatever their times and modes."""
    metadata = yaml.safe_load((folder / "Chart.yaml").read_text("utf-8"))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = [_entry(path, f"{metadata['name']}/{path.relative_to(folder)}") for path in files]
    return PackedChart(metadata=metadata, content=b"".join(gzip_stored(tar_stream(entries))))


def _entry(path: Path, name: str) -> Entry:
    return Entry(path=name, mode=0o644, content=Content.of(path.read_bytes()))


def repository_files() -> dict[str, bytes]:
    """Return what the upstream https hosts serve: `host/path` -> content."""
    metrics, cni = pack(chart_folder("metrics-server")), pack(chart_folder("aws-vpc-cni"))
    released = f"{_RELEASES}/metrics-server-helm-chart-{metrics.version}/{metrics.file}"
    return {
        _place(f"{METRICS_SERVER}/index.yaml"): _index(metrics, released),
        _place(released): metrics.content,
        _place(f"{EKS_CHARTS}/index.yaml"): _index(cni, cni.file),
        _place(f"{EKS_CHARTS}/{cni.file}"): cni.content,
    }


def oci_chart() -> BuiltImage:
    """Return coredns as the OCI artifact that helm pulls."""
    chart = pack(chart_folder("coredns"))
    config = json.dumps(chart.metadata, sort_keys=True, separators=(",", ":")).encode()
    blobs = (_blob(HELM_CONFIG, config), _blob(HELM_CHART, chart.content))
    described = [{"mediaType": b.media_type, "digest": str(b.digest), "size": b.size} for b in blobs]
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described[0], "layers": described[1:]}
    raw = json.dumps(document, separators=(",", ":")).encode()
    return BuiltImage(
        reference=Reference.parse(f"{COREDNS.removeprefix('oci://')}:{chart.version}"),
        blobs=blobs,
        manifests=(BuiltManifest(raw=raw, media_type=OCI_MANIFEST),),
    )


def _index(chart: PackedChart, url: str) -> bytes:
    entry = {**chart.metadata, "created": _EPOCH, "digest": Digest.of(chart.content).hex, "urls": [url]}
    document = {"apiVersion": "v1", "entries": {chart.name: [entry]}, "generated": _EPOCH}
    return yaml.safe_dump(document).encode()


def _place(url: str) -> str:
    return url.removeprefix("https://")


def _blob(media_type: str, content: bytes) -> BuiltBlob:
    return BuiltBlob(media_type=media_type, digest=Digest.of(content), size=len(content), read=lambda: iter((content,)))
