"""The lab's source images and charts, as the programs that everybody uses see them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bundler.adapters.charts import ChartFinder
from bundler.adapters.documents import read_document
from bundler.adapters.http import Transport, TransportSettings
from bundler.adapters.http_files import HttpFiles
from bundler.adapters.oci_registry import RegistryClient
from bundler.adapters.registries_config import load_registries
from bundler.adapters.registry_auth import FirstOf
from bundler.cache import Cache
from bundler.domain.definition import Definition, parse_definition
from bundler.domain.digest import Digest
from bundler.domain.oci import (
    DOCKER_LIST,
    OCI_INDEX,
    Index,
    Manifest,
    Platform,
    derive_index,
    parse_config_platform,
    parse_diff_ids,
    parse_manifest,
)
from bundler.domain.reference import Reference
from bundler.errors import DigestError
from bundler.lab.charts import chart_folder, packed_chart
from bundler.lab.images import RECIPES, WHEELS, BuiltImage, build_images
from bundler.lab.registry_store import RegistryStore
from bundler.lab.source import SourceFacts, fill, source_registry
from bundler.lab.wheels import Member, Wheel, fetch_wheels, wheel_folder
from bundler.retry import RetryPolicy
from bundler.stages.resolve import WantedImage, choose_children, resolve

pytestmark = pytest.mark.loopback

GOLDEN = {
    "kube-proxy": "5a78d5291863047caf923429086f625503fe3058ca1628e8afac52a987b66240",
    "coredns": "8ead1f15828d0bfb88f13d86995bd185848fbb71000ee0e520063a9aa80bd93a",
    "amazon-k8s-cni": "72c8938281aa50ad2e1c1f529c5150e8277f557c9c0084a46adaf95b1da6adde",
    "amazon-k8s-cni-init": "a6be5dcc909b88bd8e2698b806622a8e745e20c907f526785df295cd84528146",
    "aws-network-policy-agent": "6b55b7356a5b26bbdd84a35d8ba960b9e6b0741b9200d1e177e250278f3284fa",
    "eks-pod-identity-agent": "a28ae4ae741092547fa804b67c2ef2cbd36106bc539b76b45b7745436cabf75a",
    "pause": "12a732046285f956f82f959c97689b4f7b3796c2e4a8c51e463c353852906670",
    "metrics-server": "0cea341d5d92ddb26d71210912585d82f1011f8153b3927160f0aba70f30fdc8",
}
SAYS = {"shfmt": "v3.14.1", "ruff": "ruff 0.17.6"}
BOTH = (Platform.parse("linux/amd64"), Platform.parse("linux/arm64"))
NAMES = [str(recipe.reference) for recipe in RECIPES]


@pytest.fixture(scope="module")
def wheels() -> Path:
    fetch_wheels(WHEELS, folder=wheel_folder())
    return wheel_folder()


@pytest.fixture(scope="module")
def images(wheels: Path) -> dict[str, BuiltImage]:
    return {str(image.reference): image for image in build_images(wheels)}


@pytest.fixture(scope="module")
def source(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SourceFacts]:
    with source_registry(tmp_path_factory.mktemp("source"), wheels=wheels) as facts:
        yield facts


def skopeo(*arguments: str) -> bytes:
    return subprocess.run(["skopeo", *arguments], check=True, capture_output=True, timeout=60).stdout


def address(source: SourceFacts, name: str) -> str:
    return f"docker://{source.url.removeprefix('http://')}/{name}"


def short(name: str) -> str:
    """kube-proxy of registry/eks/kube-proxy:tag."""
    return name.rpartition(":")[0].rpartition("/")[2]


def index_of(image: BuiltImage) -> Index:
    found = parse_manifest(image.index.raw, subject=str(image.reference), media_type=image.index.media_type)
    assert isinstance(found, Index)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_an_image_has_the_same_digest_everywhere(name: str, images: dict[str, BuiltImage]) -> None:
    assert images[name].index.digest.hex == GOLDEN[short(name)]


@pytest.mark.parametrize("name", NAMES)
def test_every_blob_of_an_image_is_what_its_manifest_says(name: str, images: dict[str, BuiltImage]) -> None:
    image = images[name]
    blobs = {blob.digest: blob for blob in image.blobs}
    for raw in image.manifests[:-1]:
        manifest = parse_manifest(raw.raw, subject=name, media_type=raw.media_type)
        assert isinstance(manifest, Manifest)
        for described in manifest.blobs:
            assert (blobs[described.digest].size, blobs[described.digest].media_type) == (
                described.size,
                described.media_type,
            )
        if raw.platform is not None:
            config = b"".join(blobs[manifest.config.digest].read())
            assert parse_config_platform(config, subject=name) == raw.platform
            assert len(parse_diff_ids(config, subject=name)) == len(manifest.layers)
    for blob in image.blobs:
        sha256, size = hashlib.sha256(), 0
        for chunk in blob.read():
            sha256.update(chunk)
            size += len(chunk)
        assert (sha256.hexdigest(), size) == (blob.digest.hex, blob.size)


def test_the_images_show_every_form_that_registries_hold(images: dict[str, BuiltImage]) -> None:
    raw, derived, types, attested, seen, shared = set(), set(), set(), 0, set(), 0
    for image in images.values():
        index = index_of(image)
        chosen = choose_children(index, BOTH)
        assert not isinstance(chosen, Platform)
        (raw if len(chosen) == len(index.manifests) else derived).add(index.media_type)
        attested += any(child.is_attestation for child in chosen)
        types |= {blob.media_type.rpartition("+")[2].rpartition(".")[2] for blob in image.blobs}
        shared += sum(blob.digest in seen for blob in image.blobs)
        seen |= {blob.digest for blob in image.blobs}
    assert raw == derived == {OCI_INDEX, DOCKER_LIST}
    assert {"gzip", "zstd"} <= types
    assert attested == 2
    assert shared >= 10


def test_a_derived_index_keeps_what_upstream_says_of_a_platform(images: dict[str, BuiltImage]) -> None:
    index = index_of(next(image for name, image in images.items() if "/pause:" in name))
    assert index.entries[2]["platform"] == {"architecture": "amd64", "os": "windows", "os.version": "10.0.20348.0"}
    chosen = choose_children(index, BOTH)
    assert not isinstance(chosen, Platform)
    document = json.loads(derive_index(index, keep=[child.digest for child in chosen]))
    assert document["manifests"] == list(index.entries[:2])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_skopeo_inspects_every_image(name: str, architecture: str, source: SourceFacts) -> None:
    choice = ("--override-os", "linux", "--override-arch", architecture)
    found = json.loads(skopeo(*choice, "inspect", "--tls-verify=false", address(source, name)))
    assert (found["Os"], found["Architecture"]) == ("linux", architecture)
    assert found["Labels"]["io.eks-bundler.lab"] == name.rpartition(":")[0]


@pytest.mark.parametrize("name", NAMES)
def test_skopeo_gets_the_very_bytes_of_every_index(
    name: str, source: SourceFacts, images: dict[str, BuiltImage]
) -> None:
    raw = skopeo("inspect", "--raw", "--tls-verify=false", address(source, name))
    assert raw == images[name].index.raw


@pytest.mark.parametrize("name", NAMES)
def test_every_image_runs_from_the_layers_that_skopeo_unpacks(name: str, source: SourceFacts, tmp_path: Path) -> None:
    copied, root = tmp_path / "image", tmp_path / "root"
    root.mkdir()
    skopeo(
        "--override-arch", "amd64", "copy", "--quiet", "--src-tls-verify=false", "--dest-decompress",
        address(source, name), f"dir:{copied}",
    )  # fmt: skip
    manifest = json.loads((copied / "manifest.json").read_text())
    for layer in manifest["layers"]:
        blob = copied / layer["digest"].removeprefix("sha256:")
        subprocess.run(["tar", "-xf", blob, "-C", root, "--no-same-owner"], check=True, timeout=60)
    config = json.loads((copied / manifest["config"]["digest"].removeprefix("sha256:")).read_text())
    program, *arguments = config["config"]["Entrypoint"]
    enter = ["chroot", root] if os.geteuid() == 0 else ["unshare", "--map-root-user", f"--root={root}"]
    done = subprocess.run([*enter, program, *arguments], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == SAYS[Path(program).name]
    assert name.rpartition(":")[0] in (root / "etc" / "eks-bundler-lab").read_text()


def test_the_programs_of_the_other_platforms_are_built_for_them(wheels: Path) -> None:
    machines = {"aarch64": 183, "armv7l": 40, "x86_64": 62}
    for wheel in WHEELS:
        machine = next((machines[arch] for arch in machines if wheel.tag.endswith(arch)), None)
        if machine is None:
            continue
        name = wheel.name.removesuffix("-py")
        stem = f"{wheel.name.replace('-', '_')}-{wheel.version}"
        head = next(Member(wheel=wheels / wheel.file, name=f"{stem}.data/scripts/{name}").read())[:20]
        assert head[:4] == b"\x7fELF"
        assert int.from_bytes(head[18:20], "little") == machine


def test_a_wheel_that_is_not_the_pinned_one_is_refused_and_a_damaged_one_fetched_again(
    wheels: Path, tmp_path: Path
) -> None:
    good = WHEELS[0]
    shutil.copy(wheels / good.file, tmp_path / good.file)
    (tmp_path / good.file).write_bytes((tmp_path / good.file).read_bytes()[:-1])
    fetch_wheels([good], folder=tmp_path)
    assert hashlib.sha256((tmp_path / good.file).read_bytes()).hexdigest() == good.sha256
    bad = Wheel(name=good.name, version=good.version, tag=good.tag, file=good.file, sha256="0" * 64)
    with pytest.raises(Exception, match="pip cannot download it") as caught:
        fetch_wheels([bad], folder=tmp_path / "empty")
    assert "hash" in str(caught.value).lower()
    assert not (tmp_path / "empty" / good.file).exists()


def test_content_that_is_not_what_its_image_says_never_enters_the_registry(
    images: dict[str, BuiltImage], tmp_path: Path
) -> None:
    image = next(iter(images.values()))
    blob = image.blobs[0]
    changed = type(blob)(media_type=blob.media_type, digest=Digest.of(b"other"), size=blob.size, read=blob.read)
    store = RegistryStore(tmp_path)
    store.prepare()
    with pytest.raises(DigestError, match="the bytes that were made have the digest"):
        fill(store, [BuiltImage(reference=image.reference, blobs=(changed,), manifests=image.manifests)])
    assert not store.blob(changed.digest).exists()


@pytest.fixture
def helm_in(helm: Path, tmp_path: Path) -> HelmIn:
    return HelmIn(helm, tmp_path)


class HelmIn:
    """helm with a home of its own."""

    def __init__(self, program: Path, home: Path) -> None:
        self._program = program
        self.home = home

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            [self._program, *arguments],
            env={"HOME": str(self.home), "PATH": "/usr/bin:/bin"},
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout

    def render(self, chart: str, *arguments: str) -> list[dict[str, object]]:
        text = self("template", "release", chart, "--namespace", "kube-system", "--kube-version", "1.36.3", *arguments)
        return [document for document in yaml.safe_load_all(text) if document]


def test_helm_pulls_the_oci_chart(helm_in: HelmIn, source: SourceFacts) -> None:
    host = source.url.removeprefix("http://")
    place = ("--version", "1.0.0-lab.1", "--plain-http", "--destination", str(helm_in.home))
    helm_in("pull", f"oci://{host}/ghcr.io/coredns/charts/coredns", *place)
    assert "name: coredns" in helm_in("show", "chart", str(helm_in.home / "coredns-1.0.0-lab.1.tgz"))


def test_helm_pulls_from_the_chart_repository(helm_in: HelmIn, source: SourceFacts) -> None:
    place = ("--repo", f"{source.url}/aws.github.io/eks-charts", "--version", "1.0.0-lab.1")
    helm_in("pull", "aws-vpc-cni", *place, "--destination", str(helm_in.home))
    assert "name: aws-vpc-cni" in helm_in("show", "chart", str(helm_in.home / "aws-vpc-cni-1.0.0-lab.1.tgz"))


def definition() -> Definition:
    path = Path(__file__).parents[2] / "bundles" / "closed-minimal" / "bundle.lab.yaml"
    return parse_definition(read_document(path))


def client(source: SourceFacts) -> tuple[RegistryClient, HttpFiles]:
    """The product's own clients, led to the lab by its registries.yaml."""
    registries = load_registries({"BUNDLE_REGISTRIES": str(source.registries_file)})
    transport, policy = Transport(TransportSettings()), RetryPolicy(tries=1)
    reader = RegistryClient(transport, provider=FirstOf(), registries=registries, policy=policy)
    return reader, HttpFiles(transport, registries=registries, policy=policy)


