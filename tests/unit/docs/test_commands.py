"""Commands, options and exit codes in the documents exist, and none is left out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bundler.cli.main import COMMANDS, EXIT_CODES, cli
from tests.documents import EXAMPLE, GUIDE, README, indented, tables
from tests.terminal import KEPT


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


def test_what_a_command_prints_is_kept_of_all_but_those_that_the_guide_names() -> None:
    """At least one run of each that went well."""
    kept = [path.read_text(encoding="utf-8") for path in KEPT.glob("*.txt") if not path.name.startswith("error-")]
    shown = {name for text in kept for name in re.findall(r"^\$ bundle ([a-z]+)(?!.* --help)", text, re.MULTILINE)}
    guide = GUIDE.read_text(encoding="utf-8")
    [named] = re.findall(r"is kept in \[output/\]\(output/\), of all but (.*?)\.", guide, re.DOTALL)
    assert set(COMMANDS) - shown == set(re.findall(r"`bundle ([a-z]+)`", named))


def every_option(command: click.Command, name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each option of a command and of those below it: whose it is, and its names."""
    for option in command.params:
        if isinstance(option, click.Option):
            yield name, (*option.opts, *option.secondary_opts)
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            for inner in command.list_commands(context):
                found = command.get_command(context, inner)
                assert found is not None
                yield from every_option(found, f"{name} {inner}")


def test_every_option_is_explained_in_some_page() -> None:
    """By one of its names; docs/output, where `--help` is, does not count."""
    pages = [README, *GUIDE.parent.glob("*.md")]
    told = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", "\n".join(path.read_text(encoding="utf-8") for path in pages)))
    found = list(every_option(cli, "bundle"))
    assert len(found) > 100
    assert [(name, names) for name, names in found if told.isdisjoint(names)] == []


def test_the_guide_has_every_exit_code() -> None:
    [table] = [table for table in tables(GUIDE) if table.section == "Exit codes"]
    named = {int(code) for row in table.rows for code in row[0].split(",")}
    assert named == {code for code, _ in EXIT_CODES} | {141, 143}
