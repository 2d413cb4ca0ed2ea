#!/usr/bin/env python3
"""Builds a real Kubernetes control plane from the module in this folder; standard library and go.py only.

    python3 tests/kube/build.py        # stdout: KUBEBUILDER_ASSETS=<folder>; all else goes to stderr

One Go program under five names (etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kwok), kept
in $BUNDLE_CACHE_DIR (else $XDG_CACHE_HOME/eks-bundler) under kube/<key>, where the key is a hash of the
sources. Where KUBEBUILDER_ASSETS is set, that is printed and nothing is done.

Exit codes: 0 built or found · 1 the build failed · 75 a registry that it needs cannot be reached.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

from go import HERE, Go, ended, failure, find_go, follow, locked, run_quietly, say, show, sync

PARTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
PROGRAM = "kube-controlplane"
STAGE_FOLDERS = ("node/fast", "node/heartbeat-with-lease", "pod/fast")
REPLACED_STAGES = ("kustomization.yaml", "pod-ready.yaml")  # pod-stages.yaml has its own pod-ready
VERSION_PACKAGES = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")


def ensure_assets(cache: Path) -> Path:
    """Return the folder of the programs; at most one process builds it."""
    wanted = cache / source_key()
    if wanted.is_dir():
        return wanted
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / "lock"):
        if not wanted.is_dir():
            build(cache, wanted)
    return wanted


def source_key() -> str:
    """Return a hash of everything that decides what the programs are, but for Go itself."""
    sources = [
        *sorted(HERE.glob("controlplane/*.go")),
        *(HERE / name for name in ("go.mod", "go.sum", "pod-stages.yaml", "build.py", "go.py")),
    ]
    total = hashlib.sha256(platform.machine().encode())
    for source in sources:
        content = source.read_bytes()
        total.update(f"{source.relative_to(HERE)} {len(content)}\n".encode())
        total.update(content)
    return total.hexdigest()[:16]


def build(cache: Path, wanted: Path) -> None:
    """Build into a temporary folder and publish it by rename."""
    began = time.monotonic()
    for left_over in cache.glob(".building-*"):
        shutil.rmtree(left_over)
    say("building a real Kubernetes control plane: about 500 CPU seconds and 3 GB of disk the first time")
    go = Go(find_go(cache))
    packages = fetch_modules(go)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=cache) as temporary:
        folder = Path(temporary) / "assets"
        folder.mkdir()
        compile_program(go, folder / PROGRAM, packages)
        for name in PARTS:
            (folder / name).symlink_to(PROGRAM)
        write_stages(go, folder / "kwok-stages.yaml")
        version = run_quietly([str(folder / "kube-apiserver"), "--version"]).strip()
        sync(folder / PROGRAM)
        folder.rename(wanted)
    sync(cache)
    say(f"{version} built in {time.monotonic() - began:.0f} s: {wanted}")


def fetch_modules(go: Go) -> int:
    """Bring the modules that the program needs into Go's module cache; return its number of packages."""
    process = go.start("list", "-deps", "./controlplane")
    packages: list[str] = []
    reader = threading.Thread(target=lambda: packages.extend(process.stdout), daemon=True)
    reader.start()
    with ended(process):
        output = follow(process, re.compile(r"^go: downloading "), "modules fetched", None)
        reader.join()
    if process.wait() != 0:
        raise failure("fetching the modules (see GOPROXY in `go help environment`)", output, network=True)
    return len(packages)


def compile_program(go: Go, program: Path, packages: int) -> None:
    """Compile and link; a package that Go's build cache has is not compiled again."""
    version = go.ask("list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes").strip()
    major, minor = version.removeprefix("v").split(".")[:2]
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    linker = " ".join(
        ["-s -w", *(f"-X {where}.{name}={value}" for where in VERSION_PACKAGES for name, value in values.items())]
    )
    say(f"compiling up to {packages} packages of Kubernetes {version} (those compiled before are taken as they are)")
    # -gcflags=all=-dwarf=false: debug data that -s drops anyway; a seventh less work
    process = go.start(
        *("build", "-v", "-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false", "-p", str(os.cpu_count() or 1)),
        *("-ldflags", linker, "-o", str(program), "./controlplane"),
    )
    with ended(process):
        output = follow(process, re.compile(r"^[a-z0-9.]+[\w./~-]*$"), "packages compiled", packages)
    if process.wait() != 0:
        raise failure("compiling the control plane", output, network=False)


def write_stages(go: Go, path: Path) -> None:
    """Write what kwok does with nodes and pods: our pod stages and kwok's own for the rest."""
    kwok = Path(go.ask("list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok").strip())
    files = [file for name in STAGE_FOLDERS for file in sorted((kwok / "kustomize" / "stage" / name).glob("*.yaml"))]
    texts = [file.read_text() for file in files if file.name not in REPLACED_STAGES]
    path.write_text("---\n".join([(HERE / "pod-stages.yaml").read_text(), *(f"{text}\n" for text in texts)]))


if __name__ == "__main__":
    sys.exit(show("KUBEBUILDER_ASSETS", ensure_assets))
