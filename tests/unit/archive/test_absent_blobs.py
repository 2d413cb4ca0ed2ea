"""A delta of images: what the site holds is an `absent` line, everything else is as in the whole archive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.archive import reader, root
from bundler.archive.ami_packs import read_against
from bundler.archive.layout import blob_entries
from bundler.archive.reader import open_archive
from bundler.archive.root import root_payload
from bundler.domain.canonical import canonical_json
from bundler.domain.delta import Held, against_lock, left_out
from bundler.domain.digest import Digest
from bundler.errors import FormatError
from tests.fakes.archives import Forgery, MemorySource
from tests.fakes.image_deltas import Layers, against, built, bundle, layout_of, opened

FIRST: Layers = {"registry.k8s.io/pause:1": ["a", "b"], "public.ecr.aws/eks/coredns:1": ["a", "c"]}
SECOND: Layers = {"registry.k8s.io/pause:2": ["a", "n"], "quay.io/new:1": ["b", "c"]}
OLD, NEW = bundle(FIRST, sequence=1), bundle(SECOND, sequence=2)
BASE = against(OLD.lock)
LAYOUT = layout_of(NEW, BASE)
LINES = [json.loads(line) for line in LAYOUT.generated["members.jsonl"].splitlines()]
ABSENT = [line for line in LINES if "absent" in line]


def forge(*, absent: list[dict[str, object]] | None = None, keep: bool = False, **changes: object) -> bytes:
    """The honest delta with other `absent` lines or another root; `keep` carries every blob all the same."""
    made = Forgery.of(NEW)
    gone = {str(line["sha256"]) for line in ABSENT}
    if not keep:
        made.lines = [line for line in made.lines if str(line["sha256"]) not in gone]
        paths = {str(line["path"]) for line in made.lines}
        made.contents = {path: content for path, content in made.contents.items() if path in paths}
    made.relist()
    lines = [*made.lines, *(ABSENT if absent is None else absent)]
    made.table = b"".join(canonical_json(line) + b"\n" for line in lines)
    made.root |= {"features": ["absent-blobs"], "against": {"name": "sample-1", "digest": str(BASE.digest)}}
    made.root |= changes
    made.root = {key: value for key, value in made.root.items() if value != "left out"}
    return made.bytes()


def read(raw: bytes) -> reader.Archive:
    return open_archive(MemorySource(raw), NEW.trust)


def test_the_forgery_of_these_tests_is_the_archive_that_our_writer_makes(tmp_path: Path) -> None:
    assert forge() == built(NEW, BASE, tmp_path)


def test_layers_of_the_first_are_absent_and_everything_else_is_carried(tmp_path: Path) -> None:
    archive = opened(built(NEW, BASE, tmp_path))
    assert [one.role for one in archive.requires] == ["layer"] * 3
    assert {one.repository for one in archive.requires} == {"public.ecr.aws/eks/coredns", "registry.k8s.io/pause"}
    assert archive.root.features == ("absent-blobs",)
    assert archive.root.against is not None
    assert (archive.root.against.name, archive.root.against.digest) == ("sample-1", BASE.digest)
    wanted = {entry.digest for entry in blob_entries(NEW.lock, source="lock")}
    assert {*archive.blobs} | {one.digest for one in archive.requires} == wanted
    assert not {*archive.blobs} & {one.digest for one in archive.requires}
    assert json.loads(root_payload(archive.root))["against"]["name"] == "sample-1"


def test_same_lock_and_base_same_bytes(tmp_path: Path) -> None:
    assert built(NEW, BASE, tmp_path / "a") == built(NEW, against(OLD.lock), tmp_path / "b")


def test_a_base_that_shares_nothing_gives_the_whole_archive(tmp_path: Path) -> None:
    other = against(bundle({"quay.io/other:1": ["x"]}, sequence=1).lock)
    assert built(NEW, other, tmp_path / "a") == built(NEW, None, tmp_path / "b")
    assert b"against" not in root_payload(layout_of(NEW, other).root)


def test_a_delta_is_a_base_like_any_other(tmp_path: Path) -> None:
    found = read_against(opened(built(NEW, BASE, tmp_path)))
    assert found.content == against_lock(NEW.lock, digest=Digest.of(b"")).content
    assert found.label == "sample-2"


def test_charts_tools_files_and_what_they_share_with_images_are_carried() -> None:
    lock = NEW.lock
    tool = lock.tools[0].content
    manifest = lock.images[0].manifests[0]
    shared = manifest.model_copy(update={"blobs": (*manifest.blobs, tool)})
    images = (lock.images[0].model_copy(update={"manifests": (shared,)}), *lock.images[1:])
    everything = {
        blob.digest: Held(size=blob.size, repository="x")
        for blob in (*lock.manifests(), *lock.contents(), *shared.blobs)
    }
    gone = left_out(lock.model_copy(update={"images": images}), everything, source="base")
    assert gone.keys() == {blob.digest for image in lock.images for one in image.manifests for blob in one.blobs}
    assert tool.digest not in gone


def test_a_base_that_gives_another_size_is_refused_at_build() -> None:
    digest = ABSENT[0]["sha256"]
    lied = {Digest(f"sha256:{digest}"): Held(size=5, repository="x")}
    with pytest.raises(FormatError, match="has 5 bytes; the lock says 40000"):
        left_out(NEW.lock, lied, source="the receipt")


def test_a_reader_that_does_not_know_of_it_refuses_at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root, "FEATURES", frozenset({"ami-base"}))
    with pytest.raises(FormatError, match="uses 'absent-blobs', which this tool does not know"):
        read(forge())


A, B, C = ABSENT
TOOL = next(line for line in LINES if line.get("role") == "tool")
NOT_LEFT_OUT = {"absent": True, "sha256": TOOL["sha256"], "size": TOOL["size"], "role": "tool"}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        pytest.param(forge(absent=[]), "other features", id="none"),
        pytest.param(forge(absent=[], features=[], against="left out"), "lacks blobs/sha256/", id="not even a feature"),
        pytest.param(forge(absent=[A, B]), "lacks blobs/sha256/", id="one is neither here nor there"),
        pytest.param(forge(absent=[A, B, C, C]), "other things as absent", id="twice"),
        pytest.param(forge(absent=[B, A, C]), "other things as absent", id="another order"),
        pytest.param(forge(keep=True), "which its lock does not name", id="absent and carried"),
        pytest.param(forge(absent=[A | {"size": 5}, B, C]), "has 5 bytes; the lock says", id="another size"),
        pytest.param(forge(absent=[A | {"role": "config"}, B, C]), "other things as absent", id="another role"),
        pytest.param(forge(absent=[A, B, C, NOT_LEFT_OUT]), "other things as absent", id="a tool, nowhere"),
        pytest.param(
            forge(absent=[A, B, C, NOT_LEFT_OUT | {"repository": "x"}]), "other things as absent", id="a tool"
        ),
        pytest.param(forge(absent=[A | {"sha256": "0" * 64}, B, C]), "other things as absent", id="not of the lock"),
        pytest.param(forge(absent=[A | {"repository": "a//b"}, B, C]), "other things as absent", id="no repository"),
        pytest.param(forge(absent=[A | {"repository": "A"}, B, C]), "is not a member", id="capitals"),
        pytest.param(forge(absent=[A | {"repository": "../x"}, B, C]), "is not a member", id="dots"),
        pytest.param(
            forge(absent=[{k: v for k, v in A.items() if k != "repository"}, B, C]), "other things", id="nowhere"
        ),
        pytest.param(forge(features=[]), "other features", id="without its feature"),
        pytest.param(forge(features=["absent-blobs", "ami-base"]), "other features", id="one feature more"),
        pytest.param(forge(against="left out"), "what it was made against", id="against nothing"),
        pytest.param(forge(against=None), "one spelling", id="null"),
        pytest.param(
            forge(absent=[], features=[], keep=True), "what it was made against", id="a whole one against something"
        ),
    ],
)
def test_what_is_absent_is_of_the_lock_once_in_order_and_may_be_absent(raw: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        read(raw)


def test_without_its_guard_the_bad_archive_would_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_check_requires", lambda *_: None)
    read(forge(absent=[A, B, C, C]))


seeds = st.sets(st.sampled_from("abcdef"), min_size=1, max_size=4).map(sorted)
bundles = st.dictionaries(st.sampled_from([f"quay.io/{name}:1" for name in "uvwxyz"]), seeds, max_size=4)


@given(bundles, bundles)
def test_a_delta_and_its_base_are_the_whole(first: Layers, second: Layers) -> None:
    old, new = (bundle(each, sequence=number, size=50) for number, each in ((1, first), (2, second)))
    delta, whole = layout_of(new, against(old.lock)), layout_of(new, None)
    absent = {one.digest for one in delta.absent}
    assert {one.digest for one in delta.blobs} | absent == {one.digest for one in whole.blobs}
    assert absent <= against(old.lock).content.keys()
    carried = {one.digest for one in delta.blobs}
    assert not carried & absent
    layers = {one.digest for one in delta.blobs if one.role == "layer"}
    assert not layers & against(old.lock).content.keys()


def test_one_layer_in_ten_is_new_and_the_delta_is_as_large_as_that() -> None:
    size = 1 << 20
    first = {f"quay.io/app{number}:1": [f"{number}.{layer}" for layer in range(10)] for number in range(10)}
    second = {name.replace(":1", ":2"): [*layers[:9], f"new {name}"] for name, layers in first.items()}
    old, new = (bundle(each, sequence=number, size=size) for number, each in ((1, first), (2, second)))
    delta = layout_of(new, against(old.lock))
    ratio = delta.total_bytes / (10 * size)
    print(f"{delta.total_bytes} bytes for {10 * size} of new layers: {ratio:.4f}")  # noqa: T201
    assert ratio <= 1.02
    assert len(delta.absent) == 90
