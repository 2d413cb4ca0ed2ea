"""`bundle nodes`."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundler.cli.options import output_option, showing, site_option
from bundler.cli.render import show_document
from bundler.errors import UsageError

if TYPE_CHECKING:
    from bundler.domain.site import NodeGroup, Site


@click.group()
def nodes() -> None:
    """Show what the nodes of a site are told."""


@nodes.command("user-data")
@site_option
@click.option("--group", "name", metavar="NAME", required=True, help="The node group, by its name in the site file.")
@output_option
def user_data(site_file: Path, name: str, output: str) -> None:
    """Print the user data of a node group.

    As the instances see it, and as install puts it into the launch template: MIME with a NodeConfig for AL2023, TOML
    for Bottlerocket, a call of bootstrap.sh for Amazon Linux 2. Nothing is asked and nothing is written. With -o json
    it stands in userData as base64, as the EC2 API takes it.
    """
    from bundler.domain.events import Noted
    from bundler.domain.user_data import user_data as raw_user_data
    from bundler.domain.user_data import user_data_warnings
    from bundler.wiring import read_site

    site = read_site(site_file)
    group = _group(site, name, site_file)
    raw = raw_user_data(site, group)
    with showing("auto") as emit:
        for text in user_data_warnings(site, group):
            emit(Noted(text=text, warning=True))
    if output == "text":
        click.echo(raw, nl=False)
    else:
        show_document(document(group, raw), output)


def document(group: NodeGroup, raw: bytes) -> dict[str, object]:
    """Return user data for machines."""
    return {
        "group": group.name,
        "os": group.os,
        "bytes": len(raw),
        "userData": base64.b64encode(raw).decode("ascii"),
    }


def _group(site: Site, name: str, site_file: Path) -> NodeGroup:
    known = {group.name: group for group in site.node_groups}
    if name not in known:
        there = f"it has {', '.join(known)}" if known else "it has none"
        raise UsageError(str(site_file), f"has no node group {name!r}; {there}", hint="Give --group one of its names.")
    return known[name]
