"""The golden archive of format 1: it must be read for ever, and made again byte for byte from what it holds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bundler.adapters.archive_file import ArchiveFile
from bundler.archive.layout import plan_layout
from bundler.archive.writer import ArchiveWriter
from bundler.domain.digest import Digest
from bundler.stages.verify import verify
from bundler.trust import parse_trust_chain
from tests.fakes.archives import signer

FOLDER = Path(__file__).parents[2] / "data" / "format1"
ARCHIVE = FOLDER / "sample-7.tar"
SHA256 = "4c1b3d03c24edc1a358edec21fbbcf8ae2dca861ed4e49b74a1206ce16768a34"
ROOT = Digest.parse("sha256:4dc5d4bf41701defbca1478fa01cf24b3b48a6866f2fdc4d153b9935ffa6be16")
TRUST = Digest.parse("sha256:22f39debb79bb2c1983b83fd9f95d0584e3c93aaae8cbc67bd9d6fad69e64962")


@pytest.fixture
def golden_file() -> ArchiveFile:
    return ArchiveFile.open(ARCHIVE)


def test_the_golden_archive_is_read_for_ever(golden_file: ArchiveFile) -> None:
    trust = parse_trust_chain((FOLDER / "trust.json").read_bytes(), source="trust.json")
    archive = verify(golden_file, trust=trust, full=True)
    assert hashlib.sha256(ARCHIVE.read_bytes()).hexdigest() == SHA256
    assert (archive.root.digest, archive.trust_digest) == (ROOT, TRUST)
    assert (archive.root.name, archive.root.sequence, archive.root.format) == ("sample", 7, 1)
    assert len(archive.members) == 32
    assert [str(image.reference) for image in archive.lock.images] == [
        "public.ecr.aws/eks/coredns:v1",
        "registry.k8s.io/metrics-server/metrics-server:v0.7",
        "registry.k8s.io/pause:3.10",
    ]
    golden_file.close()


def test_the_golden_archive_is_made_again_from_what_it_holds(golden_file: ArchiveFile, tmp_path: Path) -> None:
    trust = parse_trust_chain((FOLDER / "trust.json").read_bytes(), source="trust.json")
    archive = verify(golden_file, trust=trust, full=False)
    metadata = {member.path: archive.read(member.path) for member in archive.members[:8]}
    layout = plan_layout(archive.lock, generated=metadata)
    with ArchiveWriter(tmp_path / ARCHIVE.name, layout) as writer:
        for member in writer.missing():
            place = writer.write_at(member)
            for chunk in archive.stream(member.digest):
                place.write(chunk)
            place.commit()
        made = writer.seal(signer(1))
    assert made.read_bytes() == ARCHIVE.read_bytes()
    golden_file.close()
