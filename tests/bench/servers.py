"""Where images come from and go to: our registry (Go, in registry/), and Debian's docker-registry."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.corpus import HOME

SOURCES = Path(__file__).with_name("registry")
LINK = ("-latency", "30ms", "-rate", "60")
"""A link of 30 ms a request and 60 MB/s a connection."""
LINK_LATENCY_S, LINK_BYTES_PER_S = 0.03, 60e6


@dataclass(frozen=True, kw_only=True)
class Server:
    """A registry (or a bucket) that runs; `address` is HOST:PORT."""

    address: str
    tls: bool = False

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.address}"


@dataclass(frozen=True, kw_only=True)
class OwnRegistry(Server):
    """Ours, which says what it was asked for and what it holds."""

    control: str

    def stats(self) -> Mapping[str, int]:
        """What was asked and moved since the start, or since `reset`."""
        found: dict[str, int] = self._ask("_stats")
        return found

    def reset(self, *, keep: bool = False, verify: bool = False, free: bool = False) -> None:
        """Count from zero, and empty a sink.

        Args:
            keep: it holds what it held.
            verify: from now on it hashes what it is given, and refuses what is wrong.
            free: from now on it answers at once and at any rate, whatever link it stands behind.
        """
        asked = {"keep": keep, "verify": verify, "free": free}
        options = "&".join(f"{name}=1" for name, is_on in asked.items() if is_on)
        with urllib.request.urlopen(f"{self.control}/_reset?{options}", data=b""):
            pass

    def held(self) -> tuple[frozenset[str], frozenset[str]]:
        """`repository@digest` of each blob, and `repository@tag` of each manifest."""
        found = self._ask("_held")
        return frozenset(found["blobs"]), frozenset(found["manifests"])

    def _ask(self, path: str) -> dict[str, dict[str, int]] | dict[str, int]:
        with urllib.request.urlopen(f"{self.control}/{path}") as answer:
            found: dict[str, int] = json.load(answer)
            return found


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Files of a server's certificate, its key, and the authority that clients trust."""

    certificate: Path
    key: Path
    authority: Path


def make_certificate(folder: Path) -> Certificate:
    """Write a certificate for loopback."""
    from bundler.lab.tls import Subject, issue, make_authority

    authority = make_authority("bench")
    pair = issue(authority, Subject(common_name="127.0.0.1"), names=("127.0.0.1", "localhost"))
    made = Certificate(certificate=folder / "tls.pem", key=folder / "tls.key", authority=folder / "ca.pem")
    made.certificate.write_bytes(pair.certificate_pem)
    made.key.write_bytes(pair.key_pem)
    made.authority.write_bytes(authority.pem)
    return made


@contextmanager
def own_registry(*options: str, certificate: Certificate | None = None) -> Iterator[OwnRegistry]:
    """Run our registry in a process of its own; see `registry/main.go` for the options."""
    tls = () if certificate is None else ("-cert", str(certificate.certificate), "-key", str(certificate.key))
    command = [registry_program(), *options, *tls]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address, control = process.stdout.readline().split()
            yield OwnRegistry(address=address, tls=certificate is not None, control=f"http://{control}")
        finally:
            process.kill()


def registry_program() -> Path:
    """Return our registry, built once for its sources."""
    from tests.kube.go import find_go

    sources = sorted(path for path in SOURCES.iterdir() if path.name in {"main.go", "go.mod"})
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    program = HOME / "bin" / f"registry-{key}"
    if not program.is_file():
        program.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=program.parent) as folder:
            built = Path(folder) / "registry"
            command = [find_go(HOME), "build", "-trimpath", "-buildvcs=false", "-o", str(built), "."]
            subprocess.run(command, cwd=SOURCES, check=True)
            built.rename(program)
    return program


@dataclass(frozen=True, kw_only=True)
class DockerRegistry(Server):
    """Debian's; `data` is where its files are."""

    data: Path

    def reset(self) -> None:
        """Empty it: it asks the disk for all that it is asked."""
        shutil.rmtree(self.data, ignore_errors=True)


@contextmanager
def docker_registry() -> Iterator[DockerRegistry]:
    """Run Debian's docker-registry, empty, with its files on the disk."""
    program = shutil.which("docker-registry")
    if program is None:
        raise SystemExit("bench: docker-registry is missing: apt-get install docker-registry")
    with tempfile.TemporaryDirectory(prefix="docker-registry-") as name:
        folder, address = Path(name), f"127.0.0.1:{_free_port()}"
        config = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
            "http": {"addr": address},
        }
        (folder / "config.yml").write_text(json.dumps(config))
        with subprocess.Popen([program, "serve", str(folder / "config.yml")], stderr=subprocess.DEVNULL) as process:
            try:
                _wait_for(f"http://{address}/v2/")
                yield DockerRegistry(address=address, data=folder / "data")
            finally:
                process.kill()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _wait_for(url: str) -> None:
    for _ in range(200):
        try:
            urllib.request.urlopen(url).close()
        except urllib.error.URLError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"bench: {url} does not answer")
