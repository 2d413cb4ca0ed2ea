"""`.helmignore` means what Helm means by it."""

from __future__ import annotations

import pytest

from bundler.adapters.helmignore import Helmignore
from bundler.errors import DefinitionError


@pytest.mark.parametrize(
    ("rules", "path", "is_folder", "ignored"),
    [
        ("*.txt", "a/b.txt", False, True),
        ("*.txt", "a/b.md", False, False),
        ("/*.txt", "a/b.txt", False, False),
        ("/*.txt", "b.txt", False, True),
        ("a/*.txt", "a/b.txt", False, True),
        ("a/*.txt", "a/b/c.txt", False, False),
        ("docs/", "docs", True, True),
        ("docs/", "docs", False, False),
        ("# *.txt\n\n  b.txt  ", "b.txt", False, True),
        ("!keep.txt", "other.txt", False, True),
        ("!keep.txt", "keep.txt", False, False),
        ("!docs/", "docs", True, False),
        ("!docs/", "docs", False, True),
        ("[a-c]?.txt", "bx.txt", False, True),
        ("[^a-c]?.txt", "bx.txt", False, False),
        (r"\*.txt", "*.txt", False, True),
        (r"\*.txt", "a.txt", False, False),
        ("", "templates/.swp", False, True),
        ("", "templates/a.yaml", False, False),
        ("a.b", "axb", False, False),
    ],
)
def test_rules(rules: str, path: str, *, is_folder: bool, ignored: bool) -> None:
    assert Helmignore(rules, subject=".helmignore").ignores(path, is_folder=is_folder) is ignored


@pytest.mark.parametrize("rule", ["a/**/b", "[z-a]"])
def test_a_rule_that_helm_does_not_know_is_an_error(rule: str) -> None:
    with pytest.raises(DefinitionError, match="has the rule"):
        Helmignore(rule, subject=".helmignore")
