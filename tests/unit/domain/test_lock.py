from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bundler.domain.digest import Digest
from bundler.domain.lock import Lock, LockedRelease, image_finder, lock_bytes, parse_lock
from bundler.errors import FormatError
from tests.fakes.archives import sample

SAMPLE = sample()
LIKE_A_BLOB = {"mediaType": "x/y", "digest": "sha256:" + "0" * 64, "size": 1}


def released(values: dict[str, object]) -> Lock:
    release = LockedRelease(
        name="core", namespace="a", role="core", chart=SAMPLE.lock.charts[0].reference, values=values
    )
    return SAMPLE.lock.model_copy(update={"releases": (release,)})


def test_a_lock_is_written_as_json_would_write_all_of_it_at_once() -> None:
    written = lock_bytes(released({"b": ["ü\n", {}], "a": []}))
    assert written == (json.dumps(json.loads(written), indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def test_values_that_look_like_a_blob_stay_values() -> None:
    values: dict[str, object] = {**LIKE_A_BLOB, "values": LIKE_A_BLOB, "list": [LIKE_A_BLOB, [LIKE_A_BLOB]]}
    for each in (values, dict(LIKE_A_BLOB)):
        lock = released(each)
        read = parse_lock(lock_bytes(lock), source="lock")
        assert (read.releases[0].values, read) == (each, lock)


def test_content_that_is_named_alike_is_one_blob() -> None:
    lock = parse_lock(lock_bytes(SAMPLE.lock), source="lock")
    blobs = list(lock.contents())
    assert len({id(blob) for blob in blobs}) == len(set(blobs)) < len(blobs)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"size": -1}, r"files\.0\.content\.size: Input should be greater than or equal to 0"),
        ({"size": True}, r"files\.0\.content\.size: Input should be a valid integer"),
        ({"digest": "sha256:0"}, r"files\.0\.content\.digest: Value error, 'sha256:0': is not a sha256 digest"),
        ({"mediaType": ""}, r"files\.0\.content\.mediaType: String should have at least 1 character"),
        ({"more": 1}, r"files\.0\.content\.more: Extra inputs are not permitted"),
    ],
)
def test_a_blob_that_is_none_is_refused_where_it_stands(change: dict[str, object], says: str) -> None:
    document = json.loads(lock_bytes(SAMPLE.lock))
    document["files"][0]["content"].update(change)
    with pytest.raises(FormatError, match=says):
        parse_lock(json.dumps(document).encode(), source="lock")


def test_a_blob_where_something_else_belongs_is_refused_as_before() -> None:
    document = json.loads(lock_bytes(SAMPLE.lock))
    document["images"][0]["evidence"] = [LIKE_A_BLOB]
    with pytest.raises(FormatError, match=r"images\.0\.evidence\.0\.by: Field required"):
        parse_lock(json.dumps(document).encode(), source="lock")


def test_a_finder_answers_as_the_lock_does() -> None:
    find = image_finder(SAMPLE.lock)
    image = SAMPLE.lock.images[0]
    other = Digest.of(b"other")
    asked = [one.reference for one in SAMPLE.lock.images]
    asked += [replace(image.reference, tag="another"), replace(image.reference, repository="another")]
    asked += [image.reference.pinned(image.target.digest), image.reference.pinned(other)]
    asked += [image.reference.pinned(image.upstream_digest)]
    assert [find(reference) for reference in asked] == [SAMPLE.lock.image(reference) for reference in asked]
    assert [find(reference) is None for reference in asked[-4:]] == [True, False, True, False]
