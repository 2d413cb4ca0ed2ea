"""The disk of the lab's AL2023 node: an 8 GiB ext4 image that a real containerd has run on, made once and kept.

It has no partitions and no kernel: what boots it is machine.py, on the kernel of this host.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from bundler.adapters.process import run
from bundler.domain.blocks import BLOCK_BYTES
from bundler.domain.digest import Digest
from bundler.domain.oci import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from bundler.errors import TargetError
from bundler.lab import node_standins, node_tree
from bundler.lab.layers import Content, Entry, Layer, tar_stream
from bundler.lab.node_standins import PAUSE
from bundler.lab.node_tree import NodeTree, program

ROOT_GIB = 8
_UUID = "6b756265-6c65-7420-6c61-62206469736b"
_EPOCH = "1767225600"  # 1 January 2026
_LIMIT_S = 300
# In namespaces of its own, so that nothing of it is left however it ends.
_IMPORT = f"""
set -eu
mount -t proc proc "$1/proc"
mount -t tmpfs tmpfs "$1/run"
mount --rbind /dev "$1/dev"
set -a; . "$1/etc/environment"; set +a
cp "$2" "$1/run/pause.tar"
chroot "$1" systemctl start containerd
chroot "$1" ctr -n k8s.io images import /run/pause.tar
chroot "$1" ctr -n k8s.io images label {PAUSE} io.cri-containerd.pinned=pinned
chroot "$1" systemctl stop containerd
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawDisk:
    """A sparse image; its blocks of 512 KiB that are not all zero, with their SHA-256."""

    path: Path
    gib: int
    blocks: dict[int, bytes]


def disk_folder() -> Path:
    """Where disks are kept: `$XDG_CACHE_HOME/eks-bundler/lab-disks`."""
    return user_cache_path("eks-bundler") / "lab-disks"


def node_disk(kubelet_version: str) -> RawDisk:
    """Return the disk whose kubelet has this version (v1.36.0); made where the cache does not hold it, in seconds.

    Raises:
        MissingToolError: a program that it is made of, or with, is not installed.
    """
    node_tree.require_programs()
    tree = NodeTree(kubelet_version)
    tree.collect()
    folder = disk_folder()
    folder.mkdir(parents=True, exist_ok=True)
    name = f"al2023-{kubelet_version}-{_key(tree)[:16]}"
    with FileLock(folder / ".lock"):
        if not (folder / f"{name}.json").exists():
            _make(tree, folder, name, kubelet_version)
        index = json.loads((folder / f"{name}.json").read_text())
    blocks = {int(number): bytes.fromhex(sha256) for number, sha256 in index.items()}
    return RawDisk(path=folder / f"{name}.img", gib=ROOT_GIB, blocks=blocks)


def _key(tree: NodeTree) -> str:
    """Name the inputs: what goes on the disk, and the code that puts it there."""
    whole = hashlib.sha256(tree.digest().encode())
    for module in (__file__, node_tree.__file__, node_standins.__file__):
        whole.update(Path(module).read_bytes())
    return whole.hexdigest()


def _make(tree: NodeTree, folder: Path, name: str, kubelet_version: str) -> None:
    for old in folder.glob(f"al2023-{kubelet_version}-*"):
        old.unlink()
    for unfinished in folder.glob(".new-*"):
        shutil.rmtree(unfinished)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as temporary:
        root, image = Path(temporary) / "root", Path(temporary) / "image"
        root.mkdir()
        tree.write(root)
        _import_pause(root, Path(temporary) / "pause.tar")
        _same_times(root)
        _make_file_system(root, image)
        shutil.rmtree(root)
        index = {str(number): hashlib.sha256(block).hexdigest() for number, block in written_blocks(image)}
        image.chmod(0o444)
        image.rename(folder / f"{name}.img")
    (folder / f"{name}.json").write_text(json.dumps(index))


