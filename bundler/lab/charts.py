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

from bundler.adapters.chart_archive import read_chart
from bundler.adapters.chart_tar import pack
from bundler.adapters.charts import folder_files
from bundler.data import data_folder
from bundler.domain.chart import ChartContent
from bundler.domain.digest import Digest
from bundler.domain.oci import HELM_CHART, HELM_CONFIG, OCI_MANIFEST
from bundler.domain.reference import Reference
from bundler.lab.images import BuiltBlob, BuiltImage, BuiltManifest

VERSION = "1.0.0-lab.1"
EKS_CHARTS = "https://aws.github.io/eks-charts"
METRICS_SERVER = "https://kubernetes-sigs.github.io/metrics-server"
COREDNS = "oci://ghcr.io/coredns/charts/coredns"
_RELEASES = "https://github.com/kubernetes-sigs/metrics-server/releases/download"
_EPOCH = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedChart:
    """A chart as .tgz, and what it says of itself."""

    said: ChartContent
    content: bytes

    @property
    def file(self) -> str:
        """The file name that helm gives it."""
        return f"{self.said.name}-{self.said.version}.tgz"


def chart_folder(name: str) -> Path:
    """Return the source folder of one of the lab's charts."""
    return data_folder("manifests") / "lab" / "charts" / name


def packed_chart(name: str) -> PackedChart:
    """Return one of the lab's charts; equal files give equal bytes, whatever their times and modes."""
    content = pack(name, folder_files(chart_folder(name)))
    return PackedChart(said=read_chart(content, subject=f"chart {name}"), content=content)


def repository_files() -> dict[str, bytes]:
    """Return what the upstream https hosts serve: `host/path` -> content."""
    metrics, cni = packed_chart("metrics-server"), packed_chart("aws-vpc-cni")
    released = f"{_RELEASES}/metrics-server-helm-chart-{metrics.said.version}/{metrics.file}"
    return {
        _place(f"{METRICS_SERVER}/index.yaml"): _index(metrics, released),
        _place(released): metrics.content,
        _place(f"{EKS_CHARTS}/index.yaml"): _index(cni, cni.file),
        _place(f"{EKS_CHARTS}/{cni.file}"): cni.content,
    }


def oci_chart() -> BuiltImage:
    """Return coredns as the OCI artifact that helm pulls."""
    chart = packed_chart("coredns")
    config = json.dumps(chart.said.metadata, sort_keys=True, separators=(",", ":")).encode()
    blobs = (_blob(HELM_CONFIG, config), _blob(HELM_CHART, chart.content))
    described = [{"mediaType": b.media_type, "digest": str(b.digest), "size": b.size} for b in blobs]
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described[0], "layers": described[1:]}
    raw = json.dumps(document, separators=(",", ":")).encode()
    return BuiltImage(
        reference=Reference.parse(f"{COREDNS.removeprefix('oci://')}:{chart.said.version}"),
        blobs=blobs,
        manifests=(BuiltManifest(raw=raw, media_type=OCI_MANIFEST),),
    )


def _index(chart: PackedChart, url: str) -> bytes:
    entry = {**chart.said.metadata, "created": _EPOCH, "digest": Digest.of(chart.content).hex, "urls": [url]}
    document = {"apiVersion": "v1", "entries": {chart.said.name: [entry]}, "generated": _EPOCH}
    return yaml.safe_dump(document).encode()


def _place(url: str) -> str:
    return url.removeprefix("https://")


def _blob(media_type: str, content: bytes) -> BuiltBlob:
    return BuiltBlob(media_type=media_type, digest=Digest.of(content), size=len(content), read=lambda: iter((content,)))
