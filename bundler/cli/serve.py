"""`bundle serve`."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundler.cli.options import FILE, ca_file_option, output_option, parts_option, trust_option
from bundler.cli.render import show_document, visible

if TYPE_CHECKING:
    from bundler.archive.reader import Archive
    from bundler.domain.http_message import Exchange
    from bundler.wiring.serving import Serving

_MOST_SHOWN = 400
_LISTEN = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})\Z")


def _host_and_port(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, int]:
    match = _LISTEN.match(value)
    if match is None or int(match["port"]) > 65535:
        raise click.BadParameter(f"{value!r} is not HOST:PORT, such as 127.0.0.1:5000 or [::1]:0.")
    return match["v6"] or match["host"], int(match["port"])


@click.command()
@click.argument("archive")
@parts_option
@trust_option
@ca_file_option
@click.option(
    "--listen",
    default="127.0.0.1:5000",
    show_default=True,
    metavar="HOST:PORT",
    callback=_host_and_port,
    help="Where to listen; port 0 takes a free one.",
)
@click.option(
    "--tls", nargs=2, type=FILE, metavar="CERT KEY", help="Speak TLS: PEM files of certificate chain and key."
)
@click.option("--htpasswd", type=FILE, help="Ask for a user and password of this file (htpasswd -B).")
@click.option(
    "--connections",
    type=click.IntRange(1, 256),
    default=32,
    show_default=True,
    metavar="N",
    help="Clients at a time; others wait.",
)
@output_option
def serve(
    archive: str,
    parts: tuple[str, ...],
    trust_folder: Path | None,
    ca_file: Path | None,
    listen: tuple[str, int],
    tls: tuple[Path, Path] | None,
    htpasswd: Path | None,
    connections: int,
    output: str,
) -> None:
    """Serve an archive's images and charts as an OCI registry, read-only.

    ARCHIVE is a file or s3://bucket/key, or STEM.parts.json of one in parts; nothing is unpacked. An image is at
    HOST:PORT/<its full name>, as in 127.0.0.1:5000/registry.k8s.io/pause:3.10, a chart at
    oci://HOST:PORT/charts/<name>. A mirror that gives the registry as ns=HOST, as containerd does, may leave it out of
    the name.

    Every byte is verified before an answer completes. Each request is a line on stderr. Ctrl-C ends it.
    """
    from bundler.cli.inspect import open_archive
    from bundler.wiring import Surroundings, archive_source
    from bundler.wiring.serving import ServeOptions, serving

    host, port = listen
    options = ServeOptions(host=host, port=port, connections=connections, log=_log, tls=tls, htpasswd=htpasswd)
    with archive_source(archive, Surroundings(ca_file=ca_file, parts=parts)) as source:
        opened = open_archive(source, trust_folder)
        if htpasswd is not None and tls is None and not _is_loopback(host):
            click.echo(f"warning: passwords for {host} cross the network readable; give --tls CERT KEY", err=True)
        with serving(opened, options) as started:
            _announce(opened, started, scheme="http" if tls is None else "https", output=output)
            started.run()


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _announce(archive: Archive, started: Serving, *, scheme: str, output: str) -> None:
    """Say where it is, in one line that whoever starts us may wait for."""
    name = f"{archive.lock.name}-{archive.lock.sequence}"
    count = len(started.served.repositories)
    document = {
        "event": "Serving",
        "address": started.address,
        "url": f"{scheme}://{started.address}",
        "archive": name,
        "root": str(archive.root.digest),
        "repositories": count,
    }
    if output == "json":
        click.echo(json.dumps(document))
    elif output == "yaml":
        show_document(document, output)
    else:
        click.echo(f"{name} is at {document['url']} ({count} repositories); Ctrl-C ends it")


def _log(exchange: Exchange) -> None:
    """Write the access line; clients are served, also where nobody reads our stderr or its disk is full."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    line = f"{now} {exchange.peer} {exchange.status} {exchange.sent_bytes} {exchange.asked[:_MOST_SHOWN]}"
    if exchange.failure is not None:
        line += f" FAILED {exchange.failure}"
    with suppress(OSError):
        click.echo(visible(line).replace("\n", "\\x0a"), err=True)