def _import_pause(root: Path, archive: Path) -> None:
    archive.write_bytes(b"".join(tar_stream(_pause_archive())))
    spaces = ("--mount", "--pid", "--fork", "--kill-child", "--propagation", "private")
    _run(program("unshare"), *spaces, "bash", "-c", _IMPORT, "import", str(root), str(archive), what="containerd")


def _pause_archive() -> list[Entry]:
    """Return a tiny image as an OCI archive: one file that says what it is; it is never run."""
    layer = Layer(entries=(_file("etc/eks-bundler-lab", b"The sandbox image of the eks-bundler lab.\n"),))
    packed = b"".join(layer.read())
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/pause"]},
            "rootfs": {"type": "layers", "diff_ids": [str(layer.measured.diff_id)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _descriptor(OCI_CONFIG, config),
            "layers": [_descriptor(f"{OCI_LAYER}+gzip", packed)],
        }
    )
    named = {**_descriptor(OCI_MANIFEST, manifest), "annotations": {"io.containerd.image.name": PAUSE}}
    index = _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [named]})
    blobs = [_file(f"blobs/sha256/{Digest.of(blob).hex}", blob) for blob in (packed, config, manifest)]
    layout = _file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    return [layout, _file("index.json", index), Entry(path="blobs"), Entry(path="blobs/sha256"), *blobs]


def _file(path: str, content: bytes) -> Entry:
    return Entry(path=path, mode=0o644, content=Content.of(content))


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content)}


def _json(document: dict[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _same_times(root: Path) -> None:
    when = (int(_EPOCH), int(_EPOCH))
    for folder, _, files in os.walk(root, topdown=False):
        for name in files:
            os.utime(Path(folder) / name, when, follow_symlinks=False)
        os.utime(folder, when)


def _make_file_system(root: Path, image: Path) -> None:
    truncate(image, ROOT_GIB)
    features = f"hash_seed={_UUID},lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    _run(program("mkfs.ext4"), "-q", "-L", "/", "-U", _UUID, "-E", features, "-d", str(root), str(image), what="disk")


def truncate(image: Path, gib: int) -> None:
    """Make a file of this size without giving it room."""
    with image.open("ab") as file:
        file.truncate(gib << 30)


def grow(image: Path, gib: int) -> None:
    """Give a disk, and the file system on it, another size, as cloud-init does at the first start."""
    truncate(image, gib)
    _run(program("e2fsck"), "-f", "-p", str(image), what="disk", good=(0, 1))
    _run(program("resize2fs"), str(image), what="disk")


def written_blocks(image: Path) -> Iterator[tuple[int, bytes]]:
    """Yield every block that is not all zero, with its number; holes of the file are not read."""
    zero = bytes(BLOCK_BYTES)
    with image.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        position = _data_from(file.fileno(), 0, size)
        while position < size:
            number = position // BLOCK_BYTES
            block = os.pread(file.fileno(), BLOCK_BYTES, number * BLOCK_BYTES).ljust(BLOCK_BYTES, b"\0")
            if block != zero:
                yield number, block
            position = _data_from(file.fileno(), (number + 1) * BLOCK_BYTES, size)


def _data_from(handle: int, position: int, size: int) -> int:
    """Return where data begins at or after `position`; `size` where there is none."""
    if position >= size:
        return size
    try:
        return os.lseek(handle, position, os.SEEK_DATA)
    except OSError:  # ENXIO: nothing but a hole to the end
        return size


def _run(path: Path, *arguments: str, what: str, good: tuple[int, ...] = (0,)) -> None:
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "SOURCE_DATE_EPOCH": _EPOCH,
        "E2FSPROGS_FAKE_TIME": _EPOCH,  # what e2fsprogs read before 1.47.1
    }
    done = run([str(path), *arguments], timeout_s=_LIMIT_S, env=environment)
    if done.returncode not in good:
        raise TargetError(f"lab {what}", f"{path.name} ended with {done.returncode}: {done.tail}")
