"""The README's tour is what the program prints (docs/output), with lines left out."""

from __future__ import annotations

import re

import pytest

from tests.documents import README
from tests.terminal import KEPT, normal


def tour() -> list[str]:
    """The lines of the README's tour."""
    _, _, rest = README.read_text(encoding="utf-8").partition("## A tour")
    return [line.removeprefix("    ") for line in rest.partition("\n## ")[0].splitlines() if line.startswith("    ")]


@pytest.mark.parametrize("line", [line for line in tour() if not line.startswith("$")])
def test_a_line_of_the_tour_is_one_that_the_program_prints(line: str) -> None:
    kept = {known for path in KEPT.glob("*.txt") for known in normal(path.read_text(encoding="utf-8")).splitlines()}
    assert normal(line) in kept


def test_the_tour_is_short_and_names_one_archive_and_one_ami() -> None:
    lines = tour()
    assert 10 <= len(lines) <= 26
    assert len(set(re.findall(r"root (?:sha256:)?([0-9a-f]{12})", "\n".join(lines)))) == 1
    assert len(set(re.findall(r"ami-[0-9a-f]{17}", "\n".join(lines)))) == 1
