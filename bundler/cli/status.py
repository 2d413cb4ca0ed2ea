"""`bundle status`."""

from __future__ import annotations

from pathlib import Path

import click

from bundler.cli.access import token_command
from bundler.cli.install import described
from bundler.cli.options import ca_file_option, output_option, site_option
from bundler.cli.render import show_document, show_table


@click.command()
@site_option
@ca_file_option
@output_option
def status(site_file: Path, ca_file: Path | None, output: str) -> None:
    """Show what runs at a site: nodes, releases, workloads and their images.

    It reads the cluster with the helm and kubectl that the last install carried; nothing is written.
    """
    from bundler import wiring

    site = wiring.read_site(site_file)
    options = wiring.InstallOptions(token_command=tuple(token_command(site_file)), deadline_s=0)
    found = wiring.status_of(site, wiring.Surroundings(ca_file=ca_file), options)
    if output != "text":
        show_document({"cluster": site.cluster.name, **described(found.report)}, output)
        return
    click.echo(f"cluster {site.cluster.name}  {found.version}  {site.cluster.endpoint}")
    if found.installed is not None:
        facts = found.installed.facts
        click.echo(f"bundle {facts['bundle']}  root {facts['root']}  {found.installed.at}")
    click.echo()
    show_table(
        ("NODE", "INSTANCE", "READY"),
        [
            (node.name, node.provider_id.rsplit("/", 1)[-1], "yes" if node.ready else f"no: {node.message}")
            for node in found.report.nodes
        ],
    )
    if found.report.stand_ins:
        click.echo(f"({found.report.stand_ins})")
    click.echo()
    show_table(
        ("WORKLOAD", "PODS", "RELEASE", "STATE"),
        [
            (
                str(state.ref),
                f"{state.ready}/{state.desired}",
                state.owner.removeprefix("release "),
                state.problem or "ok",
            )
            for state in found.report.workloads
        ],
    )
    click.echo()
    for state in found.report.workloads:
        click.echo(str(state.ref))
        for image in state.images:
            click.echo(f"  {image}")
