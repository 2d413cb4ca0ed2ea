"""YAML of charts: anchors and merge keys are read, bombs are not."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bundler.domain import kubernetes_yaml
from bundler.domain.kubernetes_yaml import Mapping, Node, Sequence, Text, compose, plain
from bundler.errors import FormatError, LimitError


def one(text: str) -> Mapping:
    (root,) = compose(text, subject="chart x")
    assert isinstance(root, Mapping)
    return root


def scalars(node: Node) -> list[Text]:
    if isinstance(node, Text):
        return [node]
    if isinstance(node, Sequence):
        return [text for item in node.items for text in scalars(item)]
    return [text for _, value in node.entries for text in scalars(value)]


def test_empty_documents_are_left_out() -> None:
    assert list(compose("---\n# nothing\n---\n---\nnull\n", subject="x")) == []


def test_anchors_and_merge_keys_are_resolved() -> None:
    root = one(
        "base: &b {image: one, pull: always}\nuse: {<<: *b, image: two}\nboth: {<<: [*b, {image: three, x: y}]}\n"
    )
    assert plain(root.mapping("use")) == {"pull": "always", "image": "two"}
    assert plain(root.mapping("both")) == {"image": "one", "x": "y", "pull": "always"}


def test_a_key_that_stands_twice_is_kept_twice_and_the_last_counts() -> None:
    root = one("image: one\nimage: two\n")
    assert [key for key, _ in root.entries] == ["image", "image"]
    assert root.text("image") == "two"


def test_null_is_no_text() -> None:
    root = one("a: ~\nb: ''\nc: null\nd:\ne: 'null'\n")
    assert plain(root) == {"a": None, "b": "", "c": None, "d": None, "e": "null"}
    assert root.text("c") == ""


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[" * 5000, LimitError),
        (
            "a: &a [x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"b{n}: &b{n} [{','.join(['*a' if n == 0 else f'*b{n - 1}'] * 9)}]\n" for n in range(12)),
            LimitError,
        ),
        ("x: " + "y" * (kubernetes_yaml.MAX_DOCUMENT_CHARACTERS + 1), LimitError),
        ("a: *nowhere", FormatError),
        ("{[a]: b}", FormatError),
        ("a: [", FormatError),
        ("a: \x00", FormatError),
        ("\ufeffa: b", FormatError),
    ],
    ids=["deep", "aliases", "large object", "unknown anchor", "list as key", "cut", "nul", "byte order mark"],
)
def test_hostile_yaml_is_refused(text: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="chart x"):
        list(compose(text, subject="chart x"))


def test_all_documents_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_yaml, "MAX_CHARACTERS", 100)
    with pytest.raises(LimitError, match="has 101 characters"):
        list(compose("#" * 101, subject="x"))


printable = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufeff\u2028\u2029\ufffe\uffff"), max_size=20
)
trees = st.recursive(
    printable,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(printable, inner, max_size=4),
    max_leaves=20,
)


@given(value=st.dictionaries(printable, trees, min_size=1, max_size=4), flow=st.booleans())
def test_places_are_right_whatever_the_text_holds(value: dict[str, object], *, flow: bool) -> None:
    text = yaml.safe_dump(value, allow_unicode=True, default_flow_style=flow, width=30, sort_keys=False)
    root = one(text)
    assert plain(root) == value or yaml.safe_load(text) != value
    for scalar in scalars(root):
        inside = text[scalar.start : scalar.end]
        assert "\n" in inside or [plain(node) for node in compose(inside, subject="x")] in ([scalar.value], [], [None])
