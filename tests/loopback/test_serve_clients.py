"""skopeo, containerd's ctr and helm pull from `bundle serve`; containerd also as a mirror, by hosts.toml."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bundler.domain.lock import LockedImage
from bundler.domain.reference import Reference
from bundler.lab.tls import Subject, issue, make_authority
from tests.fakes.archives import Sample, locked_image, sample
from tests.fakes.images import image, index
from tests.journey import clean_environment
from tests.serving import Running, serving, write_bundle

pytestmark = pytest.mark.loopback
WEB, TOOL = "docker.io/library/web:1", "registry.example:5000/team/tool:v2"
PASSWORD = "s3cret-PASSWORD"
HTPASSWD = "user:$2y$04$u/7TEA5nz5EcAGrPs/Ov7.WgpDXSWfQ/4wbrSHm8kgMEyf/gKZmUe\n"  # bcrypt of PASSWORD


def layer(name: str) -> bytes:
    """A layer that unpacks."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    return packed.getvalue()


def with_real_layers() -> Sample:
    """The sample, and two images that unpack: an OCI index of docker.io, Docker types of a registry with a port."""
    made = sample()
    blobs = dict(made.blobs)
    amd, arm = (image(f"web {arch}", platform=f"linux/{arch}", layers=[layer(arch)]) for arch in ("amd64", "arm64"))
    images = (
        locked_image(WEB, index(amd, arm), blobs),
        locked_image(TOOL, image("tool", layers=[layer("a"), layer("b")], docker=True), blobs),
    )
    lock = made.lock.model_copy(update={"images": (*made.lock.images, *images)})
    return replace(made, lock=lock, blobs=blobs)


MADE = with_real_layers()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("served")
    write_bundle(MADE, made)
    return made


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Running]:
    with serving(folder / "sample-7.tar", folder) as started:
        yield started


def served_name(reference: Reference) -> str:
    return f"{reference.name.replace(':', '-')}:{reference.tag}"


# skopeo


@pytest.mark.parametrize("one", MADE.lock.images, ids=lambda one: str(one.reference))
def test_skopeo_copies_every_image_docker_types_too(
    running: Running, skopeo: Callable[..., bytes], tmp_path: Path, one: LockedImage
) -> None:
    source = f"docker://{running.address}/{served_name(one.reference)}"
    skopeo("copy", "--all", "--preserve-digests", "--src-tls-verify=false", source, f"dir:{tmp_path}/out")
    assert (tmp_path / "out" / "manifest.json").read_bytes() == MADE.blobs[one.target.digest]
    for blob in (blob for manifest in one.manifests for blob in manifest.blobs):
        assert (tmp_path / "out" / blob.digest.hex).read_bytes() == MADE.blobs[blob.digest]


def test_skopeo_lists_tags_and_reads_by_digest(running: Running, skopeo: Callable[..., bytes]) -> None:
    name = f"docker://{running.address}/registry.k8s.io/pause"
    assert b'"3.10"' in skopeo("list-tags", "--tls-verify=false", name)
    pause = next(one for one in MADE.lock.images if one.reference.repository == "pause")
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"{name}@{pause.target.digest}")
    assert raw == MADE.blobs[pause.target.digest]


