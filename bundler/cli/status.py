"""`bundle status`."""

from __future__ import annotations

from pathlib import Path

import click

from bundler.cli.access import token_command
from bundler.cli.install import described
from bundler.cli.options import ca_file_option, output_option, site_option
from bundler.cli.render import private_name, show_document, show_table


@click.command()
@site_option
@ca_file_option
@output_option
def status(site_file: Path, ca_file: Path | None, output: str) -> None:
    """Show what runs at a site: nodes, releases, workloads and their images.

    It reads the cluster with the kubectl that the last install from this host carried, else with the one on PATH;
    nothing is written to the site.
    """
    from bundler import wiring

    site = wiring.read_site(site_file)
    options = wiring.InstallOptions(token_command=tuple(token_command(site_file)), deadline_s=0)
    found = wiring.status_of(site, wiring.Surroundings(ca_file=ca_file), options)
    if output != "text":
        show_document({"cluster": site.cluster.name, **described(found.report)}, output)
        return
    click.echo(f"cluster  {site.cluster.name}  {found.version}  {site.cluster.endpoint}")
    if found.installed is not None:
        facts = found.installed.facts
        click.echo(f"bundle   {facts['bundle']}, installed {found.installed.at}\nroot     {facts['root']}")
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
    below = f"{site.registry_host}/{site.registry.prefix}/"
    show_table(
        (f"IMAGE (below {below.rstrip('/')})", "DIGEST", "WORKLOAD"),
        [
            (*private_name(image, below=below), str(state.ref))
            for state in found.report.workloads
            for image in state.images
        ],
    )
