"""`bundle diff`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundler.cli.options import ca_file_option, output_option, parts_option
from bundler.cli.render import human_bytes, show_document, show_table
from bundler.domain.events import counted

if TYPE_CHECKING:
    from bundler.domain.contents import Difference, Needed


@click.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@parts_option
@ca_file_option
@output_option
def diff(before: str, after: str, parts: tuple[str, ...], ca_file: Path | None, output: str) -> None:
    """Compare two bundles by images, charts, tools, files and AMIs, and say how many bytes the second needs.

    What B has and A has not is marked +, what only A has -, and what has another digest ~. A and B are archives (files,
    or s3://bucket/key), locks, or receipts of sites. A receipt holds images, charts and AMIs, with their names at the
    site: tools and files are not compared with one. The last lines say how many bytes B needs that A
    lacks, and how many of its content bundle build --against A carries (blocks of AMIs are not foreseen). Each of the
    two vouches for itself; nothing is used because of what stands here.
    """
    from bundler import wiring
    from bundler.domain.contents import differences, needed

    surroundings = wiring.Surroundings(ca_file=ca_file, parts=parts)
    one, two = wiring.read_contents(before, surroundings), wiring.read_contents(after, surroundings)
    found, needs = differences(one, two), needed(one, two)
    if output == "text":
        _show(found, needs, has_delta=two.lock is not None)
    else:
        show_document(_described(found, needs, has_delta=two.lock is not None), output)


def _show(found: tuple[Difference, ...], needs: Needed, *, has_delta: bool) -> None:
    if found:
        rows = [(f"{_sign(one)} {one.name}", one.kind, _short(one.was), _short(one.now)) for one in found]
        show_table(("  NAME", "KIND", "WAS", "NOW"), rows)
        click.echo()
    new = f"{counted(needs.blobs, 'blob')}, {human_bytes(needs.size_bytes)}"
    click.echo(f"needs {new}, of {counted(needs.of_blobs, 'blob')}, {human_bytes(needs.of_bytes)}")
    if has_delta:
        click.echo(f"build --against carries {human_bytes(needs.delta_bytes)} of content")


def _sign(one: Difference) -> str:
    return "+" if one.was is None else "-" if one.now is None else "~"


def _short(digest: object) -> str:
    return "" if digest is None else str(digest).removeprefix("sha256:")[:12]


def _described(found: tuple[Difference, ...], needs: Needed, *, has_delta: bool) -> dict[str, object]:
    return {
        "differences": [
            {
                "kind": one.kind,
                "name": one.name,
                "was": None if one.was is None else str(one.was),
                "now": None if one.now is None else str(one.now),
            }
            for one in found
        ],
        "needed": {"blobs": needs.blobs, "bytes": needs.size_bytes},
        "of": {"blobs": needs.of_blobs, "bytes": needs.of_bytes},
        "deltaBytes": needs.delta_bytes if has_delta else None,
    }