def test_our_client_resolves_every_image_under_its_upstream_name(
    source: SourceFacts, images: dict[str, BuiltImage], tmp_path: Path
) -> None:
    reader, _ = client(source)
    wanted = [WantedImage(reference=Reference.parse(name), platforms=BOTH, source=reader) for name in images]
    locked = {str(image.reference): image for image in resolve(wanted, cache=Cache(tmp_path))}
    assert {short(name) for name, image in locked.items() if image.form == "derived"} == {"coredns", "pause"}
    for name, image in locked.items():
        upstream = image.target if image.upstream is None else image.upstream
        assert upstream.digest == images[name].index.digest
        assert [platform.architecture for platform in image.platforms] == ["amd64", "arm64"]
    assert sum(manifest.attests is not None for image in locked.values() for manifest in image.manifests) == 4


def test_our_client_finds_the_charts_of_the_lab_bundle(source: SourceFacts) -> None:
    reader, files = client(source)
    lab = definition()
    assert lab.core.coredns is not None
    assert lab.core.vpc_cni is not None
    assert lab.addons[0].chart is not None
    finder = ChartFinder(folder=Path(), urls=files, images=reader)
    for wanted, name, origin in (
        (lab.core.coredns.chart, "coredns", "oci"),
        (lab.core.vpc_cni.chart, "aws-vpc-cni", "https"),
        (lab.addons[0].chart, "metrics-server", "https"),
    ):
        found = finder.find(wanted)
        assert (found.name, found.origin) == (name, origin)
        assert found.tgz == packed_chart(name).content


