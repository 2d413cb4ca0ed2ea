"""The table of parts: one spelling, sizes that add up, and nothing else gets through."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.domain.canonical import canonical_json
from bundler.domain.digest import Digest
from bundler.domain.parts import (
    MAX_PARTS,
    PartEntry,
    PartsTable,
    WholeArchive,
    parse_size,
    parse_table,
    plan_cuts,
    table_bytes,
    table_name,
    table_of,
)
from bundler.errors import FormatError, LimitError, RefusedError, UsageError

ROOT = Digest.of(b"root")


def table(total: int, step: int) -> PartsTable:
    entries = tuple(PartEntry(size=size, sha256=Digest.of(b"%d" % at).hex) for at, size in plan_cuts(total, step))
    return PartsTable(archive=WholeArchive(name="sample-7.tar", size=total, sha256=ROOT.hex), root=ROOT, parts=entries)


GOOD = table_bytes(table(100, 30))


@given(total=st.integers(1, 10**15), parts=st.integers(1, MAX_PARTS))
def test_a_table_is_read_as_it_was_written_and_its_parts_cover_the_archive(total: int, parts: int) -> None:
    made = table(total, -(-total // parts))
    assert parse_table(table_bytes(made), source="t") == made
    placed = made.placed
    assert placed[0].offset == 0
    assert [part.end for part in placed[:-1]] == [part.offset for part in placed[1:]]
    assert placed[-1].end == total


@given(raw=st.binary(max_size=300))
def test_any_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(RefusedError):
        parse_table(raw, source="t")


@given(at=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255), how=st.sampled_from(["put", "drop", "double"]))
def test_a_changed_table_is_refused_or_is_another_honest_one(at: int, byte: int, how: str) -> None:
    new = {"put": bytes([byte]), "drop": b"", "double": GOOD[at : at + 1] * 2}[how]
    raw = GOOD[:at] + new + GOOD[at + 1 :]
    try:
        found = parse_table(raw, source="t")
    except RefusedError:
        return
    assert table_bytes(found) == raw
    assert sum(entry.size for entry in found.parts) == found.archive.size


@given(
    document=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    key=st.sampled_from(["apiVersion", "kind", "archive", "root", "parts", "more"]),
)
def test_another_value_anywhere_is_refused(document: object, key: str) -> None:
    changed = json.loads(GOOD) | {key: document}
    try:
        raw = canonical_json(changed)
    except ValueError:
        return
    if raw != GOOD:
        with pytest.raises(RefusedError):
            parse_table(raw, source="t")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"parts": []}, "parts", id="no part"),
        pytest.param({"archive": {"name": "../x.tar", "size": 100, "sha256": ROOT.hex}}, "archive.name", id="path"),
        pytest.param({"archive": {"name": "a.tar", "size": 99, "sha256": ROOT.hex}}, "do not make", id="size"),
        pytest.param({"apiVersion": "eks-bundler/v2"}, "apiVersion", id="version"),
        pytest.param(
            {"parts": [{"size": size, "sha256": ROOT.hex} for size in (30, 20, 50)]}, "do not make", id="uneven"
        ),
        pytest.param({"parts": [{"size": 0, "sha256": ROOT.hex}]}, "greater than or equal to 1", id="A29 zero bytes"),
        pytest.param(
            {"parts": [{"size": 1, "sha256": ROOT.hex}] * (MAX_PARTS + 1)}, "at most 512", id="too many parts"
        ),
    ],
)
def test_what_is_no_table_says_what_is_wrong(change: dict[str, object], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        parse_table(canonical_json(json.loads(GOOD) | change), source="t")


def test_a_table_of_megabytes_is_not_parsed() -> None:
    with pytest.raises(LimitError):
        parse_table(b" " * ((1 << 20) + 1), source="t")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1", 1),
        ("4K", 4096),
        ("700M", 700 << 20),
        ("4G", 4 << 30),
        ("4GiB", 4 << 30),
        ("2TB", 2 * 10**12),
        ("4700MB", 4_700_000_000),
        ("5kB", 5000),
        ("5KB", 5000),
    ],
)
def test_sizes_are_read_as_coreutils_reads_them(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "0", "0G", "-1", "1.5G", "4 G", "4g", "4iB", "B", "G", "1e9", "٣G", "4GB\n"])
def test_what_is_no_size_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


def test_too_many_parts_are_refused_with_a_size_that_works() -> None:
    with pytest.raises(UsageError, match="1000 parts; at most 512") as caught:
        plan_cuts(1000, 1)
    assert caught.value.hint == "Give 2 or more."
    assert len(plan_cuts(1000, 2)) == 500


def test_table_and_parts_lead_to_the_table() -> None:
    assert table_name("a-1.tar") == "a-1.parts.json"
    assert table_of("s3://b/p/a-1.parts.json") == "s3://b/p/a-1.parts.json"
    assert table_of("/m/a-1.tar.007") == "/m/a-1.parts.json"
    assert [table_of(name) for name in ("a-1.tar", "a-1.tar.07", "a-1.tar.partial", "a.000")] == [None] * 4
