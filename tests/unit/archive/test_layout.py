"""The layout: order, offsets and headers of format 1."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from bundler.archive.header import member_header
from bundler.archive.layout import plan_layout
from bundler.archive.members import Member, parse_members, runs_of
from bundler.archive.root import parse_root, root_payload, slot_bytes
from bundler.domain.digest import Digest
from bundler.domain.oci import HELM_CONFIG
from bundler.envelope import unsigned_envelope
from bundler.errors import FormatError
from tests.fakes.archives import Forgery, relocked, sample

SAMPLE = sample()
LAYOUT = SAMPLE.layout
METADATA = ["trust.json", "members.jsonl", "lock.json", "closure.json", "sbom.cdx.json", "provenance.json"]


def test_members_stand_in_the_order_of_the_format() -> None:
    paths = [member.path for member in LAYOUT.members]
    assert paths[:8] == [*METADATA, "oci-layout", "index.json"]
    groups = [{"manifest": 0, "config": 1}.get(member.role, 2) for member in LAYOUT.blobs]
    assert groups == sorted(groups)
    assert [*LAYOUT.blobs] == sorted(LAYOUT.blobs, key=lambda m: (groups[LAYOUT.blobs.index(m)], m.digest))
    assert paths[8:] == [f"blobs/sha256/{member.digest.hex}" for member in LAYOUT.blobs]


def test_every_blob_of_the_lock_has_one_place() -> None:
    lock = SAMPLE.lock
    named = {blob.digest for blob in (*lock.manifests(), *lock.contents())}
    assert [member.digest for member in LAYOUT.blobs] == list({member.digest: 0 for member in LAYOUT.blobs})
    assert {member.digest for member in LAYOUT.blobs} == named


def test_offsets_leave_no_gap_and_no_overlap() -> None:
    end = 512 + LAYOUT.slot_bytes
    for member in LAYOUT.members:
        assert member.offset == end + 512
        end = member.offset + -(-member.size // 512) * 512
    assert LAYOUT.total_bytes == end + 1024


def test_the_slot_is_the_unsigned_envelope_and_sixteen_kib_rounded_up() -> None:
    payload = root_payload(LAYOUT.root)
    assert LAYOUT.slot_bytes == 65536
    room = 65536 - 16384 - len(unsigned_envelope(b"", "application/vnd.eks-bundler.root.v1+json"))
    assert slot_bytes(bytes(room // 4 * 3)) == 65536
    assert slot_bytes(bytes(room // 4 * 3 + 3)) == 131072
    assert parse_root(payload, source="x") == LAYOUT.root


def test_the_root_is_the_object_of_the_format() -> None:
    document = json.loads(root_payload(LAYOUT.root))
    table = LAYOUT.generated["members.jsonl"]
    assert list(document) == sorted(document)
    assert document["members"] == {"path": "members.jsonl", "sha256": Digest.of(table).hex, "size": len(table)}
    assert {key: document[key] for key in ("created", "features", "format", "minReader", "name", "previous")} == {
        "created": "2026-01-02T03:04:05Z",
        "features": [],
        "format": 1,
        "minReader": 1,
        "name": "sample",
        "previous": None,
    }
    assert document["totals"]["members"] == len(LAYOUT.members) - 2 == table.count(b"\n")


def test_members_jsonl_has_one_canonical_line_per_later_member() -> None:
    lines = LAYOUT.generated["members.jsonl"].splitlines()
    for line, member in zip(lines, LAYOUT.members[2:], strict=True):
        document = json.loads(line)
        assert document == {"path": member.path, "role": member.role, "sha256": member.digest.hex, "size": member.size}
        assert line.decode() == json.dumps(document, sort_keys=True, separators=(",", ":"))


def test_the_index_names_images_and_charts_only_by_their_full_reference() -> None:
    document = json.loads(LAYOUT.generated["index.json"])
    names = [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in document["manifests"]]
    assert names == [
        "charts/core:1.0.0_a",
        "public.ecr.aws/eks/coredns:v1",
        "registry.k8s.io/metrics-server/metrics-server:v0.7",
        "registry.k8s.io/pause:3.10",
    ]
    for entry in document["manifests"]:
        assert entry["annotations"]["io.containerd.image.name"] in names
    targets = {str(image.reference): str(image.target.digest) for image in SAMPLE.lock.images}
    images = document["manifests"][1:]
    assert {entry["annotations"]["io.containerd.image.name"]: entry["digest"] for entry in images} == targets


def test_the_same_lock_gives_the_same_layout() -> None:
    assert sample().layout == LAYOUT


def test_content_with_two_uses_is_stored_once_under_the_first() -> None:
    chart = SAMPLE.lock.charts[0]
    twice = SAMPLE.lock.files[0].model_copy(update={"content": chart.manifest.blobs[0]})
    again = sample(files=(twice,)).layout
    same = [member for member in again.blobs if member.digest == chart.manifest.blobs[0].digest]
    assert [member.role for member in same] == ["config"]
    assert chart.manifest.blobs[0].media_type == HELM_CONFIG


def test_two_sizes_for_one_digest_are_refused_at_layout() -> None:
    tool = SAMPLE.lock.tools[0]
    liar = replace(tool.content, size=tool.content.size + 1)
    lock = SAMPLE.lock.model_copy(update={"tools": (tool, tool.model_copy(update={"content": liar}))})
    with pytest.raises(FormatError, match="two sizes"):
        plan_layout(lock, generated=LAYOUT.generated)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, (8 << 30) - 1, 8 << 30, 1 << 40])
def test_other_tar_readers_understand_our_headers(size: int) -> None:
    path = "blobs/sha256/" + "a" * 64
    header = member_header(path, size)
    found = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    assert (found.name, found.size, found.mode, found.uid, found.gid, found.mtime, found.type) == (
        path,
        size,
        0o644,
        0,
        0,
        0,
        tarfile.REGTYPE,
    )
    assert (header[124] == 0x80) == (size >= 8 << 30)
    assert found.uname == found.gname == ""


def test_a_name_that_does_not_fit_is_a_defect_not_a_cut_name() -> None:
    with pytest.raises(ValueError, match="no place"):
        member_header("x" * 101, 1)


def test_another_tar_reader_sees_the_members_and_nothing_else(tmp_path: Path) -> None:
    raw = SAMPLE.build(tmp_path).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as archive:
        assert archive.getnames() == ["root.dsse.json", *(member.path for member in LAYOUT.members)]
        for member in LAYOUT.members:
            content = archive.extractfile(member.path)
            assert content is not None
            assert Digest.of(content.read()) == member.digest


def test_a_forgery_that_changes_nothing_is_the_archive(tmp_path: Path) -> None:
    assert Forgery.of(SAMPLE).bytes() == SAMPLE.build(tmp_path).read_bytes()
    assert relocked(SAMPLE, lambda lock: None) == LAYOUT.generated["lock.json"]


def test_runs_hold_every_member_once_and_stand_together() -> None:
    sizes = [1, 70 << 20, 3, 60 << 20, 5 << 20, 2, *([0] * 4500)]
    members, start = [], 0
    for number, size in enumerate(sizes):
        member = Member(name=str(number), role="layer", size=size, digest=Digest.of(b""), offset=start + 512)
        members.append(member)
        start = member.end
    runs = runs_of(members)
    assert [member for run in runs for member in run] == members
    assert [[member.size for member in run][:3] for run in runs[:4]] == [
        [1],
        [70 << 20],
        [3, 60 << 20],
        [5 << 20, 2, 0],
    ]
    assert max(len(run) for run in runs) == 2000


def test_lines_are_read_as_they_are_written() -> None:
    entries = list(parse_members(LAYOUT.generated["members.jsonl"], source="x"))
    assert [(e.path, e.role, e.size, e.digest) for e in entries] == [
        (m.path, m.role, m.size, m.digest) for m in LAYOUT.members[2:]
    ]