def test_skopeo_pulls_over_tls_with_a_password(folder: Path, skopeo: Callable[..., bytes], tmp_path: Path) -> None:
    authority = make_authority("an authority")
    pair = issue(authority, Subject(common_name="serve"), names=("127.0.0.1",))
    for name, content in (("ca.crt", authority.pem), ("cert.pem", pair.certificate_pem), ("key.pem", pair.key_pem)):
        (tmp_path / name).write_bytes(content)
    users = tmp_path / "htpasswd"
    users.write_text(HTPASSWD)
    options = ("--tls", str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"), "--htpasswd", str(users))
    (tmp_path / "certs").mkdir()
    (tmp_path / "ca.crt").rename(tmp_path / "certs" / "ca.crt")
    with serving(folder / "sample-7.tar", folder, *options) as secure:
        source = f"docker://{secure.address}/{WEB}"
        access = ("--src-cert-dir", str(tmp_path / "certs"), "--src-creds", f"user:{PASSWORD}")
        skopeo("copy", *access, source, f"dir:{tmp_path}/out")
    assert (tmp_path / "out" / "manifest.json").is_file()


# helm


def test_helm_pulls_a_chart(running: Running, helm: Path, tmp_path: Path) -> None:
    chart = MADE.lock.charts[0]
    argv = [helm, "pull", f"oci://{running.address}/charts/{chart.name}", "--version", chart.version, "--plain-http"]
    environment = clean_environment() | {"HOME": str(tmp_path)}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    [packed] = tmp_path.glob("*.tgz")
    assert packed.read_bytes() == MADE.blobs[chart.content.digest]


# containerd


@dataclass(frozen=True, kw_only=True)
class Containerd:
    """A containerd with folders and a socket of its own."""

    folder: Path

    def ctr(self, *arguments: str) -> str:
        argv = ["ctr", "--address", str(self.folder / "sock"), *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def hosts(self, host: str, url: str) -> Path:
        """Write a hosts.toml that sends what is asked of `host` (or of `_default`) to `url` instead."""
        made = self.folder / "certs.d" / host
        made.mkdir(parents=True, exist_ok=True)
        (made / "hosts.toml").write_text(f'[host."{url}"]\n  capabilities = ["pull", "resolve"]\n')
        return made.parent

    def target(self, reference: str) -> str:
        """The digest that an image has here."""
        listed = self.ctr("images", "ls", f"name=={reference}").splitlines()
        return listed[1].split()[2]


@pytest.fixture(scope="module")
def containerd() -> Iterator[Containerd]:
    program = shutil.which("containerd")
    if program is None or shutil.which("ctr") is None or os.geteuid() != 0:
        pytest.skip("containerd and ctr are not installed (Debian: apt install containerd), or this is not root")
    with tempfile.TemporaryDirectory(prefix="ctd-") as name:  # a short path: sockets allow 107 characters
        folder = Path(name)
        (folder / "config.toml").write_text(
            f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\n  address = "{folder}/sock"\n'
        )
        with (folder / "log").open("wb") as log:
            argv = [program, "--config", str(folder / "config.toml")]
            process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for(folder, process)
            yield Containerd(folder=folder)
        finally:
            process.terminate()
            process.wait(30)


def _wait_for(folder: Path, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        assert process.poll() is None, (folder / "log").read_text()[-2000:]
        asked = subprocess.run(["ctr", "--address", folder / "sock", "version"], capture_output=True, check=False)
        if asked.returncode == 0:
            return
        time.sleep(0.1)
    raise AssertionError((folder / "log").read_text()[-2000:])


PULL = ("images", "pull", "--snapshotter", "native", "--platform", "linux/amd64")


@pytest.mark.parametrize(
    ("name", "host"),
    [(WEB, "docker.io"), (TOOL, "_default"), ("registry.k8s.io/pause:3.10", "registry.k8s.io")],
)
def test_containerd_pulls_under_the_upstream_name_through_a_mirror(
    running: Running, containerd: Containerd, name: str, host: str
) -> None:
    """With hosts.toml containerd asks for the path alone, and gives the host as ns."""
    one = next(one for one in MADE.lock.images if str(one.reference) == name)
    hosts = containerd.hosts(host, running.url)
    before = len(running.log.read_text())
    verb = PULL if one.reference.repository != "pause" else ("content", "fetch", "--platform", "linux/amd64")
    containerd.ctr(*verb, "--hosts-dir", str(hosts), name)
    assert containerd.target(name) == str(one.target.digest)
    asked = running.log.read_text()[before:]
    assert f" /v2/{one.reference.repository}/manifests/" in asked, "without the host"
    assert f" /v2/{one.reference.repository}/blobs/" in asked


@pytest.mark.parametrize("name", [WEB, TOOL])
def test_ctr_pulls_and_unpacks(running: Running, containerd: Containerd, name: str) -> None:
    one = next(one for one in MADE.lock.images if str(one.reference) == name)
    reference = f"{running.address}/{served_name(one.reference)}"
    containerd.ctr(*PULL, "--plain-http", reference)
    assert containerd.target(reference) == str(one.target.digest)
    for blob in one.manifests[0].blobs:
        assert containerd.ctr("content", "ls", "-q").count(str(blob.digest)) == 1
