"""The receipt: one spelling, sorted, nothing twice; whatever else comes is refused with a typed error."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.domain.contents import differences, lock_contents, needed, receipt_contents
from bundler.domain.delta import held_content, left_out
from bundler.domain.digest import Digest
from bundler.domain.receipt import (
    MAX_RECEIPT_BYTES,
    HeldAmi,
    HeldBlob,
    HeldRepository,
    HeldTag,
    Receipt,
    against_receipt,
    is_receipt,
    parse_receipt,
    receipt_bytes,
)
from bundler.errors import BundleError, FormatError, LimitError
from tests.fakes.archives import sample
from tests.fakes.image_deltas import Layers, bundle

ONE, TWO, THREE = sorted(Digest.of(bytes([number])) for number in range(3))
RECEIPT = Receipt(
    account="111122223333",
    region="eu-central-1",
    cluster="prod",
    prefix="eks",
    repositories=(
        HeldRepository(
            name="quay.io/a",
            tags=(HeldTag(tag="1", digest=THREE), HeldTag(tag="2", digest=ONE)),
            blobs=(HeldBlob(digest=ONE, size=5), HeldBlob(digest=TWO, size=0)),
        ),
        HeldRepository(name="quay.io/b", blobs=(HeldBlob(digest=TWO, size=0),)),
    ),
    amis=(
        HeldAmi(name="workers", architecture="amd64", index=ONE),
        HeldAmi(name="workers", architecture="amd64", index=TWO),
    ),
)


def changed(change: Callable[[Any], object]) -> bytes:
    """The receipt with `change` made to its document, in the one spelling."""
    document = json.loads(receipt_bytes(RECEIPT))
    change(document)
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def test_a_receipt_is_read_as_it_was_written_and_gives_what_a_delta_may_leave_out() -> None:
    assert parse_receipt(receipt_bytes(RECEIPT), source="r") == RECEIPT
    found = against_receipt(RECEIPT)
    assert {digest: held.repository for digest, held in found.content.items()} == {ONE: "quay.io/a", TWO: "quay.io/a"}
    assert found.indexes == {("workers", "amd64"): (ONE, TWO)}
    assert (found.label, found.digest) == ("the receipt of prod in 111122223333, eu-central-1", RECEIPT.digest)
    assert found.sequence is None


def _swap(items: list[object]) -> None:
    items.reverse()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        pytest.param(b"", "JSON", id="empty"),
        pytest.param(b"[]\n", "not a receipt", id="a list"),
        pytest.param(receipt_bytes(RECEIPT)[:-1], "one spelling", id="no line end"),
        pytest.param(receipt_bytes(RECEIPT) + b"\n", "JSON|one spelling", id="two line ends"),
        pytest.param(json.dumps(json.loads(receipt_bytes(RECEIPT)), indent=2).encode(), "one spelling", id="edited"),
        pytest.param(changed(lambda one: one.update(kind="Lock")), "kind", id="another kind"),
        pytest.param(changed(lambda one: one.update(more=1)), "more", id="a key more"),
        pytest.param(changed(lambda one: one.pop("prefix")), "prefix", id="a key less"),
        pytest.param(changed(lambda one: _swap(one["repositories"])), "each once, sorted", id="repositories unsorted"),
        pytest.param(changed(lambda one: _swap(one["amis"])), "each once, sorted", id="AMIs unsorted"),
        pytest.param(
            changed(lambda one: _swap(one["repositories"][0]["blobs"])), "blobs: each once, sorted", id="blobs unsorted"
        ),
        pytest.param(
            changed(lambda one: one["repositories"][0]["tags"].append(one["repositories"][0]["tags"][1])),
            "tags: each once, sorted",
            id="a tag twice",
        ),
        pytest.param(
            changed(lambda one: one["repositories"][1]["blobs"][0].update(size=1)), "two sizes for", id="two sizes"
        ),
        pytest.param(changed(lambda one: one["repositories"][0]["blobs"][0].update(size=-1)), "size", id="size -1"),
        pytest.param(changed(lambda one: one["repositories"][0]["blobs"][0].update(size=1.5)), "size|JSON", id="half"),
        pytest.param(changed(lambda one: one["repositories"][0]["blobs"][0].update(size=1 << 60)), "size", id="huge"),
        pytest.param(changed(lambda one: one["repositories"][0].update(name="a/../b")), "is no repository", id="dots"),
        pytest.param(changed(lambda one: one["repositories"][0]["tags"][0].update(tag="a b")), "tag", id="no tag"),
    ],
)
def test_anything_else_is_refused(raw: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words) as caught:
        parse_receipt(raw, source="r")
    assert caught.value.subject == "r"


def test_one_of_over_64_mib_is_refused() -> None:
    with pytest.raises(LimitError):
        parse_receipt(bytes(MAX_RECEIPT_BYTES + 1), source="r")


RAW = receipt_bytes(RECEIPT)


@given(st.data())
def test_a_changed_receipt_is_refused_or_says_something_else_in_its_one_spelling(data: st.DataObject) -> None:
    raw = bytearray(RAW)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, max(0, len(raw) - 1)))
        kind = data.draw(st.sampled_from(["set", "cut", "add"]))
        if kind == "set" and raw:
            raw[place] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del raw[place : place + data.draw(st.integers(1, 90))]
        else:
            raw[place:place] = data.draw(st.binary(max_size=9))
    try:
        found = parse_receipt(bytes(raw), source="r")
    except BundleError:
        return
    assert receipt_bytes(found) == raw


@given(st.binary(max_size=200))
def test_noise_is_refused(raw: bytes) -> None:
    with pytest.raises(BundleError):
        parse_receipt(raw, source="r")


def test_a_receipt_says_so_however_it_is_written_and_a_lock_does_not() -> None:
    assert is_receipt(receipt_bytes(RECEIPT))
    assert is_receipt(json.dumps(json.loads(receipt_bytes(RECEIPT)), indent=2).encode())
    assert not is_receipt(sample().layout.generated["lock.json"])
    assert not is_receipt(json.dumps({"where": '"kind":"Receipt"'}).encode())


FIRST: Layers = {"quay.io/a:1": ["x", "y"], "quay.io/gone:1": ["x"]}
SECOND: Layers = {"quay.io/a:1": ["x", "z"], "quay.io/new:1": ["y"]}
OLD, NEW = bundle(FIRST, sequence=1, size=1000).lock, bundle(SECOND, sequence=2, size=1000).lock


def test_two_locks_differ_by_name_and_digest_and_the_bytes_that_are_new_are_counted_once() -> None:
    before, after = lock_contents(OLD), lock_contents(NEW)
    found = {(one.kind, one.name): (one.was is None, one.now is None) for one in differences(before, after)}
    assert found == {
        ("image", "quay.io/a:1"): (False, False),
        ("image", "quay.io/gone:1"): (False, True),
        ("image", "quay.io/new:1"): (True, False),
    }
    needs = needed(before, after)
    new = after.blobs.keys() - before.blobs.keys()
    assert (needs.blobs, needs.size_bytes) == (len(new), sum(after.blobs[digest] for digest in new))
    gone = left_out(NEW, held_content(OLD), source="x")
    assert needs.delta_bytes == needs.of_bytes - sum(held.size for held in gone.values())
    assert differences(before, before) == ()
    assert needed(after, after).size_bytes == 0


def test_tools_and_files_are_not_missing_from_a_receipt() -> None:
    before, after = receipt_contents(RECEIPT), lock_contents(NEW)
    found = differences(before, after)
    assert {one.kind for one in found} == {"image", "chart", "ami"}
    assert needed(before, before).size_bytes == 0
    assert [one.name for one in found if one.now is None and one.kind == "ami"] == ["workers amd64"]
