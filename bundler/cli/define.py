"""`bundle init` and `bundle schema`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bundler.atomic import publish
from bundler.cli.options import FILE
from bundler.errors import UsageError


@click.command()
@click.option("--name", default="my-bundle", metavar="NAME", show_default=True, help="Name of the bundle.")
@click.option("--kubernetes-version", "-k", required=True, metavar="1.NN", help="Kubernetes minor version.")
@click.option(
    "--region", "-r", required=True, metavar="REGION", help="Region whose add-on registry the images are taken from."
)
@click.option("--partition", show_default="the Region's", help="AWS partition.")
@click.option(
    "--platform",
    "platforms",
    metavar="OS/ARCH",
    multiple=True,
    default=["linux/amd64"],
    show_default=True,
    help="Platform of the nodes; may be given more than once.",
)
@click.option("--out", type=FILE, default="bundle.yaml", show_default=True, help="File to write.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
def init(
    name: str,
    kubernetes_version: str,
    region: str,
    partition: str | None,
    platforms: tuple[str, ...],
    out: Path,
    force: bool,
) -> None:
    """Write a commented bundle.yaml from a preset.

    The file lists the core set of the Kubernetes version with the images of the Region's add-on registry. A tag that
    is not known to this version stands as a placeholder, and `bundle lock` names the AWS call that lists it.
    """
    from bundler.domain.oci import Platform
    from bundler.wiring import read_presets
    from bundler.workflows.init import InitRequest, initial_definition

    if out.exists() and not force:
        raise UsageError(str(out), "exists already", hint="Give another --out, or --force to overwrite it.")
    presets, template = read_presets()
    request = InitRequest(
        name=name,
        kubernetes_version=kubernetes_version,
        region=region,
        partition=partition,
        platforms=[Platform.parse(platform) for platform in platforms],
    )
    publish(out, initial_definition(request, presets=presets, template=template).encode())
    click.echo(f"{out} written. Read it, fill in what it asks for, then:\n  bundle lock {out}", err=True)


@click.command()
@click.argument("which", metavar="definition|site|lock", type=click.Choice(["definition", "site", "lock"]))
def schema(which: str) -> None:
    """Print the JSON Schema of definition, site or lock, for editors and CI."""
    from bundler.domain.definition import definition_schema
    from bundler.domain.lock import lock_schema
    from bundler.domain.site import site_schema

    schemas = {"definition": definition_schema, "site": site_schema, "lock": lock_schema}
    click.echo(json.dumps(schemas[which](), indent=2))
