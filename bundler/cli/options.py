"""Options that several commands share, and what every command needs around it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from bundler.cli.progress import Progress

Command = TypeVar("Command", bound=Callable[..., Any])
DEFINITION = "bundle.yaml"
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
MAX_DURATION_S = 4 * 3600.0
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


def duration(_context: click.Context | None, _option: click.Parameter | None, value: str) -> float:
    """Return the seconds of a time that is given with its unit: 90s, 15m, 2h (an option's callback)."""
    match = re.fullmatch(r"([0-9]{1,6})([smh])", value)
    seconds = float(match[1]) * _UNITS_S[match[2]] if match else 0.0
    if not 0 < seconds <= MAX_DURATION_S:
        raise click.BadParameter(f"{value!r} is not a time such as 90s, 15m or 2h, at most 4h.")
    return seconds


def output_option(command: Command) -> Command:
    """`-o text|json|yaml`: the format of what stands on stdout."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["text", "json", "yaml"]),
        default="text",
        metavar="FORMAT",
        help="The result on stdout as text (default), json or yaml.",
    )(command)


def progress_option(command: Command) -> Command:
    """`--progress`: how long work shows itself on stderr."""
    return click.option(
        "--progress",
        type=click.Choice(["auto", "tty", "plain", "json", "none"]),
        default="auto",
        metavar="STYLE",
        help="Progress on stderr: tty, plain, json, none, or auto (default): tty on a terminal, else plain.",
    )(command)


def trust_option(command: Command) -> Command:
    """`--trust DIR`: where the accepted trust root stands."""
    return click.option(
        "--trust",
        "trust_folder",
        type=FOLDER,
        show_default="/etc/eks-bundler/trust if there, else below XDG_CONFIG_HOME",
        help="Folder of the accepted trust root.",
    )(command)


def ca_file_option(command: Command) -> Command:
    """`--ca-file`: further certificate authorities, for us and for every program we run."""
    return click.option(
        "--ca-file",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        envvar="SSL_CERT_FILE",
        help="PEM file of certificate authorities to trust as well (also SSL_CERT_FILE).",
    )(command)


def parts_option(command: Command) -> Command:
    """`--parts DIR`: where parts of an archive are, besides the folder of their table."""
    return click.option(
        "--parts",
        multiple=True,
        metavar="DIR",
        envvar="BUNDLE_PARTS",
        help="Folder or s3:// prefix in which parts are as well; may be given again (also BUNDLE_PARTS).",
    )(command)


def site_option(command: Command) -> Command:
    """`--site FILE`."""
    return click.option("--site", "site_file", type=FILE, required=True, help="The site file (site.yaml).")(command)


def jobs_option(command: Command) -> Command:
    """`-j N`: transfers at a time."""
    return click.option(
        "-j",
        "--jobs",
        type=click.IntRange(1, 64),
        default=16,
        show_default=True,
        metavar="N",
        help="Transfers at a time, as far as each host bears them.",
    )(command)


def definition_argument(command: Command) -> Command:
    """`[DEFINITION]`, ./bundle.yaml by default."""
    return click.argument("definition", type=FILE, default=DEFINITION)(command)


@contextmanager
def showing(style: str) -> Iterator[Progress]:
    """Yield the event handler of a command, and end its living line whatever happens.

    While nothing moves there are no events: a beat goes on telling so.
    """
    progress = Progress(style)
    try:
        with progress.beating():
            yield progress
    finally:
        progress.close()


def stack(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Apply several options, the first one shown first."""
    return lambda command: functools.reduce(lambda inner, option: option(inner), reversed(options), command)
