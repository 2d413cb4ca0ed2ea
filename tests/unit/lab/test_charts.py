from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import yaml

from bundler.adapters.documents import parse_document
from bundler.adapters.registries_config import parse_registries
from bundler.domain.digest import Digest
from bundler.domain.oci import HELM_CHART, HELM_CONFIG, Manifest, parse_manifest
from bundler.lab.charts import EKS_CHARTS, METRICS_SERVER, chart_folder, oci_chart, packed_chart, repository_files
from bundler.lab.source import registries_text, upstream_hosts

GOLDEN = {
    "aws-vpc-cni": "a24328c66cb3ef9e3f88bf6aebfcee02adcced9c9a2f1bf2e0a279541eac099e",
    "coredns": "bdbedd2f67215a7bba58536ce3652349dc9bd9119547ad051c9b6a7b415e0044",
    "eks-pod-identity-agent": "3007896af7d2fd20704be363de70fd2462d7de87afb34b0d2569ef4352d2d051",
    "metrics-server": "0fafe3376f61ee590796b6b22c207e23adddf5c23fbd127a7e923a96d074c0ef",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_chart_has_the_same_bytes_everywhere(name: str) -> None:
    assert Digest.of(packed_chart(name).content).hex == GOLDEN[name]


@pytest.mark.parametrize("name", GOLDEN)
def test_every_chart_says_that_it_is_not_upstreams(name: str) -> None:
    assert "lab" in str(packed_chart(name).said.metadata["description"]).lower()
    assert "not upstream's" in str(packed_chart(name).said.metadata["description"])
    assert "**This is not the chart of" in (chart_folder(name) / "README.md").read_text()


def test_a_package_holds_one_folder_of_the_charts_name() -> None:
    with tarfile.open(fileobj=io.BytesIO(packed_chart("coredns").content), mode="r:gz") as archive:
        names = archive.getnames()
    assert "coredns/Chart.yaml" in names
    assert all(name.startswith("coredns/") for name in names)


@pytest.mark.parametrize(("repository", "name"), [(METRICS_SERVER, "metrics-server"), (EKS_CHARTS, "aws-vpc-cni")])
def test_each_index_names_a_file_that_is_served_with_its_digest(repository: str, name: str) -> None:
    files = repository_files()
    place = repository.removeprefix("https://")
    entry = yaml.safe_load(files[f"{place}/index.yaml"])["entries"][name][0]
    url = entry["urls"][0]
    content = files[url.removeprefix("https://") if "://" in url else f"{place}/{url}"]
    assert Digest.of(content).hex == entry["digest"]
    assert entry["version"] == "1.0.0-lab.1"


def test_one_index_points_to_another_host_and_one_is_relative() -> None:
    indexes = {place: content.decode() for place, content in repository_files().items() if place.endswith(".yaml")}
    assert "https://github.com/" in indexes["kubernetes-sigs.github.io/metrics-server/index.yaml"]
    assert "- aws-vpc-cni-1.0.0-lab.1.tgz" in indexes["aws.github.io/eks-charts/index.yaml"]


def test_the_oci_chart_is_an_artifact_of_helms_types() -> None:
    chart = oci_chart()
    manifest = parse_manifest(chart.index.raw, subject="coredns", media_type=chart.index.media_type)
    assert isinstance(manifest, Manifest)
    assert manifest.config.media_type == HELM_CONFIG
    assert [layer.media_type for layer in manifest.layers] == [HELM_CHART]
    assert str(chart.reference) == "ghcr.io/coredns/charts/coredns:1.0.0-lab.1"
    for blob, described in zip(chart.blobs, manifest.blobs, strict=True):
        assert Digest.of(b"".join(blob.read())) == described.digest


def test_registries_send_every_upstream_host_to_the_lab(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("")
    text = registries_text("https://127.0.0.1:5000", ca_file="ca.pem")
    registries = parse_registries(parse_document(text.encode(), source="registries.yaml"), folder=tmp_path)
    assert set(registries.mapped) == set(upstream_hosts())
    assert {"registry.k8s.io", "ghcr.io", "github.com", "aws.github.io"} < set(upstream_hosts())
    endpoint = registries.endpoint("registry.k8s.io")
    assert str(endpoint.origin) == "https://127.0.0.1:5000"
    assert endpoint.repository("pause") == "registry.k8s.io/pause"
    assert endpoint.ca_files == (str(authority),)
    url, _ = registries.locate(f"{EKS_CHARTS}/index.yaml")
    assert str(url) == "https://127.0.0.1:5000/aws.github.io/eks-charts/index.yaml"
