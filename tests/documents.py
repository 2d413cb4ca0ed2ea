"""The documents as tests read them: code blocks and tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.terminal import ROOT

EXAMPLE = ROOT / "bundles" / "closed-minimal"
README = ROOT / "README.md"
GUIDE = ROOT / "docs" / "operator-guide.md"
FORMATS = ROOT / "docs" / "formats.md"
KEY = re.compile(r"`([^`]+)`( \*)?")


def indented(path: Path) -> list[str]:
    """The lines of a document's code blocks."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("    ") for line in lines if line.startswith("    ")]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a document: under which heading, after which paragraph, and the cells of its rows."""

    section: str
    title: str
    rows: list[list[str]]

    @property
    def keys(self) -> dict[str, bool]:
        """The keys of the first column, and whether each has a star."""
        return {key: bool(star) for row in self.rows for key, star in KEY.findall(row[0])}


def tables(path: Path) -> Iterator[Table]:
    """Every table of a document."""
    section = ""
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        lines = block.strip("\n").splitlines()
        if lines and lines[0].startswith("#"):
            section, title = lines[0].lstrip("# "), ""
        if lines and lines[0].startswith("|"):
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
            yield Table(section=section, title=title, rows=rows)
        elif lines and not lines[0].startswith("#"):
            title = lines[0]
