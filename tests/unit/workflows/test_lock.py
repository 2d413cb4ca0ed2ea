from __future__ import annotations

from typing import Literal

import pytest

from bundler.domain.blob import Blob
from bundler.domain.digest import Digest
from bundler.domain.lock import Lock, LockedChart
from bundler.errors import LockChangedError
from bundler.workflows.lock import Change, compare
from tests.fakes.archives import sample

LOCK = sample().lock
NEXT = LOCK.model_copy(update={"sequence": LOCK.sequence + 1, "created": "2027-01-01T00:00:00Z"})


def with_chart(lock: Lock, *, origin: Literal["oci", "https", "path"], content: bytes) -> Lock:
    (chart,) = lock.charts
    config, old = chart.manifest.blobs
    blob = Blob(media_type=old.media_type, digest=Digest.of(content), size=len(content))
    manifest = chart.manifest.model_copy(update={"blobs": (config, blob)})
    made: LockedChart = chart.model_copy(update={"origin": origin, "manifest": manifest})
    return lock.model_copy(update={"charts": (made,)})


def with_moved_image(lock: Lock) -> Lock:
    first, *others = lock.images
    assert first.upstream is not None, "the one whose index is derived: what is carried of it stays the same"
    upstream = first.upstream.model_copy(update={"digest": Digest.of(b"moved")})
    return lock.model_copy(update={"images": (first.model_copy(update={"upstream": upstream}), *others)})


def test_the_same_content_keeps_the_existing_lock() -> None:
    outcome = compare(NEXT, existing=LOCK, update=False)
    assert (outcome.lock, outcome.changed) == (LOCK, False)


def test_without_a_lock_everything_is_new() -> None:
    outcome = compare(LOCK, existing=None, update=False)
    assert (outcome.changed, len(outcome.changes)) == (True, len(LOCK.images) + len(LOCK.charts))
    assert all(change.was is None for change in outcome.changes)


def test_a_moved_tag_needs_update_and_is_named_with_both_digests() -> None:
    moved = with_moved_image(NEXT)
    with pytest.raises(LockChangedError) as caught:
        compare(moved, existing=LOCK, update=False)
    assert caught.value.subject == "1 image moved upstream"
    was, now = LOCK.images[0].upstream_digest, Digest.of(b"moved")
    assert caught.value.cause == f"- {LOCK.images[0].reference}\n  was {was.short}, is {now.short}"
    change = Change(name=str(LOCK.images[0].reference), was=was, now=now)
    assert compare(moved, existing=LOCK, update=True).changes == (change,)


@pytest.mark.parametrize("origin", ["oci", "https"])
def test_a_chart_published_again_under_its_version_needs_update(origin: Literal["oci", "https"]) -> None:
    before, after = (with_chart(lock, origin=origin, content=text) for lock, text in ((LOCK, b"a"), (NEXT, b"b")))
    with pytest.raises(LockChangedError, match="1 chart moved upstream") as caught:
        compare(after, existing=before, update=False)
    was, now = Digest.of(b"a"), Digest.of(b"b")
    assert caught.value.cause == f"- {LOCK.charts[0].reference}\n  was {was.short}, is {now.short}"
    accepted = compare(after, existing=before, update=True)
    assert accepted.lock == after
    assert accepted.changes == (Change(name=LOCK.charts[0].reference, was=was, now=now),)


def test_a_chart_of_the_readers_own_may_change() -> None:
    before, after = (with_chart(lock, origin="path", content=text) for lock, text in ((LOCK, b"a"), (NEXT, b"b")))
    outcome = compare(after, existing=before, update=False)
    assert outcome.lock == after
    assert [change.name for change in outcome.changes] == [LOCK.charts[0].reference]


def test_what_is_no_longer_wanted_went() -> None:
    after = NEXT.model_copy(update={"images": LOCK.images[1:]})
    (change,) = compare(after, existing=LOCK, update=False).changes
    assert change == Change(name=str(LOCK.images[0].reference), was=LOCK.images[0].upstream_digest, now=None)
