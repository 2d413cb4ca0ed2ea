"""Which bytes of an unfinished blob are there: any order of arrival, and no record that is believed too much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bundler.archive.extents import MAX_SPANS, Extents, extents_record, parse_extents
from bundler.archive.header import member_header
from bundler.domain.digest import Digest

SIZE = 60
DIGEST = Digest.of(b"x")
SPANS = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda two: (min(two), max(two))))


def filled(spans: list[tuple[int, int]]) -> Extents:
    extents = Extents()
    for start, stop in spans:
        extents.add(start, stop)
    return extents


@given(spans=SPANS, position=st.integers(0, SIZE), stop=st.integers(0, SIZE))
def test_extents_say_what_a_set_of_bytes_would(spans: list[tuple[int, int]], position: int, stop: int) -> None:
    extents, there = filled(spans), {at for start, stop in spans for at in range(start, stop)}
    assert extents.count == len(there)
    missing = extents.missing(position, stop)
    assert [at for start, end in missing for at in range(start, end)] == sorted({*range(position, stop)} - there)
    reached = extents.reach(position)
    assert set(range(position, reached)) <= there
    assert reached not in there


@given(spans=SPANS)
def test_a_record_comes_back_and_fills_a_block(spans: list[tuple[int, int]]) -> None:
    record = extents_record(DIGEST, filled(spans))
    assert len(record) == 512
    assert list(parse_extents(record, DIGEST, SIZE)) == list(filled(spans))


def test_spans_without_room_are_left_out() -> None:
    many = filled([(2 * at, 2 * at + 1) for at in range(100)])
    kept = list(parse_extents(extents_record(DIGEST, many), DIGEST, 1000))
    assert kept == list(many)[:MAX_SPANS]
    assert MAX_SPANS > 33  # a hole for each of 32 workers


@given(st.binary(min_size=0, max_size=600))
def test_anything_else_says_that_nothing_is_there(record: bytes) -> None:
    assert list(parse_extents(record, DIGEST, SIZE)) == []


@given(spans=SPANS, at=st.integers(0, 511), flip=st.integers(1, 255))
def test_a_damaged_record_never_claims_more_than_there_is_room_for(
    spans: list[tuple[int, int]], at: int, flip: int
) -> None:
    record = bytearray(extents_record(DIGEST, filled(spans)))
    record[at] ^= flip
    found = parse_extents(bytes(record), DIGEST, SIZE)
    assert all(0 <= start < stop <= SIZE for start, stop in found)


def test_the_record_of_another_blob_and_a_header_are_none() -> None:
    whole = filled([(0, SIZE)])
    assert list(parse_extents(extents_record(Digest.of(b"y"), whole), DIGEST, SIZE)) == []
    assert list(parse_extents(member_header("blobs/sha256/" + DIGEST.hex, SIZE), DIGEST, SIZE)) == []
    assert list(parse_extents(extents_record(DIGEST, whole), DIGEST, SIZE - 1)) == []
