from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from bundler.domain.ami import AmiSource, LockedAmi
from bundler.domain.blob import Blob
from bundler.domain.digest import Digest
from bundler.domain.lock import Lock, LockedChart, lock_bytes
from bundler.errors import LockChangedError
from bundler.workflows.lock import Change, LockOutcome, compare, write_lock
from tests.fakes.archives import sample
from tests.fakes.bakes import SOURCE, bake_of
from tests.fakes.images import image
from tests.fakes.preloads import CHINA, GOV, ami_of, lock_of, locked

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
    upstream = replace(first.upstream, digest=Digest.of(b"moved"))
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


NAMED = SOURCE.model_copy(update={"parameter": "/aws/service/eks/recommended/image_id"})
NEWER = NAMED.model_copy(update={"id": "ami-0123456789abcdef9", "name": "newer"})
CNI = locked("registry.k8s.io/cni:v1", image("cni"))


def with_amis(lock: Lock, *amis: LockedAmi, **more: object) -> Lock:
    """`lock` with AMIs that preload an image of it, for a site in GovCloud."""
    return lock.model_copy(update={"images": (CNI,), "amis": amis, "targets": (GOV,), **more})


def ami(name: str, source: AmiSource = NAMED) -> LockedAmi:
    return ami_of(lock_of(CNI), name=name, source=source, volume_size=20)


BAKED = with_amis(LOCK, ami("a"), ami("b"), bake=(bake_of(ami("a")), bake_of(ami("b"))))


def test_amis_that_came_moved_or_went_are_told() -> None:
    before = with_amis(LOCK, ami("gone"), ami("kept"), ami("moved"))
    after = with_amis(NEXT, ami("came"), ami("kept"), ami("moved", NEWER))
    told = compare(after, existing=before, update=True).amis
    assert [(change.name, change.was and change.was.id, change.now and change.now.id) for change in told] == [
        ("came amd64", None, NAMED.id),
        ("gone amd64", NAMED.id, None),
        ("moved amd64", NAMED.id, NEWER.id),
    ]


def test_an_ami_that_moved_upstream_needs_update_and_is_named_with_both_ids() -> None:
    moved = with_amis(NEXT, ami("a", NEWER), ami("b"))
    with pytest.raises(LockChangedError) as caught:
        compare(moved, existing=BAKED, update=False)
    assert caught.value.subject == "1 AMI moved upstream"
    was, now = f"{NAMED.id} ({NAMED.name})", f"{NEWER.id} ({NEWER.name})"
    assert caught.value.cause == f"- a amd64\n  was {was}, is {now}"
    assert "--update" in caught.value.hint
    accepted = compare(moved, existing=BAKED, update=True)
    assert accepted.lock.amis == moved.amis
    assert accepted.lock.bake == (bake_of(ami("b")),), "the other one is baked already"


@pytest.mark.parametrize(
    "now",
    [
        NEWER.model_copy(update={"parameter": "/aws/service/eks/v20261201/image_id"}),
        NEWER.model_copy(update={"parameter": ""}),
    ],
    ids=["another-parameter", "by-id"],
)
def test_an_ami_that_a_person_chose_anew_needs_none(now: AmiSource) -> None:
    assert compare(with_amis(NEXT, ami("a", now), ami("b")), existing=BAKED, update=False).changed


def test_an_id_that_a_person_changed_needs_none() -> None:
    one, other = (source.model_copy(update={"parameter": ""}) for source in (NAMED, NEWER))
    assert compare(with_amis(NEXT, ami("a", other)), existing=with_amis(LOCK, ami("a", one)), update=False).changed


def test_an_unchanged_lock_keeps_its_bytes_and_its_bakes(tmp_path: Path) -> None:
    path = tmp_path / "bundle.lock.json"
    write_lock(LockOutcome(lock=BAKED, changed=True), path)
    before = (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
    outcome = compare(with_amis(NEXT, ami("a"), ami("b")), existing=BAKED, update=False)
    assert (outcome.lock, outcome.changed) == (BAKED, False)
    write_lock(outcome, path)
    assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert before[0] == lock_bytes(BAKED)
    assert b'"bake"' in before[0]


@pytest.mark.parametrize(
    ("now", "kept"),
    [
        (with_amis(NEXT, ami("a"), ami("b").model_copy(update={"preload": ()})), ["a"]),
        (with_amis(NEXT, ami("a"), ami("b").model_copy(update={"volume_size": 99})), ["a"]),
        (with_amis(NEXT, ami("a")), ["a"]),
        (with_amis(NEXT, ami("a"), ami("b"), ami("c")), ["a", "b"]),
        (with_amis(NEXT, ami("a"), ami("b"), targets=(GOV, CHINA)), []),
        (with_amis(NEXT, ami("a"), ami("b"), images=(locked("registry.k8s.io/cni:v1", image("other")),)), []),
    ],
    ids=["preload", "volume", "gone", "new", "targets", "content"],
)
def test_a_change_drops_the_bakes_that_depend_on_it_and_keeps_the_others(now: Lock, kept: list[str]) -> None:
    assert [one.name for one in compare(now, existing=BAKED, update=True).lock.bake] == kept
