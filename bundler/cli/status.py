"""`bundle status`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundler.cli.access import token_command
from bundler.cli.install import described
from bundler.cli.options import ca_file_option, output_option, showing, site_option
from bundler.cli.render import private_name, show_document, show_table

if TYPE_CHECKING:
    from bundler.domain.report import Report
    from bundler.domain.site import Site
    from bundler.workflows.status import SiteStatus


@click.command()
@site_option
@ca_file_option
@output_option
def status(site_file: Path, ca_file: Path | None, output: str) -> None:
    """Show what runs at a site: nodes, releases, workloads and their images.

    It reads the cluster with the kubectl that the last install from this host carried, else with the one on PATH, and
    the journal on this host and in S3 (state of the site file); nothing is written to the site.
    """
    from bundler import wiring

    site = wiring.read_site(site_file)
    options = wiring.InstallOptions(token_command=tuple(token_command(site_file)), deadline_s=0)
    with showing("auto") as emit:
        found = wiring.status_of(site, wiring.Surroundings(ca_file=ca_file, emit=emit), options)
    if output != "text":
        show_document(document(site, found), output)
        return
    _show_site(site, found)
    _show_nodes(found.report)
    _show_workloads(found.report)
    _show_images(found.report, below=f"{site.registry_host}/{site.registry.prefix}/")


def document(site: Site, found: SiteStatus) -> dict[str, object]:
    """Return a status for machines; bundle, root and time are null where no install is known."""
    facts = {} if found.installed is None else found.installed.facts
    return {
        "cluster": site.cluster.name,
        "endpoint": site.cluster.endpoint,
        "serverVersion": found.version,
        "bundle": facts.get("bundle"),
        "root": facts.get("root"),
        "installedAt": None if found.installed is None else found.installed.at,
        **described(found.report),
    }


def _show_site(site: Site, found: SiteStatus) -> None:
    click.echo(f"cluster  {site.cluster.name}  {found.version}  {site.cluster.endpoint}")
    if found.installed is not None:
        facts = found.installed.facts
        click.echo(f"bundle   {facts['bundle']}, installed {found.installed.at}\nroot     {facts['root']}")


def _show_nodes(report: Report) -> None:
    click.echo()
    show_table(
        ("NODE", "INSTANCE", "READY"),
        [
            (node.name, node.provider_id.rsplit("/", 1)[-1], "yes" if node.ready else f"no: {node.message}")
            for node in report.nodes
        ],
    )
    if report.stand_ins:
        click.echo(f"({report.stand_ins})")


def _show_workloads(report: Report) -> None:
    click.echo()
    rows = [
        (str(state.ref), f"{state.ready}/{state.desired}", state.owner.removeprefix("release "), state.problem or "ok")
        for state in report.workloads
    ]
    show_table(("WORKLOAD", "PODS", "RELEASE", "STATE"), rows)


def _show_images(report: Report, *, below: str) -> None:
    click.echo()
    rows = [(*private_name(image, below=below), str(state.ref)) for state in report.workloads for image in state.images]
    show_table((f"IMAGE (below {below.rstrip('/')})", "DIGEST", "WORKLOAD"), rows)
