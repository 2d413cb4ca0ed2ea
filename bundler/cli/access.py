"""`bundle token` and `bundle kubeconfig`."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
from pathlib import Path

import click

from bundler.atomic import publish
from bundler.cli.options import FILE, ca_file_option, site_option


@click.command()
@site_option
@ca_file_option
def token(site_file: Path, ca_file: Path | None) -> None:
    """Print an EKS token as kubectl's exec plugin wants it (an ExecCredential).

    The token is a presigned request to the Region's own STS host; making it needs credentials, and no network.
    """
    from bundler.wiring import Surroundings, cluster_credential, read_site

    now = dt.datetime.now(dt.UTC)
    click.echo(json.dumps(cluster_credential(read_site(site_file), Surroundings(ca_file=ca_file), now=lambda: now)))


@click.command()
@site_option
@click.option("--out", type=FILE, required=True, help="File to write (mode 0600).")
def kubeconfig(site_file: Path, out: Path) -> None:
    """Write a kubeconfig that needs no AWS CLI.

    It holds no secret: kubectl and helm get their tokens from `bundle token`.
    """
    from bundler.domain.kubeconfig import kubeconfig as content
    from bundler.wiring import read_site

    publish(
        out, content(read_site(site_file), command=token_command(site_file), environ=plugin_environment()), mode=0o600
    )
    click.echo(f"{out} written. Try:\n  kubectl --kubeconfig {out} get nodes", err=True)


def token_command(site_file: Path) -> list[str]:
    """The command that kubectl and helm run for a token: this very program."""
    return [sys.executable, "-m", "bundler", "token", "--site", str(site_file.absolute())]


def plugin_environment() -> dict[str, str]:
    """Variables without secrets that the plugin needs wherever it is started from."""
    names = ("AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_EC2_METADATA_DISABLED")
    return {name: os.environ[name] for name in names if os.environ.get(name)}
