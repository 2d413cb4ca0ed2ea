from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.adapters.documents import parse_document
from bundler.domain.document import typed_values
from bundler.errors import DefinitionError

BAD = {
    "C01 duplicate key": (b"a: 1\na: 2\n", "2:1", "stands twice"),
    "C05 alias": (b"a: &a [x]\nb: [*a, *a]\n", "1:4", "anchors"),
    "C06 self-reference": (b"a: &a [*a]\n", "1:4", "anchors"),
    "C07 depth 5000": (b"[" * 5000 + b"]" * 5000, "1:34", "nested deeper"),
    "C09 tag": (b"a: !!python/object/apply:os.system [x]\n", "1:4", "tags"),
    "C10 two documents": (b"a: 1\n---\na: 2\n", "2:1", "second document"),
    "C11 two MiB": (b"a: " + b"x" * (2 << 20), "", "larger than"),
    "C11 40 000 anchors": (b"".join(b"k%d: &a%d v\n" % (n, n) for n in range(40000)), "1:5", "anchors"),
    "C20 bidi": ("a: abc\u202egpj\n".encode(), "1:7", "hidden character U+202E"),
    "C20 escape in quotes": (b'a: "\\e[31m"\n', "1:4", "hidden character U+001B"),
    "C20 raw escape": (b"a: \x1b[31m\n", "1:4", "hidden character U+001B"),
    "merge key": (b"a: {<<: {y: 1}}\n", "1:5", "merge keys"),
    "complex key": (b"? [a]\n: b\n", "1:3", "plain word"),
    "not UTF-8": (b"a: 1\nb: \xff\n", "2:1", "UTF-8"),
    "empty": (b"", "1:1", "is empty"),
    "unclosed": (b"a: [1, 2\n", "2:1", "expected"),
    "20,001 nodes": (b"- x\n" * 20_001, "20000:3", "more than"),
}


@pytest.mark.parametrize(("raw", "place", "cause"), BAD.values(), ids=BAD.keys())
def test_a_document_outside_our_subset_is_refused_with_its_place(raw: bytes, place: str, cause: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        parse_document(raw, source="bundle.yaml")
    assert caught.value.subject == ("bundle.yaml" + (f":{place}" if place else ""))
    assert cause in caught.value.cause
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [("012345670123", "012345670123"), ("1.30", "1.30"), ("no", "no"), ("22:22", "22:22"), ("0644", "0644")],
    ids=["C02", "C03", "C04 no", "C04 22:22", "C04 0644"],
)
def test_scalars_stay_the_text_that_was_written(text: str, value: str) -> None:
    assert parse_document(f"a: {text}\n".encode(), source="x").value == {"a": value}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ('"true"', "true"),
        ("yes", "yes"),
        ("3", 3),
        ("'3'", "3"),
        ("1.30", "1.30"),
        ("1.5", 1.5),
        ("0644", "0644"),
        ("~", None),
        ("9" * 5000, "9" * 5000),
        ("1e999", "1e999"),
        (".nan", ".nan"),
    ],
)
def test_helm_values_get_types_but_nothing_that_would_print_differently(text: str, value: object) -> None:
    document = parse_document(f"a: {text}\n".encode(), source="x")
    assert typed_values(document.value) == {"a": value}


@given(st.binary(max_size=300))
def test_no_bytes_make_the_loader_fail_in_an_untyped_way(raw: bytes) -> None:
    try:
        parse_document(raw, source="x")
    except DefinitionError as error:
        assert error.subject.startswith("x")


@given(
    st.recursive(
        st.text("abc: {}[],&*!|>-'\"#\n", max_size=20), lambda inner: st.lists(inner, max_size=3), max_leaves=5
    )
)
def test_no_yaml_like_text_makes_the_loader_fail_in_an_untyped_way(parts: object) -> None:
    try:
        parse_document(str(parts).encode(), source="x")
    except DefinitionError as error:
        assert error.subject.startswith("x:")
