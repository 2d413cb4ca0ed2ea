"""Commands, options and exit codes in the documents exist, and none is left out."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from bundler.cli.main import COMMANDS, EXIT_CODES, cli
from tests.documents import EXAMPLE, GUIDE, README, indented, tables


def commands(path: Path) -> list[str]:
    """Every `bundle …` that a document shows, with or without a prompt."""
    text = path.read_text(encoding="utf-8")
    found = [line.removeprefix("$ ") for line in indented(path)]
    found += [span for span in re.findall(r"`(bundle [^`]+)`", text) if "," not in span]
    return [line for line in found if line.startswith("bundle ")]


@pytest.mark.parametrize(
    ("path", "line"),
    [(path, line) for path in (README, GUIDE, EXAMPLE / "README.md") for line in commands(path)],
    ids=lambda value: value.name if isinstance(value, Path) else value,
)
def test_a_command_in_the_documents_exists_and_has_these_options(path: Path, line: str) -> None:
    """Also those whose arguments are left out: only names are looked at."""
    del path
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = cli
    with click.Context(cli) as context:
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            found = command.get_command(context, words.pop(0))
            assert found is not None, f"no such command: {line}"
            command = found
        known = {name for option in command.get_params(context) for name in (*option.opts, *option.secondary_opts)}
    used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert used <= known | {"--help", "-h"}


def test_the_guide_has_every_command() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"bundle {name}" not in text] == []


def test_the_guide_has_every_exit_code() -> None:
    [table] = [table for table in tables(GUIDE) if table.section == "Exit codes"]
    named = {int(code) for row in table.rows for code in row[0].split(",")}
    assert named == {code for code, _ in EXIT_CODES} | {141, 143}
