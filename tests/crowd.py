"""A bundle of very many blobs of 1 KiB, each step of it in a process of its own that says how much memory it took.

`python -m tests.crowd STEP FOLDER [BLOBS]`: `prepare` makes lock and content, `build`, `verify` and `push` tell a peak.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bundler.adapters.archive_file import ArchiveFile
from bundler.archive.layout import plan_layout
from bundler.archive.metadata import closure_report, provenance, sbom
from bundler.archive.reader import open_archive
from bundler.archive.writer import ArchiveWriter
from bundler.cache import Cache
from bundler.domain.digest import Digest
from bundler.domain.image_map import PrivateRegistry
from bundler.domain.lock import Lock, lock_bytes, parse_lock
from bundler.domain.lock_manifests import check_manifests
from bundler.domain.oci import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor, Index, Manifest, parse_manifest
from bundler.domain.reference import Reference
from bundler.pacing import Bearing
from bundler.ports import Reopen, Sink
from bundler.stages.fetch import Supply, fetch
from bundler.transfer import Pace
from bundler.workflows.push import push_archive
from tests.fakes.archives import signer, trust_of

BLOB_BYTES = 1024
BLOBS_OF_IMAGE = 1000
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


def peak_mib(step: str, folder: Path) -> float:
    """Run one step; return the most memory that its process ever had."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.crowd", step, str(folder)],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return float(done.stdout)


class Content:
    """The blobs of a folder, each read from disk by its digest; none stays in memory."""

    def __init__(self, folder: Path) -> None:
        self._index = (folder / "index").read_bytes()
        self._content = os.open(folder / "content", os.O_RDONLY)
        self._manifests = folder / "manifests"

    def manifest(self, reference: Reference) -> Manifest | Index:
        assert reference.digest is not None
        return parse_manifest((self._manifests / reference.digest.hex).read_bytes(), subject=str(reference))

    def read_blob(self, name: Reference, blob: Descriptor, sink: Sink, *, restart: Callable[[], None]) -> None:
        del name, restart
        wanted, low, high = bytes.fromhex(blob.digest.hex), 0, len(self._index) // 32
        while low < high:
            middle = (low + high) // 2
            if self._index[32 * middle : 32 * middle + 32] < wanted:
                low = middle + 1
            else:
                high = middle
        sink(memoryview(os.pread(self._content, BLOB_BYTES, low * BLOB_BYTES)))


class Nowhere:
    """A registry that checks what it takes, and keeps the digests of tags alone."""

    def __init__(self) -> None:
        self.tags: dict[Reference, Digest] = {}
        self.taken = 0

    def manifest_digest(self, reference: Reference) -> Digest | None:
        return self.tags.get(reference)

    def has_blob(self, name: Reference, digest: Digest) -> bool:
        del name, digest
        return False

    def is_new(self, name: Reference) -> bool:
        del name
        return True

    def bearing(self, name: Reference) -> Bearing:
        del name
        return Bearing(8)

    def upload_blob(self, name: Reference, blob: Descriptor, content: Reopen, *, mount_from: str | None = None) -> bool:
        del name, mount_from
        found = hashlib.sha256()
        for piece in content(0):
            found.update(piece)
        assert found.hexdigest() == blob.digest.hex
        self.taken += 1
        return False

    def put_manifest(self, reference: Reference, raw: bytes, media_type: str) -> Digest:
        del media_type
        self.tags[reference] = Digest.of(raw)
        return self.tags[reference]

    def read_blob(self, name: Reference, blob: Descriptor, sink: Sink, *, restart: Callable[[], None]) -> None:
        raise NotImplementedError


def prepare(folder: Path, blobs: int) -> None:
    """Write lock, manifests and content of a bundle of so many blobs, beside its manifests."""
    (folder / "manifests").mkdir(parents=True)
    images, found = [], {}
    for number in range(blobs // BLOBS_OF_IMAGE):
        members = []
        for place in range(BLOBS_OF_IMAGE):
            content = hashlib.shake_128(f"{number} {place}".encode()).digest(BLOB_BYTES)
            digest = hashlib.sha256(content)
            found[digest.digest()] = content
            kind = OCI_LAYER if place else OCI_CONFIG
            members.append({"mediaType": kind, "digest": f"sha256:{digest.hexdigest()}", "size": BLOB_BYTES})
        document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": members[0], "layers": members[1:]}
        raw = json.dumps(document).encode()
        (folder / "manifests" / Digest.of(raw).hex).write_bytes(raw)
        target = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(raw)), "size": len(raw)}
        manifest = {**target, "platform": "linux/amd64", "blobs": members}
        name = f"registry.example/team/app-{number}:1"
        images.append(
            {"reference": name, "target": target, "form": "manifest", "manifests": [manifest], "origin": "registry"}
        )
    ordered = sorted(found)
    (folder / "index").write_bytes(b"".join(ordered))
    (folder / "content").write_bytes(b"".join(found[digest] for digest in ordered))
    lock = Lock.model_validate(
        {
            "name": "crowd",
            "sequence": 1,
            "created": "2026-01-02T03:04:05Z",
            "definition": str(Digest.of(b"definition")),
            "kubernetes_version": "1.34",
            "platforms": ["linux/amd64"],
            "operator_platforms": ["linux/amd64"],
            "images": images,
        }
    )
    (folder / "lock.json").write_bytes(lock_bytes(lock))


def build(folder: Path) -> None:
    """What `bundle build` does with a lock, from the plan to the signature."""
    lock = parse_lock((folder / "lock.json").read_bytes(), source="lock.json")
    generated = {
        "trust.json": trust_of(signer()),
        "closure.json": closure_report(lock),
        "sbom.cdx.json": sbom(lock),
        "provenance.json": provenance(lock, definition=lock.definition, tool_version="0.0.0"),
    }
    layout, content = plan_layout(lock, generated=generated), Content(folder)
    with ArchiveWriter(folder / "crowd.tar", layout) as writer:
        fetch(
            lock,
            ((member.digest, member.size) for member in writer.missing()),
            place=writer.place_of,
            supply=Supply(cache=Cache(folder / "cache"), source_of=lambda image: content),
            pace=Pace(workers=4),
        )
        check_manifests(lock, read=writer.read)
        writer.seal(signer())


def verify(folder: Path) -> None:
    """What `bundle verify` does."""
    from bundler.trust import parse_trust_chain

    trust = parse_trust_chain(trust_of(signer()), source="trust.json")
    with ArchiveFile.open(folder / "crowd.tar") as source:
        open_archive(source, trust).verify_all()


def push(folder: Path) -> None:
    """What `bundle push` does."""
    from bundler.trust import parse_trust_chain

    trust, registry = parse_trust_chain(trust_of(signer()), source="trust.json"), Nowhere()
    with ArchiveFile.open(folder / "crowd.tar") as source:
        archive = open_archive(source, trust)
        target = PrivateRegistry.parse("registry.test/team")
        push_archive(archive, target=target, registry=registry, pace=Pace(workers=4))
        assert registry.taken == sum(1 for _ in archive.lock.contents())


def own_peak_mib() -> float:
    """The most memory that this process ever had."""
    found = _PEAK.search(Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    step, place = sys.argv[1], Path(sys.argv[2])
    if step == "prepare":
        prepare(place, int(sys.argv[3]))
    else:
        {"build": build, "verify": verify, "push": push}[step](place)
        sys.stdout.write(f"{own_peak_mib()}\n")
