"""`make bench-peers`: what bench compares us with, in ~/.cache/eks-bundler/bench/bin.

crane and regctl come by `go install`, skcopy from its sources here, oras as Debian 13's package, unpacked; skopeo by
apt, where we are root; coldsnap by cargo. What is there stays as it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.corpus import HOME
from tests.bench.images import INSTALL, find_path

BIN = HOME / "bin"
SKCOPY = Path(__file__).with_name("skcopy")
TAGS = "containers_image_openpgp containers_image_storage_stub containers_image_docker_daemon_stub"
DEBIAN_13 = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main\n"


def main() -> int:
    BIN.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, install in _INSTALLERS.items():
        found = find_path(name)
        if found is None and not install(name):
            failed.append(name)
        print(f"bench-peers: {name}: {found or find_path(name) or f'not installed: {INSTALL[name]}'}", flush=True)
    return 1 if failed else 0


def _run(*command: str, **environment: str) -> bool:
    return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode == 0


def _apt(name: str) -> bool:
    return os.geteuid() == 0 and _run("apt-get", "install", "-y", "-qq", "--no-install-recommends", name)


def _go(name: str) -> bool:
    from tests.kube.go import find_go

    module = INSTALL[name].rpartition(" ")[2]
    return _run("nice", find_go(HOME), "install", module, GOBIN=str(BIN), CGO_ENABLED="0", GOFLAGS="-mod=mod")


def _skcopy(name: str) -> bool:
    """Build it with cgo: without, its library has no memory of blobs on disk, and mounts nothing."""
    from tests.kube.go import find_go

    build = ["nice", find_go(HOME), "-C", str(SKCOPY), "build", "-trimpath", "-buildvcs=false", "-tags", TAGS]
    return shutil.which("gcc") is not None and _run(*build, "-o", str(BIN / name), ".", CGO_ENABLED="1")


def _cargo(name: str) -> bool:
    """Without --locked: the versions that coldsnap 0.6.1 pins do not compile with Rust 1.80 and later."""
    return shutil.which("cargo") is not None and _run("nice", *INSTALL[name].split(), "--root", str(HOME))


def _oras(name: str) -> bool:
    """Take the package of a Debian that this machine may not be, and nothing else of it."""
    if shutil.which("apt-get") is None:
        return False
    with tempfile.TemporaryDirectory(prefix="bench-apt-") as place:
        folder = Path(place)
        (folder / "lists" / "partial").mkdir(parents=True)
        (folder / "sources.list").write_text(DEBIAN_13)
        kept = {
            "Dir::Etc::SourceList": "sources.list", "Dir::Etc::SourceParts": "none",
            "Dir::State::Lists": "lists", "Dir::Cache": "cache",
        }  # fmt: skip
        settings = [f"{option}={folder / where}" for option, where in kept.items()]
        apt = ["apt-get", "-qq", *(part for each in settings for part in ("-o", each)), "-o", "APT::Sandbox::User=root"]
        if not _run(*apt, "update") or subprocess.run([*apt, "download", name], cwd=folder, check=False).returncode:
            return False
        package = next(folder.glob("*.deb"))
        if not _run("dpkg-deb", "-x", str(package), str(folder / "unpacked")):
            return False
        shutil.copy(folder / "unpacked" / "usr" / "bin" / name, BIN / name)
        return True


_INSTALLERS = {"skopeo": _apt, "crane": _go, "regctl": _go, "skcopy": _skcopy, "oras": _oras, "coldsnap": _cargo}


if __name__ == "__main__":
    sys.exit(main())
