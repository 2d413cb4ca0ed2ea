"""Charts from every kind of source, without a network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bundler.adapters.chart_tar import pack, unpack
from bundler.adapters.charts import ChartFinder, built_in_chart
from bundler.domain.chart import FetchedChart
from bundler.domain.definition import ChartSource
from bundler.domain.digest import Digest
from bundler.domain.oci import HELM_CHART, HELM_CONFIG, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor, parse_manifest
from bundler.domain.reference import Reference
from bundler.errors import BundleError, DefinitionError, DigestError, FormatError, LimitError, NotFoundUpstreamError

TGZ = pack("web", {"Chart.yaml": b"apiVersion: v2\nname: web\nversion: 1.2.3+b.1\n", "templates/a.yaml": b"a: b\n"})
OTHER = pack("web", {"Chart.yaml": b"apiVersion: v2\nname: web\nversion: 3.0.0\n"})
REPOSITORY = "https://charts.example.com/stable"


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """https files and registry manifests that the test says exist."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    manifests: Mapping[str, bytes] = field(default_factory=dict)
    blobs: Mapping[Digest, bytes] = field(default_factory=dict)

    def stream(self, url: str) -> Iterator[bytes]:
        if url not in self.files:
            raise NotFoundUpstreamError(url, "is not there")
        yield from (self.files[url][at : at + 100] for at in range(0, len(self.files[url]), 100))

    def manifest(self, reference: Reference) -> Any:
        if str(reference) not in self.manifests:
            raise NotFoundUpstreamError(str(reference), "is not there")
        return parse_manifest(self.manifests[str(reference)], subject=str(reference))

    def read_blob(
        self, name: Reference, blob: Descriptor, sink: Callable[[memoryview], None], *, restart: Callable[[], None]
    ) -> None:
        sink(memoryview(b"broken try"))
        restart()
        sink(memoryview(self.blobs[blob.digest]))


def finder(folder: Path = Path("/nowhere"), **upstream: Any) -> ChartFinder:
    outside = Upstream(**upstream)
    return ChartFinder(folder=folder, urls=outside, images=outside)


def source(**fields: str) -> ChartSource:
    return ChartSource.model_validate(fields)


FROM_REPOSITORY = source(repository=REPOSITORY + "/", name="web", version="1.2.3+b.1")


def index(**entry: object) -> dict[str, bytes]:
    found = {"version": "1.2.3+b.1", "urls": ["web-1.2.3.tgz"], "digest": Digest.of(TGZ).hex, **entry}
    older = {"version": "1.0.0", "urls": ["web-1.0.0.tgz"]}
    entries = {"other": [{"version": "1.2.3+b.1"}], "web": [older, found]}
    return {f"{REPOSITORY}/index.yaml": json.dumps({"apiVersion": "v1", "entries": entries}).encode()}


def assert_artifact(chart: FetchedChart) -> None:
    locked = chart.locked()
    assert locked.content.digest == Digest.of(chart.tgz)
    assert [blob.digest for blob in locked.manifest.blobs] == [Digest.of(blob) for blob in chart.blobs]
    assert locked.manifest.digest == Digest.of(chart.manifest)
    config = json.loads(chart.config)
    assert (config["name"], config["version"]) == (chart.name, chart.version)


@pytest.mark.parametrize("address", ["web-1.2.3.tgz", "/stable/web-1.2.3.tgz", f"{REPOSITORY}/web-1.2.3.tgz"])
def test_a_chart_of_an_https_repository_is_found_by_its_index(address: str) -> None:
    files = {**index(urls=[address]), f"{REPOSITORY}/web-1.2.3.tgz": TGZ}
    chart = finder(files=files).find(FROM_REPOSITORY)
    assert (chart.origin, chart.tgz, chart.locked().reference) == ("https", TGZ, "charts/web:1.2.3_b.1")
    assert_artifact(chart)


def test_a_file_that_the_index_does_not_pin_is_refused() -> None:
    files = {**index(digest="sha256:" + "0" * 64), f"{REPOSITORY}/web-1.2.3.tgz": TGZ}
    with pytest.raises(DigestError, match="the index says 0000"):
        finder(files=files).find(FROM_REPOSITORY)


@pytest.mark.parametrize(
    ("files", "error", "cause"),
    [
        ({}, NotFoundUpstreamError, "index.yaml"),
        (index(version="9.9.9"), NotFoundUpstreamError, r"it offers 1\.0\.0, 9\.9\.9"),
        (index(urls=[]), FormatError, "has no address"),
        (index(urls=["ftp://example.com/x"]), FormatError, "is not an http or https address"),
        (index(urls=["file:///etc/passwd"]), FormatError, "is not an http or https address"),
        ({f"{REPOSITORY}/index.yaml": b"entries: {web: ["}, FormatError, "is not YAML"),
        ({f"{REPOSITORY}/index.yaml": b"\xff"}, FormatError, "is not UTF-8"),
        ({f"{REPOSITORY}/index.yaml": b"a: b"}, NotFoundUpstreamError, "it offers none"),
        ({**index(digest=""), f"{REPOSITORY}/web-1.2.3.tgz": OTHER}, FormatError, r"holds the chart web 3\.0\.0"),
        ({**index(digest=""), f"{REPOSITORY}/web-1.2.3.tgz": b"not gzip"}, FormatError, "is not gzip"),
    ],
)  # fmt: skip
def test_a_repository_that_gives_something_else_is_refused(
    files: dict[str, bytes], error: type[BundleError], cause: str
) -> None:
    with pytest.raises(error, match=cause):
        finder(files=files).find(FROM_REPOSITORY)


