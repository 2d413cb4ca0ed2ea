"""The TOML that we write, read back by the standard library."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.domain.toml import toml

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = texts | st.booleans() | st.integers(-(2**63), 2**63 - 1)
tables = st.recursive(
    st.dictionaries(texts, scalars | st.lists(scalars, max_size=3), max_size=4),
    lambda inner: st.dictionaries(texts, inner | scalars, max_size=3),
    max_leaves=10,
)


@given(tables)
def test_what_is_written_is_read_back(table: dict[str, object]) -> None:
    assert tomllib.loads(toml(table)) == table


def test_it_reads_well() -> None:
    assert toml({"a": {"b": {"x": 1, "y.z": ["p", "q"]}, "c": {}}, "top": True}) == (
        'top = true\n\n[a.b]\nx = 1\n"y.z" = ["p", "q"]\n\n[a.c]\n'
    )


@pytest.mark.parametrize("value", [None, 1.5, b"bytes", {1, 2}])
def test_a_value_of_another_kind_is_a_defect(value: object) -> None:
    with pytest.raises(TypeError, match="TOML has no"):
        toml({"a": value})
