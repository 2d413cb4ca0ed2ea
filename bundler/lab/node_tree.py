"""The root tree of a node disk: programs of this machine with their shared libraries, and stand-ins for the rest."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from bundler.adapters.process import run
from bundler.errors import MissingToolError
from bundler.lab import node_standins

_SEARCH = "/usr/sbin:/usr/bin:/sbin:/bin"  # Debian's own, whatever else is in PATH
_LIMIT_S = 60
DEBIAN_PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "runc": "runc",
    "mkfs.ext4": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "resize2fs": "e2fsprogs",
    "scp": "openssh-client",
    "mount": "mount",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "chroot": "coreutils",
    "ldd": "libc-bin",
}
"""What the lab cannot do machines without, and where Debian has it."""
_REQUIRED = ("bash", "containerd", "containerd-shim-runc-v2", "ctr", "env", "runc", "scp", "setpriv", "setsid", "tar")
_WISHED = (
    "awk", "base64", "basename", "cat", "chmod", "chown", "cmp", "comm", "cp", "curl", "cut", "date", "dd", "df",
    "diff", "dirname", "dmesg", "du", "echo", "egrep", "expr", "false", "fgrep", "file", "find", "findmnt", "fold",
    "getent", "grep", "groups", "gunzip", "gzip", "head", "hostname", "id", "install", "join", "jq", "kill", "ldd",
    "ln", "ls", "lsblk", "md5sum", "mkdir", "mkfifo", "mknod", "mktemp", "mount", "mountpoint", "mv", "nice", "nohup",
    "nproc", "od", "openssl", "paste", "pgrep", "pkill", "printenv", "printf", "ps", "pwd", "readlink", "realpath",
    "rm", "rmdir", "sed", "seq", "sha1sum", "sha256sum", "sha512sum", "shred", "shuf", "sleep", "sort", "split",
    "stat", "stty", "sync", "tac", "tail", "tee", "test", "timeout", "touch", "tr", "true", "truncate", "tty",
    "umount", "uname", "uniq", "uptime", "wc", "whoami", "xargs", "xz", "yes", "zcat", "zstd",
)  # fmt: skip
_FOLDERS = (
    "boot", "dev", "etc/containerd/certs.d", "etc/cni/net.d", "etc/eks", "etc/kubernetes/kubelet", "etc/ssh",
    "etc/pki/ca-trust/source/anchors", "etc/pki/ca-trust/extracted/pem", "etc/pki/tls/certs", "home/ec2-user",
    "opt/cni/bin", "opt", "proc", "root", "run", "srv", "sys", "tmp", "usr/bin", "usr/lib", "usr/lib64",
    "usr/local/bin", "usr/sbin", "usr/share", "var/lib", "var/log", "var/tmp",
)  # fmt: skip
_LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/sbin",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "var/run": "../run",
    "usr/bin/sh": "bash",
    "etc/pki/tls/certs/ca-bundle.crt": "../../ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/pki/tls/cert.pem": "certs/ca-bundle.crt",
}
_EC2_USER = 1000


def require_programs() -> None:
    """Make sure that the machine has what machines need.

    Raises:
        MissingToolError: with the Debian package of the program that is missing.
    """
    for name, package in DEBIAN_PACKAGES.items():
        program(name, package=package)


def program(name: str, *, package: str | None = None) -> Path:
    """Return where this machine has a program.

    Raises:
        MissingToolError: it is not installed.
    """
    found = shutil.which(name, path=_SEARCH)
    if found is None:
        raise MissingToolError(name, "is not installed", hint=f"Debian: apt install {package or name}")
    return Path(found)


class NodeTree:
    """What goes on the disk: files of this machine under the places they have on it, and our own."""

    def __init__(self, kubelet_version: str) -> None:
        self._scripts = node_standins.programs(kubelet_version)
        self._settings = node_standins.settings()
        self._files: dict[str, Path] = {}

    def collect(self) -> None:
        """Find the programs and their libraries.

        Raises:
            MissingToolError: one that is indispensable is not installed.
        """
        wished = [found for name in _WISHED if (found := shutil.which(name, path=_SEARCH)) is not None]
        programs = [str(program(name, package=DEBIAN_PACKAGES.get(name))) for name in _REQUIRED] + wished
        for place in programs:
            self._files[_on_disk(place)] = Path(place).resolve()
        binaries = [str(path) for path in self._files.values() if _is_elf(path)]
        for library in _libraries(binaries):
            self._files[_on_disk(library)] = Path(library).resolve()

    def digest(self) -> str:
        """Return the digest (64 hex digits) of everything that will be on the disk."""
        whole = hashlib.sha256()
        for place, text in sorted({**self._scripts, **self._settings}.items()):
            whole.update(f"{place}\0{text}\0".encode())
        for place, path in sorted(self._files.items()):
            with path.open("rb") as file:
                whole.update(f"{place}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
        return whole.hexdigest()

    def write(self, root: Path) -> None:
        """Make the tree below an empty folder."""
        for name in _FOLDERS:
            (root / name).mkdir(parents=True, exist_ok=True)
        for name, target in _LINKS.items():
            (root / name).symlink_to(target)
        for place, path in self._files.items():
            self._copy(path, root / place)
        for place, text in self._settings.items():
            _text(root / place, text, 0o644)
        for place, text in self._scripts.items():
            _text(root / place, text, 0o755)
        self._copy(program("bash"), root / node_standins.SUDO_SHELL)
        (root / node_standins.SUDO_SHELL).chmod(0o4755)
        for name in ("tmp", "var/tmp"):
            (root / name).chmod(0o1777)
        (root / "root").chmod(0o700)
        os.chown(root / "home/ec2-user", _EC2_USER, _EC2_USER)

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o755)


def _on_disk(place: str) -> str:
    """Return the place below the root, with /bin, /lib, … led into /usr as on AL2023."""
    first, _, rest = place.lstrip("/").partition("/")
    return f"usr/{first}/{rest}" if first in ("bin", "sbin", "lib", "lib64") else f"{first}/{rest}"


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _libraries(binaries: Iterable[str]) -> Iterator[str]:
    done = run([str(program("ldd")), *binaries], timeout_s=_LIMIT_S, env={"LC_ALL": "C"})
    for line in done.stdout.decode().splitlines():
        words = line.split()
        if line.endswith(":") or not words:
            continue
        if "=>" in words and words[-2].startswith("/"):
            yield words[-2]
        elif words[0].startswith("/"):
            yield words[0]


def _text(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