def test_an_endless_index_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bundler.adapters.charts.MAX_INDEX_BYTES", 1000)
    with pytest.raises(LimitError, match=r"index\.yaml: is larger than 1000 bytes"):
        finder(files={f"{REPOSITORY}/index.yaml": b"#" * 1001}).find(FROM_REPOSITORY)


def artifact(tgz: bytes, *, config_type: str = HELM_CONFIG, layers: tuple[str, ...] = (HELM_CHART,)) -> Upstream:
    config, prov = b'{"name":"web","version":"1.2.3+b.1","x":"kept as upstream wrote it"}', b"provenance"
    contents = [tgz if kind == HELM_CHART else prov for kind in layers]
    described = [
        {"mediaType": kind, "digest": str(Digest.of(content)), "size": len(content)}
        for kind, content in zip((config_type, *layers), (config, *contents), strict=True)
    ]
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described[0], "layers": described[1:]}
    return Upstream(
        manifests={"ghcr.io/example/web:1.2.3_b.1": json.dumps(document, indent=3).encode()},
        blobs={Digest.of(content): content for content in (config, *contents)},
    )


FROM_REGISTRY = source(oci="oci://ghcr.io/example/web", version="1.2.3+b.1")


def test_a_chart_of_a_registry_keeps_upstreams_manifest_and_further_layers() -> None:
    upstream = artifact(TGZ, layers=(HELM_CHART, "application/vnd.cncf.helm.chart.provenance.v1.prov"))
    chart = ChartFinder(folder=Path(), urls=upstream, images=upstream).find(FROM_REGISTRY)
    assert chart.manifest == upstream.manifests["ghcr.io/example/web:1.2.3_b.1"]
    assert (chart.origin, chart.tgz, chart.further) == ("oci", TGZ, (b"provenance",))
    assert_artifact(chart)


@pytest.mark.parametrize(
    ("upstream", "error", "cause"),
    [
        (Upstream(), NotFoundUpstreamError, "is not there"),
        (artifact(TGZ, config_type=OCI_CONFIG), FormatError, "is an image, not a Helm chart"),
        (artifact(TGZ, layers=(OCI_LAYER,)), FormatError, "as its first layer"),
        (artifact(OTHER), FormatError, "holds the chart web 3"),
    ],
)
def test_an_artifact_that_is_no_such_chart_is_refused(upstream: Upstream, error: type[BundleError], cause: str) -> None:
    with pytest.raises(error, match=cause):
        ChartFinder(folder=Path(), urls=upstream, images=upstream).find(FROM_REGISTRY)


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_a_folder_is_packed_the_same_whatever_its_times_modes_and_name(tmp_path: Path) -> None:
    files = {
        "Chart.yaml": "apiVersion: v2\nname: web\nversion: 1.0.0\n",
        ".helmignore": "*.bak\n.git/\n",
        "templates/a.yaml": "a: b\n",
        "templates/.swp": "x",
        "a.bak": "x",
        ".git/config": "x",
    }
    write(tmp_path / "one", files)
    write(tmp_path / "two", dict(reversed(files.items())))
    (tmp_path / "two" / "templates/a.yaml").chmod(0o700)
    one = finder(tmp_path).find(source(path="one"))
    two = finder(tmp_path).find(source(path="two", version="1.0.0"))
    assert (one.tgz, one.manifest, one.origin) == (two.tgz, two.manifest, "path")
    assert sorted(unpack(one.tgz, subject="x")[1]) == [".helmignore", "Chart.yaml", "templates/a.yaml"]
    assert_artifact(one)


def test_a_tgz_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "web-1.2.3.tgz").write_bytes(TGZ)
    assert finder(tmp_path).find(source(path="web-1.2.3.tgz")).tgz == TGZ


def test_a_path_with_another_version_than_asked_for_is_refused(tmp_path: Path) -> None:
    (tmp_path / "web.tgz").write_bytes(TGZ)
    with pytest.raises(FormatError, match=r"holds the chart web 1\.2\.3\+b\.1, not web 2\.0\.0"):
        finder(tmp_path).find(source(path="web.tgz", version="2.0.0"))


def test_paths_that_are_no_charts_are_named(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="nothing: does not exist"):
        finder(tmp_path).find(source(path="nothing"))
    write(tmp_path / "empty", {"values.yaml": "a: b"})
    with pytest.raises(DefinitionError, match=r"holds no Chart\.yaml with a name"):
        finder(tmp_path).find(source(path="empty"))


def test_a_link_in_a_folder_is_refused_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "web", {"Chart.yaml": "name: web\nversion: 1.0.0\n"})
    (tmp_path / "web" / "Chart.lock").symlink_to("/etc/passwd")
    with pytest.raises(DefinitionError, match=r"Chart\.lock: is a link"):
        finder(tmp_path).find(source(path="web"))


def test_manifests_become_a_chart_named_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text("kind: ConfigMap\nmetadata: {name: '{{ not a template }}'}\n")
    chart = finder(tmp_path).wrap("extra", "all.yaml")
    again = finder(tmp_path).wrap("extra", "all.yaml")
    digest = hashlib.sha256((tmp_path / "all.yaml").read_bytes()).hexdigest()
    assert (chart.name, chart.version, chart.origin) == ("extra", f"0.0.0-m{digest[:12]}", "manifest")
    assert chart.manifest == again.manifest
    assert_artifact(chart)


def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text("kind: [")
    with pytest.raises(DefinitionError, match="is no file of Kubernetes manifests"):
        finder(tmp_path).wrap("extra", "all.yaml")


def test_kube_proxy_comes_with_the_tool() -> None:
    chart = built_in_chart("kube-proxy")
    assert (chart.name, chart.origin, chart.content.notes) == ("kube-proxy", "built-in", ())
    assert_artifact(chart)
