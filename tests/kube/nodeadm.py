#!/usr/bin/env python3
"""Builds the real nodeadm, which reads the user data of AL2023 nodes; standard library and go.py only.

    python3 tests/kube/nodeadm.py        # stdout: NODEADM=<program>; all else goes to stderr

Kept in $BUNDLE_CACHE_DIR (else $XDG_CACHE_HOME/eks-bundler) under nodeadm/<key>. Go is found as for build.py, and
GOPROXY is respected. Where NODEADM is set, that is printed and nothing is done.

This is the only version that the Go module proxy has. Its `config check` decodes: it finds what is no NodeConfig and
what is of the wrong type, and passes over missing fields and over keys that it does not know.

Exit codes: 0 built or found · 1 the build failed · 75 a registry that it needs cannot be reached.
"""

from __future__ import annotations

import hashlib
import platform
import re
import sys
import tempfile
import time
from pathlib import Path

from go import BuildError, Go, ended, failure, find_go, follow, locked, say, show, sync

MODULE = "github.com/awslabs/amazon-eks-ami/nodeadm"
VERSION = "v0.0.0-20240229193347-cfab22a10647"
MODULE_SUM = "h1:8yRBVsjGmI7qQsPWtIrbWP+XfwHO9Wq7gdLVzjqiZFs="
PROGRAM = "nodeadm"
PROGRESS = re.compile(r"^(?:go: downloading .*|[a-z0-9.]+[\w./~-]*)$")


def ensure_program(kube: Path) -> Path:
    """Return the program; at most one process builds it, and none while `kube`, which has the Go of both, is built."""
    folder = kube.parent / PROGRAM / source_key()
    if not folder.is_dir():
        kube.mkdir(parents=True, exist_ok=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(kube / "lock"):
            if not folder.is_dir():
                install(Go(find_go(kube)), folder)
    return folder / PROGRAM


def source_key() -> str:
    """Return a hash of everything that decides what the program is, but for Go itself."""
    return hashlib.sha256(f"{platform.machine()} {MODULE}@{VERSION} {MODULE_SUM}".encode()).hexdigest()[:16]


def install(go: Go, wanted: Path) -> None:
    """Build into a temporary folder, see that it is that module, and publish it by rename."""
    began = time.monotonic()
    say("building the real nodeadm: about 200 CPU seconds the first time", of=PROGRAM)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=wanted.parent) as temporary:
        folder = Path(temporary) / PROGRAM
        go.environment["GOBIN"] = str(folder)
        process = go.start("install", "-v", "-trimpath", "-ldflags", "-s -w", f"{MODULE}/cmd/{PROGRAM}@{VERSION}")
        with ended(process):
            output = follow(process, PROGRESS, "modules and packages done", None)
        if process.wait() != 0:
            raise failure("building nodeadm (see GOPROXY in `go help environment`)", output, network=True)
        if MODULE_SUM not in go.ask("version", "-m", str(folder / PROGRAM)).split():
            raise BuildError(f"{MODULE}@{VERSION} is not what it was: its sum is not {MODULE_SUM}")
        sync(folder / PROGRAM)
        folder.rename(wanted)
    sync(wanted.parent)
    say(f"built in {time.monotonic() - began:.0f} s: {wanted / PROGRAM}", of=PROGRAM)


if __name__ == "__main__":
    sys.exit(show("NODEADM", ensure_program, of=PROGRAM))