def images_in(documents: list[dict[str, object]]) -> set[str]:
    found: set[str] = set()

    def walk(value: object) -> None:
        if isinstance(value, dict):
            found.update(item for key, item in value.items() if key == "image" and isinstance(item, str))
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(documents)
    return found


def test_the_lab_bundle_renders_to_images_that_the_source_holds(
    helm_in: HelmIn, images: dict[str, BuiltImage], tmp_path: Path
) -> None:
    lab = definition()
    assert lab.core.coredns is not None
    assert lab.core.vpc_cni is not None
    assert lab.core.kube_proxy is not None
    assert lab.core.pause is not None
    found = {str(lab.core.kube_proxy.image), str(lab.core.pause.image)}
    for name, values in (
        ("coredns", lab.core.coredns.values),
        ("aws-vpc-cni", lab.core.vpc_cni.values),
        ("metrics-server", lab.addons[0].values),
    ):
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(values))
        found |= images_in(helm_in.render(str(chart_folder(name)), "--values", str(file)))
    assert found == {name for name in images if "eks-pod-identity-agent" not in name}


def test_the_charts_make_the_objects_that_eks_names(helm_in: HelmIn, tmp_path: Path) -> None:
    lab = definition()
    assert lab.core.coredns is not None
    (tmp_path / "coredns.yaml").write_text(yaml.safe_dump(lab.core.coredns.values))
    objects = {
        (str(document["kind"]), str(document["metadata"]["name"]))  # type: ignore[index]
        for chart, *arguments in (
            ("coredns", "--values", str(tmp_path / "coredns.yaml")),
            ("aws-vpc-cni",),
            ("metrics-server",),
            ("eks-pod-identity-agent",),
        )
        for document in helm_in.render(str(chart_folder(chart)), *arguments)
    }
    assert objects >= {
        ("DaemonSet", "aws-node"),
        ("DaemonSet", "eks-pod-identity-agent"),
        ("Deployment", "coredns"),
        ("Service", "kube-dns"),
        ("ConfigMap", "coredns"),
        ("APIService", "v1beta1.metrics.k8s.io"),
    }


@pytest.mark.parametrize(
    ("chart", "values", "count"),
    [
        ("aws-vpc-cni", ["image.override", "init.image.override", "nodeAgent.image.override"], 3),
        ("eks-pod-identity-agent", ["image.override"], 1),
    ],
)
def test_an_override_replaces_an_image_whole(helm_in: HelmIn, chart: str, values: list[str], count: int) -> None:
    wanted = {value: f"private.example.com/{number}@sha256:{'0' * 64}" for number, value in enumerate(values)}
    arguments = [part for value, image in wanted.items() for part in ("--set", f"{value}={image}")]
    found = images_in(helm_in.render(str(chart_folder(chart)), *arguments))
    assert found == set(wanted.values())
    assert len(found) == count
