"""`bundle lab`: the stand-ins on this machine."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundler.cli.options import FOLDER, output_option
from bundler.cli.render import show_document
from bundler.errors import TargetError

if TYPE_CHECKING:
    from bundler.lab.lab import LabFacts


def _default_state() -> Path:
    from platformdirs import user_state_path

    return user_state_path("eks-bundler") / "lab"


state_option = click.option(
    "--state",
    type=FOLDER,
    default=_default_state,
    show_default="eks-bundler/lab below XDG_STATE_HOME",
    help="Folder of the lab.",
)


@click.group()
def lab() -> None:
    """Run stand-ins of AWS, ECR and Kubernetes on this machine.

    moto answers for AWS, an embedded registry behaves like ECR, and where KUBEBUILDER_ASSETS is set (make kube) a real
    Kubernetes API runs, whose nodes and pods have status only, no containers. Needs eks-bundler[lab].
    """


@lab.command()
@state_option
@click.option(
    "--kubernetes/--no-kubernetes",
    default=None,
    show_default="where KUBEBUILDER_ASSETS is set",
    help="Start a real Kubernetes API.",
)
@click.option("--machines", is_flag=True, help="Make EC2 instances real processes, for baking AMIs (root).")
@output_option
def up(state: Path, kubernetes: bool | None, machines: bool, output: str) -> None:
    """Start the stand-ins in the background."""
    from bundler.lab.lab import LabOptions, lab_up

    if kubernetes is None:
        kubernetes = bool(os.environ.get("KUBEBUILDER_ASSETS"))
    _show(lab_up(state, LabOptions(kubernetes=kubernetes, machines=machines)), output)


@lab.command()
@state_option
@output_option
def status(state: Path, output: str) -> None:
    """Show whether they run, and how to reach them."""
    from bundler.lab.lab import lab_status

    facts = lab_status(state)
    if facts is None:
        cause = "no lab runs with this folder"
        raise TargetError(str(state), cause, safe="Nothing was changed.", hint="Start one: bundle lab up")
    _show(facts, output)


@lab.command()
@state_option
def down(state: Path) -> None:
    """Stop them; logs stay in the folder."""
    from bundler.lab.lab import lab_down

    lab_down(state)


def _show(facts: LabFacts, output: str) -> None:
    environment = facts.environment()
    document: dict[str, object] = {
        "state": str(facts.state),
        "aws": facts.aws_url,
        "registry": facts.registry_host,
        "registryAddress": facts.ecr_address,
        "source": facts.source_url,
        "kubernetes": None if facts.kubernetes is None else facts.kubernetes.endpoint,
        "machines": None if facts.machines is None else asdict(facts.machines),
        "site": str(facts.site_file),
        "bucket": facts.bucket,
        "environment": environment,
    }
    if output != "text":
        show_document(document, output)
        return
    for name, value in document.items():
        if isinstance(value, str):
            click.echo(f"{name:<16} {value}")
    if facts.kubernetes is None:
        click.echo("kubernetes       none (set KUBEBUILDER_ASSETS; make kube builds it)")
    else:
        click.echo("                 nodes and pods there are stand-ins: status only, no containers")
    if facts.machines is not None:
        click.echo(f"machines         {facts.machines.subnet} in {facts.machines.vpc}, {facts.machines.security_group}")
    click.echo("\nTo use it in this shell:")
    for name, value in environment.items():
        click.echo(f"  export {name}={value}")
