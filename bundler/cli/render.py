"""How text, errors, tables and documents look. Progress is drawn in `progress.py`, and nothing anywhere else."""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

import click

from bundler.errors import BundleError

MAX_COLUMNS = 100
_LABEL = 9  # "  cause: "
_COMMAND = re.compile(r"(?P<before>(?:.*?: )?)(?P<command>(?:aws|bundle|chmod|chown|helm|kubectl) \S.*)\Z")


def columns(stream: TextIO) -> int:
    """Return the width of what people look at: COLUMNS, else the terminal's, else 80."""
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def human_bytes(count: float) -> str:
    """Return `count` bytes as a person reads it: 512 B, 31.2 MB, 1.84 GB (powers of ten)."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= size:
            digits = 2 if abs(count) < 10 * size else 1 if abs(count) < 100 * size else 0
            return f"{count / size:.{digits}f} {unit}"
    return f"{count:.0f} B"


def human_seconds(seconds: float) -> str:
    """Return a duration as 0.4 s, 42 s, 2:05 or 1:02:03."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def render_error(error: BundleError, *, width: int | None = None) -> str:
    """Return an error as people read it: object and cause, what is safe, what to do next."""
    width = min(columns(sys.stderr), MAX_COLUMNS) if width is None else width
    lines = [filled(visible(f"{error.title}: {error.subject}"), width, indent=2)]
    for label, text in (("cause:", error.cause), ("safe:", error.safe), ("next:", error.hint)):
        if text:
            lines.append(_labelled(label, visible(text), width))
    return "\n".join(lines) + "\n"


def _labelled(label: str, text: str, width: int) -> str:
    """Put `text` beside its label; its own line breaks stay."""
    lines = [line for part in text.rstrip().split("\n") for line in _with_command(part, width - _LABEL)]
    shown = "\n".join(_below(line, width) for line in lines)
    return f"  {label:<{_LABEL - 2}}" + shown[_LABEL:]


def _with_command(line: str, width: int) -> list[str]:
    """Give a command that ends a line a line of its own where both do not fit."""
    match = _COMMAND.match(line)
    if match is None or len(line) <= width or not match["before"]:
        return [line]
    return [match["before"].rstrip(), match["command"]]


def _below(line: str, width: int) -> str:
    """Put one line under the first of its paragraph; a command stays whole, to be copied."""
    text = line.lstrip(" ")
    depth = _LABEL + len(line) - len(text)
    match = _COMMAND.match(text)
    if match is not None and not match["before"]:
        return " " * depth + text
    bullet = "- " if text.startswith("- ") else ""
    folded = filled(text.removeprefix(bullet), width - depth, first=bullet, indent=len(bullet))
    return " " * depth + folded.replace("\n", "\n" + " " * depth)


def filled(text: str, width: int, *, first: str = "", indent: int) -> str:
    """Fold `text` at blanks, behind `first`; blanks inside a line and at its begin stay."""
    wrapper = textwrap.TextWrapper(
        width=max(width, 20),
        initial_indent=first,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(wrapper.wrap(text)) or first + text


def visible(text: str) -> str:
    """Return `text` with everything escaped that could drive a terminal: it may come from outside."""
    return "".join(char if char == "\n" or char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def show_document(document: Mapping[str, object], output: str) -> None:
    """Print `document` on stdout as json or yaml."""
    if output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), nl=False)
    else:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def private_name(reference: str, *, below: str) -> tuple[str, str]:
    """Return name and short digest of an image or chart; below `below` (with its slash) the name begins after it."""
    name, _, digest = reference.removeprefix(below).partition("@")
    return name, digest.removeprefix("sha256:")[:12] or "none"


def show_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, fold: bool = True) -> None:
    """Print rows in columns; where they do not fit the terminal and `fold`, a row's first cell gets its own line."""
    table = [tuple(headers), *(tuple(map(visible, row)) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(headers))]
    fits = not fold or sum(widths) + 2 * (len(widths) - 1) <= columns(sys.stdout)
    for number, row in enumerate(table):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines = ["  ".join(cells)] if fits else [row[0], "    " + "  ".join(cells[1:])]
        for line in lines:
            click.echo(click.style(line.rstrip(), bold=True) if number == 0 else line.rstrip())
