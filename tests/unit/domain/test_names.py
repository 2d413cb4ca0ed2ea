"""Derived names and step keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bundler.domain.digest import Digest
from bundler.domain.names import derived_name, step_key

BUNDLE = Digest.of(b"bundle")


@given(st.text("abc-", min_size=1, max_size=200), st.text("abc-", min_size=1, max_size=200))
def test_a_name_fits_and_stays_apart_from_others(one: str, other: str) -> None:
    names = [derived_name(one, "main", limit=64), derived_name(other, "main", limit=64)]
    assert all(len(name) <= 64 for name in names)
    assert (names[0] == names[1]) == (one == other)


def test_a_short_name_stays_readable() -> None:
    assert derived_name("cluster", "main", limit=64) == "cluster-main"


def test_a_step_key_changes_with_step_inputs_and_bundle_and_with_nothing_else() -> None:
    key = step_key("push", {"a": 1, "b": "x"}, BUNDLE)
    assert key == step_key("push", {"b": "x", "a": 1}, BUNDLE)
    others = [
        step_key("pull", {"a": 1, "b": "x"}, BUNDLE),
        step_key("push", {"a": 2, "b": "x"}, BUNDLE),
        step_key("push", {"a": 1, "b": "x"}, Digest.of(b"other")),
    ]
    assert len({key, *others}) == 4
    assert len(key) == 64  # client tokens of EC2 take as many
