"""`make bench-peers`: what bench compares us with, in ~/.cache/eks-bundler/bench/bin.

crane and regctl come by `go install`, oras as Debian 13's package, unpacked; skopeo by apt, where we are root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.corpus import HOME
from tests.bench.images import INSTALL

BIN = HOME / "bin"
DEBIAN_13 = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main\n"


def main() -> int:
    BIN.mkdir(parents=True, exist_ok=True)
    failed = [name for name, install in (("skopeo", _apt), ("crane", _go), ("regctl", _go), ("oras", _oras)) if (
        not (BIN / name).is_file() and shutil.which(name) is None and not install(name)
    )]  # fmt: skip
    for name in failed:
        print(f"bench-peers: {name} could not be installed: {INSTALL[name]}", file=sys.stderr)
    return 1 if failed else 0


def _run(*command: str, **environment: str) -> bool:
    return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode == 0


def _apt(name: str) -> bool:
    return os.geteuid() == 0 and _run("apt-get", "install", "-y", "-qq", "--no-install-recommends", name)


def _go(name: str) -> bool:
    from tests.kube.go import find_go

    module = INSTALL[name].rpartition(" ")[2]
    return _run("nice", find_go(HOME), "install", module, GOBIN=str(BIN), CGO_ENABLED="0", GOFLAGS="-mod=mod")


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


if __name__ == "__main__":
    sys.exit(main())
