"""A machine that looks like an EKS-optimized AL2023 one, in namespaces of its own: real containerd, ctr and runc.

/etc, /var and /root are overlays, /run is empty; whatever is written there is gone afterwards, and so is every process.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from bundler.data import data_folder

SCRIPTS = data_folder("packer") / "al2023"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
OTHER = {"amd64": "arm64", "arm64": "amd64"}[ARCHITECTURE]
PAUSE = "localhost/kubernetes/pause:latest"
SET_UP = r"""
set -eu
mount --make-rprivate /
layers=$(mktemp -d); mount -t tmpfs layers "$layers"
for folder in etc var root; do
  mkdir "$layers/$folder" "$layers/work-$folder"
  mount -t overlay -o "lowerdir=/$folder,upperdir=$layers/$folder,workdir=$layers/work-$folder" overlay "/$folder"
done
mount -t tmpfs run /run
mkdir -p /var/lib/containerd /etc/eks/image-credential-provider
mount -t tmpfs containerd /var/lib/containerd
rm -rf /etc/containerd
echo provider >/etc/eks/image-credential-provider/ecr-credential-provider
echo pause >/etc/eks/pause.tar
"""
PROGRAMS = {
    "kubelet": "echo Kubernetes v1.34.2-eks-1234567",
    "nodeadm": "echo Version: 0.0.0",
    "update-ca-trust": "echo updated >>/run/trust",
    "systemctl": r"""
case "$1 $2" in
  "start containerd")
    if [ -f /run/containerd.pid ]; then exit 0; fi
    containerd >>"$CONTAINERD_LOG" 2>&1 &
    echo $! >/run/containerd.pid ;;
  "stop containerd")
    pid=$(cat /run/containerd.pid); kill "$pid"
    while grep -q '^State:.[^Z]' "/proc/$pid/status" 2>/dev/null; do sleep 0.05; done
    rm /run/containerd.pid ;;
  *) exit 1 ;;
esac""",
}


class Node:
    """Runs shell lines on such a machine; each call is a new one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._programs = folder / "programs"
        self._programs.mkdir()
        for name, text in PROGRAMS.items():
            self.program(name, text)

    def program(self, name: str, text: str) -> None:
        path = self._programs / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        needed = [name for name in ("unshare", "containerd", "ctr", "runc") if shutil.which(name, path=PATH) is None]
        if needed or os.geteuid() != 0:
            pytest.skip(f"needs root, and programs that are not installed: {', '.join(needed) or 'none'}")
        argv = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", SET_UP + script]
        environ = {
            "PATH": f"{self._programs}:{PATH}",
            "SCRIPTS": str(SCRIPTS),
            "CONTAINERD_LOG": str(self.folder / "containerd.log"),
            "HERE": str(self.folder),
        }
        return subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=240, check=False)


PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def tar_layer(name: str, content: bytes) -> bytes:
    """A layer that can be unpacked: one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return out.getvalue()
