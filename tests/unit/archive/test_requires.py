"""What an archive does not carry: `absent` lines at the end of members.jsonl, exactly those that its lock asks for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.archive import reader, root
from bundler.archive.ami_packs import read_against, read_base_index, read_block_index
from bundler.archive.members import (
    Entry,
    Required,
    member_line,
    parse_members,
    parse_requires,
    required_line,
)
from bundler.archive.metadata import provenance, sbom
from bundler.archive.reader import Archive, open_archive
from bundler.domain.ami import BakedAmi
from bundler.domain.canonical import canonical_json
from bundler.domain.digest import Digest
from bundler.domain.lock import lock_bytes, parse_lock
from bundler.errors import BundleError, FormatError, LimitError
from tests.fakes.archives import Forgery, MemorySource, sample
from tests.fakes.deltas import BASE, BUILT, NEW, delta_sample

SAMPLE = delta_sample()
(AMI,) = SAMPLE.lock.bake
REQUIRED = Required(role="ami-base", size=len(BASE.raw), digest=BASE.digest)
ABSENT = {"absent": True, "role": "ami-base", "sha256": BASE.digest.hex, "size": len(BASE.raw)}


def forge(*, absent: list[dict[str, object]] | None = None, **changes: object) -> bytes:
    """The honest archive with other `absent` lines, or another root."""
    made = Forgery.of(SAMPLE)
    lines = [*made.lines, *([ABSENT] if absent is None else absent)]
    made.table = b"".join(canonical_json(line) + b"\n" for line in lines)
    made.root |= changes
    return made.bytes()


def opened(raw: bytes) -> Archive:
    return open_archive(MemorySource(raw), SAMPLE.trust)


def test_a_delta_says_in_root_and_members_what_it_needs() -> None:
    archive = opened(forge())
    archive.verify_all()
    assert archive.requires == (REQUIRED,)
    assert archive.root.features == ("ami-base",)
    assert BASE.digest not in archive.blobs
    assert SAMPLE.layout.generated["members.jsonl"].splitlines()[-1] == required_line(REQUIRED)[:-1]
    assert json.loads(required_line(REQUIRED)) == ABSENT


def test_a_whole_bundle_needs_nothing_and_names_no_feature() -> None:
    made = sample()
    archive = open_archive(MemorySource(Forgery.of(made).bytes()), made.trust)
    assert (archive.requires, archive.root.features) == ((), ())


def test_a_reader_that_does_not_know_of_it_refuses_at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root, "FEATURES", frozenset())
    with pytest.raises(FormatError, match="uses 'ami-base', which this tool does not know") as caught:
        opened(forge())
    assert "or a later one" in caught.value.hint


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        pytest.param(forge(absent=[]), "other things as absent", id="none"),
        pytest.param(forge(absent=[ABSENT, ABSENT]), "other things as absent", id="twice"),
        pytest.param(forge(absent=[ABSENT | {"size": 5}]), "other things as absent", id="another size"),
        pytest.param(forge(absent=[ABSENT | {"role": "layer"}]), "other things as absent", id="another role"),
        pytest.param(forge(absent=[ABSENT | {"sha256": "0" * 64}]), "other things as absent", id="another digest"),
        pytest.param(forge(features=[]), "other features", id="without its feature"),
        pytest.param(forge(features=["ami-base", "ami-base"]), "other features", id="its feature twice"),
        pytest.param(forge(absent=[ABSENT | {"absent": False}]), "is not a member", id="not absent"),
        pytest.param(forge(absent=[ABSENT | {"path": "x"}]), "is not a member", id="with a path"),
        pytest.param(forge(absent=[ABSENT | {"size": -1}]), "is not a member", id="size -1"),
        pytest.param(forge(absent=[ABSENT, Forgery.of(SAMPLE).lines[-1]]), "is not a member", id="a member after it"),
    ],
)
def test_what_is_absent_is_what_the_lock_asks_for(raw: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        opened(raw)


def test_without_its_guard_the_bad_archive_would_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_check_requires", lambda *_: None)
    opened(forge(absent=[ABSENT, ABSENT]))


def test_something_absent_of_a_petabyte_is_refused() -> None:
    with pytest.raises(LimitError, match=f"names a member of {1 << 50} bytes"):
        opened(forge(absent=[ABSENT | {"size": 1 << 50}]))


digests = st.binary(min_size=32, max_size=32).map(lambda raw: Digest("sha256:" + raw.hex()))
sizes = st.integers(0, 1 << 40)
roles = st.from_regex(r"[a-z][a-z-]{0,30}", fullmatch=True)
entries = st.builds(
    Entry, name=st.from_regex(r"[a-z0-9][a-z0-9./-]{0,98}", fullmatch=True), role=roles, size=sizes, digest=digests
)
repositories = st.none() | st.from_regex(r"[a-z0-9][a-z0-9._/-]{0,255}", fullmatch=True)
absents = st.builds(Required, role=roles, size=sizes, digest=digests, repository=repositories)
tables = st.tuples(st.lists(entries, max_size=5), st.lists(absents, max_size=5))


@given(tables)
def test_lines_are_read_as_they_were_written(table: tuple[list[Entry], list[Required]]) -> None:
    raw = b"".join([*map(member_line, table[0]), *map(required_line, table[1])])
    assert [*parse_members(raw, source="x")] == table[0]
    assert [*parse_requires(raw, source="x")] == table[1]


@given(tables, st.data())
def test_a_changed_table_is_refused_or_says_something_else_in_its_one_spelling(
    table: tuple[list[Entry], list[Required]], data: st.DataObject
) -> None:
    raw = bytearray(b"".join([*map(member_line, table[0]), *map(required_line, table[1])]))
    if not raw:
        return
    place = data.draw(st.integers(0, len(raw) - 1))
    change: Callable[[], object] = data.draw(
        st.sampled_from(
            [
                lambda: raw.__setitem__(place, data.draw(st.integers(0, 255))),
                lambda: raw.__delitem__(slice(place, place + data.draw(st.integers(1, 90)))),
                lambda: raw.__setitem__(slice(place, place), data.draw(st.binary(max_size=9))),
            ]
        )
    )
    change()
    try:
        members, absent = [*parse_members(bytes(raw), source="x")], parse_requires(bytes(raw), source="x")
    except BundleError:
        return
    assert b"".join([*map(member_line, members), *map(required_line, absent)]) == raw


def test_the_base_is_made_of_index_and_difference() -> None:
    archive = opened(forge())
    index = read_block_index(archive, AMI)
    assert index == NEW
    assert read_base_index(archive, AMI, index) == BASE
    assert read_base_index(archive, AMI.model_copy(update={"base": None}), index) is None


@pytest.mark.parametrize("change", [{"digest": Digest.of(b"other")}, {"size": 7}])
def test_a_difference_that_does_not_give_the_base_is_refused(change: dict[str, object]) -> None:
    assert AMI.base is not None
    wrong = AMI.base.model_copy(update={"index": replace(AMI.base.index, **change)})
    baked: BakedAmi = AMI.model_copy(update={"base": wrong})
    with pytest.raises(FormatError, match="does not give the block index"):
        read_base_index(opened(forge()), baked, NEW)


def test_a_delta_is_a_base_like_any_other() -> None:
    against = read_against(opened(forge()))
    base = against.amis["workers", "amd64"]
    assert (against.name, against.sequence, base.bundle) == ("sample", 7, "sample-7")
    assert (base.index, base.blob.digest) == (NEW, NEW.digest)


def test_the_lock_is_read_as_it_was_written_and_a_whole_one_does_not_name_a_base() -> None:
    raw = lock_bytes(SAMPLE.lock)
    assert parse_lock(raw, source="lock") == SAMPLE.lock
    assert b'"base"' not in lock_bytes(delta_sample(base=None).lock)


def test_sbom_and_provenance_name_the_base() -> None:
    components = json.loads(sbom(SAMPLE.lock))["components"]
    facts = {fact["name"]: fact["value"] for one in components for fact in one.get("properties", [])}
    assert facts["eks-bundler:base-index"] == str(BASE.digest)
    assert facts["eks-bundler:base-bundle"] == f"sample-6 {BUILT}"
    statement = json.loads(provenance(SAMPLE.lock, definition=Digest.of(b"x"), tool_version="0"))
    materials = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert {"name": "bundle sample-6", "digest": {"sha256": BUILT.hex}} in materials
