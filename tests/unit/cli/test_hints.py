"""Hints are commands to copy: they name the definition that the command was given."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bundler.cli.build import name_definition
from tests.journey import Workspace
from tests.terminal import ROOT


@pytest.mark.parametrize(
    ("hint", "named"),
    [
        ("Make it again: bundle lock", "Make it again: bundle lock prod/x.yaml"),
        (
            "Review the difference; to accept it: bundle lock --update",
            "Review the difference; to accept it: bundle lock prod/x.yaml --update",
        ),
        ("Then: bundle lock; bundle build", "Then: bundle lock prod/x.yaml; bundle build prod/x.yaml"),
        ("Make a key: bundle trust init", "Make a key: bundle trust init"),
    ],
)
def test_a_hint_names_the_definition(hint: str, named: str) -> None:
    assert name_definition(hint, Path("prod/x.yaml")) == named


def test_the_definition_that_is_taken_by_itself_is_not_named() -> None:
    assert name_definition("bundle lock", Path("./bundle.yaml")) == "bundle lock"


def test_a_name_is_quoted_where_a_shell_needs_it() -> None:
    assert name_definition("bundle lock", Path("my \\1 x.yaml")) == "bundle lock 'my \\1 x.yaml'"


def test_an_error_of_lock_names_the_definition_to_be_copied(tmp_path: Path) -> None:
    shutil.copy(ROOT / "bundles" / "closed-minimal" / "bundle.lab.yaml", tmp_path / "prod.yaml")
    (tmp_path / "prod.lock.json").write_text("{}")
    done = Workspace(folder=tmp_path).bundle("lock", "prod.yaml", expect=3)
    assert " ".join(done.stderr.split()).endswith("make a new one: bundle lock prod.yaml")
