"""`bundle push` as a process, to Debian's docker-registry and to a registry that logs every request."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import urllib3

from bundler.lab.lab import LabFacts
from bundler.lab.plain import plain_registry
from bundler.lab.request_log import mutations, read_requests
from bundler.lab.tools import Tools
from tests.journey import REGISTRY, Workspace, definition, small_definition, workspace
from tests.peers import StartRegistry

pytestmark = pytest.mark.loopback
CONTENT = f"""\
images:
  - {{image: "{REGISTRY}/eks/coredns:v1.0.0-lab.1", reason: derived index}}
  - {{image: "{REGISTRY}/amazon-k8s-cni:v1.0.0-lab.1", reason: Docker media types}}
  - {{image: "{REGISTRY}/eks/eks-pod-identity-agent:v1.0.0-lab.1", reason: attestations}}
"""
ADDONS = """\
addons:
  - name: metrics-server
    namespace: kube-system
    chart:
      repository: https://kubernetes-sigs.github.io/metrics-server
      name: metrics-server
      version: 1.0.0-lab.1
"""
PASSWORD = "s3cret-PASSWORD"
HTPASSWD = "user:$2b$04$u/7TEA5nz5EcAGrPs/Ov7.WgpDXSWfQ/4wbrSHm8kgMEyf/gKZmUe\n"  # bcrypt of PASSWORD
_REQUEST = re.compile(r'"(GET|HEAD|POST|PUT|PATCH|DELETE) (/v2/\S*) HTTP')


@pytest.fixture(scope="module")
def real(lab: LabFacts, tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with the archive of the lab's images, `journey-1.tar`."""
    made = workspace(tmp_path_factory.mktemp("real"), lab, definition(tools, addons=ADDONS, images=CONTENT))
    made.build()
    return made


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with an archive of small images, `small-1.tar`, and nothing of a lab."""
    folder = tmp_path_factory.mktemp("small")
    made = workspace(folder, None, small_definition(folder))
    made.build()
    return made


@pytest.fixture(scope="module", autouse=True)
def unreachable(small: Workspace) -> Iterator[subprocess.Popen[bytes]]:
    """A push to where nobody listens, begun before the other tests: it tries again for half a minute."""
    process = small.start("push", "small-1.tar", "127.0.0.1:9/team", "--trust", "trust", stderr=subprocess.PIPE)
    with process:
        yield process
        process.kill()


def test_a_password_in_the_name_of_the_registry_is_usage_and_not_shown(small: Workspace) -> None:
    done = small.bundle("push", "small-1.tar", "user:CANARY@host.example/x", "--trust", "trust", expect=2)
    assert "is not HOST[:PORT]/PREFIX" in done.stderr
    assert "CANARY" not in done.stdout + done.stderr


@dataclass(kw_only=True)
class DockerRegistry:
    """A docker-registry with its files and its access log."""

    address: str
    folder: Path

    def requests(self) -> list[tuple[str, str]]:
        """Method and path of what was asked so far."""
        return _REQUEST.findall((self.folder / "registry-0.log").read_text())

    def writes(self) -> int:
        """How many of these could change something."""
        return sum(method not in ("GET", "HEAD") for method, _ in self.requests())

    @property
    def root(self) -> Path:
        return self.folder / "registry-0"

    def content(self) -> dict[str, bytes]:
        """Every repository, tag, manifest and blob there is, as files; unfinished uploads are none of them."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file() and "_uploads" not in path.parts
        }

    def forget(self) -> None:
        """Become an empty registry."""
        shutil.rmtree(self.root, ignore_errors=True)


@pytest.fixture
def registry(docker_registry: StartRegistry, tmp_path: Path) -> DockerRegistry:
    return DockerRegistry(address=docker_registry(), folder=tmp_path)


def push(place: Workspace, address: str, *more: str, expect: int = 0, **environment: str) -> str:
    """Push the archive to `team` there; return what was said on stderr, in one line."""
    archive = next(place.folder.glob("*-1.tar")).name
    done = place.bundle("push", archive, f"{address}/team", "--trust", "trust", *more, expect=expect, **environment)
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def get(url: str, media_type: str) -> bytes:
    answer = urllib3.request("GET", url, headers={"Accept": media_type}, retries=False)
    assert answer.status == 200, answer.data
    return answer.data


def images_of(place: Workspace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((place.folder / "bundle.lock.json").read_bytes())["images"]
    return found


@pytest.fixture(params=["docker-registry", "the lab's plain registry"])
def target(request: pytest.FixtureRequest, docker_registry: StartRegistry, tmp_path: Path) -> Iterator[str]:
    """The address of an empty registry of each kind."""
    if request.param == "docker-registry":
        yield docker_registry()
        return
    with plain_registry(tmp_path / "plain") as url:
        yield url.removeprefix("http://")


def test_manifests_arrive_byte_for_byte_as_the_source_has_them(
    real: Workspace, lab: LabFacts, target: str, skopeo: Callable[..., bytes], tmp_path: Path
) -> None:
    """Both sides by plain HTTP; then skopeo pulls each image with everything below it, and checks every digest."""
    push(real, target)
    forms = set()
    for number, image in enumerate(images_of(real)):
        host, _, rest = image["reference"].partition("/")
        path, _, tag = rest.partition(":")
        there = f"http://{target}/v2/team/{host}/{path}/manifests"
        wanted = list(image["manifests"])
        forms.add(image["form"])
        if image["form"] == "index":
            wanted.append(image["target"])
        for manifest in wanted:
            here = f"{lab.source_url}/v2/{host}/{path}/manifests/{manifest['digest']}"
            raw = get(f"{there}/{manifest['digest']}", manifest["mediaType"])
            assert raw == get(here, manifest["mediaType"])
        tagged = get(f"{there}/{tag}", image["target"]["mediaType"])
        assert tagged == get(f"{there}/{image['target']['digest']}", image["target"]["mediaType"])
        pulled = f"docker://{target}/team/{host}/{path}:{tag}"
        skopeo("copy", "--all", "--src-tls-verify=false", pulled, f"dir:{tmp_path}/{number}")
    assert forms == {"index", "derived"}


def test_the_real_helm_pulls_a_pushed_chart(real: Workspace, tools: Tools, registry: DockerRegistry) -> None:
    push(real, registry.address)
    chart = f"oci://{registry.address}/team/charts/metrics-server"
    argv = [tools.helm4.path, "show", "chart", chart, "--version", "1.0.0-lab.1", "--plain-http"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env={"HOME": str(registry.folder)})
    assert "name: metrics-server" in done.stdout


def test_a_second_push_sends_nothing_to_docker_registry(real: Workspace, registry: DockerRegistry) -> None:
    assert "6 pushed, 0 were there" in push(real, registry.address)
    content, before = registry.content(), len(registry.requests())
    assert "0 pushed, 6 were there" in push(real, registry.address)
    asked = registry.requests()[before:]
    assert {method for method, _ in asked} <= {"GET", "HEAD"}
    assert asked
    assert registry.content() == content


def test_a_second_push_sends_nothing_to_the_plain_registry(small: Workspace, tmp_path: Path) -> None:
    with plain_registry(tmp_path) as url:
        push(small, url.removeprefix("http://"))
        first = len(list(read_requests(tmp_path / "requests.jsonl")))
        written = len(mutations(tmp_path / "requests.jsonl"))
        push(small, url.removeprefix("http://"))
        assert len(list(read_requests(tmp_path / "requests.jsonl"))) > first
        assert len(mutations(tmp_path / "requests.jsonl")) == written


def test_what_the_registry_lost_is_sent_again(small: Workspace, registry: DockerRegistry) -> None:
    """A tag that is gone brings its image back; what other images still have is not sent."""
    push(small, registry.address)
    content, before = registry.content(), registry.writes()
    shutil.rmtree(registry.root / "docker/registry/v2/repositories/team/registry.example/team/app-3/_manifests")
    assert "1 pushed, 5 were there" in push(small, registry.address)
    assert registry.content() == content
    assert registry.writes() - before == 4  # three manifests; a mount, which finds its blob there


def test_one_blob_of_several_images_is_sent_once_and_mounted_elsewhere(
    small: Workspace, registry: DockerRegistry
) -> None:
    push(small, registry.address)
    asked = registry.requests()
    blobs = {path.name for path in (registry.root / "docker/registry/v2/blobs/sha256").glob("*/*")}
    manifests = sum(method == "PUT" and "/manifests/" in path for method, path in asked)
    sent = sum(method == "PUT" and "/blobs/" in path for method, path in asked)
    assert manifests == 3 * 6
    assert sent + manifests == len(blobs)
    assert sum("mount=" in path for _, path in asked) == 5


@pytest.mark.slow
def test_kill_9_of_push_at_50_moments_changes_nothing(small: Workspace, registry: DockerRegistry) -> None:
    """From an empty registry to a full one, each round is killed five times, spread over its writes."""
    push(small, registry.address)
    wanted, writes, chance = registry.content(), registry.writes(), random.Random(5)
    killed, turn = 0, -1
    while killed < 50:
        turn += 1
        registry.forget()
        begun = registry.writes()
        for part in range(5):
            moment = writes * (10 * part + turn % 10) // 50
            process = small.start("push", "small-1.tar", f"{registry.address}/team", "--trust", "trust")
            while registry.writes() - begun < moment and process.poll() is None:
                time.sleep(0.002)
            time.sleep(chance.random() * (0.7 if moment == 0 else 0.02))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                killed += 1
            process.wait()
        push(small, registry.address)
        assert registry.content() == wanted


def test_wrong_credentials_are_exit_4_and_right_ones_never_show(
    small: Workspace, docker_registry: StartRegistry, tmp_path: Path
) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    address = docker_registry(auth={"htpasswd": {"realm": "x", "path": str(tmp_path / "htpasswd")}})
    for password, words in (
        (None, "the registry wants credentials"),
        ("wr0ng-PASSWORD", "refuses our credentials: 401"),
    ):
        said = push(small, address, expect=4, DOCKER_CONFIG=docker_config(tmp_path, address, password))
        assert said.startswith(f"Access error: {address}")
        assert f"{words} safe: Nothing was pushed. next: Log in (skopeo login, docker login)" in said
        assert "PASSWORD" not in said
    assert not (tmp_path / "registry-0").exists()
    said = push(small, address, "--progress", "json", DOCKER_CONFIG=docker_config(tmp_path, address, PASSWORD))
    assert "6 pushed" in said
    assert PASSWORD not in said


def docker_config(folder: Path, address: str, password: str | None) -> str:
    """A docker configuration that knows the registry's user with this password, or nothing."""
    config = folder / f"docker-{password}"
    config.mkdir()
    auth = "" if password is None else base64.b64encode(f"user:{password}".encode()).decode()
    (config / "config.json").write_text(json.dumps({"auths": {address: {"auth": auth}} if auth else {}}))
    return str(config)


def test_a_registry_that_cannot_be_reached_is_exit_5(
    unreachable: subprocess.Popen[bytes],
) -> None:
    _, said = unreachable.communicate(timeout=200)
    told = " ".join(said.decode().split())
    assert unreachable.returncode == 5
    assert "again in" in told
    assert re.search(
        r"Network error: 127\.0\.0\.1:9/team/registry\.example/team/app-\d:1\.0\.\d cause: .* refused", told
    )
    assert "next: Run the same command again." in told
    assert "Traceback" not in told


def test_a_registry_that_answers_late_is_waited_for(small: Workspace, registry: DockerRegistry) -> None:
    """It stands still for two seconds in the middle of the push."""
    server = registry_process(registry)
    process = small.start("push", "small-1.tar", f"{registry.address}/team", "--trust", "trust")
    while registry.writes() < 20:
        time.sleep(0.002)
    os.kill(server, signal.SIGSTOP)
    time.sleep(2)
    assert process.poll() is None
    os.kill(server, signal.SIGCONT)
    assert process.wait(60) == 0
    assert "0 pushed, 6 were there" in push(small, registry.address)


def registry_process(registry: DockerRegistry) -> int:
    """The process that serves this registry: the child of ours that was given its configuration."""
    wanted = str(registry.folder / "registry-0.yml").encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if wanted in path.read_bytes():
                return int(path.parent.name)
    raise AssertionError("no docker-registry")
