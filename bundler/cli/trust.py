"""`bundle trust`: keys on the connected side, accepted trust roots at a site."""

from __future__ import annotations

import os
from pathlib import Path

import click

from bundler.cli.options import FILE, FOLDER, output_option, trust_option
from bundler.cli.render import show_document
from bundler.errors import LocalResourceError, UsageError


@click.group()
def trust() -> None:
    """Make keys, and accept whose bundles a site believes."""


@trust.command()
@click.option("--out", type=FOLDER, default=".", show_default=True, help="Folder for bundle.key and trust.json.")
@output_option
def init(out: Path, output: str) -> None:
    """Make a signing key (ed25519, mode 0600) and trust.json.

    The key signs version 1 of the trust root, and the archives. Keep it off every machine that does not build; hand
    trust.json to the sites, and the digest printed here by another channel.
    """
    from bundler.trust import create_trust, trust_digest

    root, key, document = create_trust(out)
    digest = str(trust_digest(root))
    if output != "text":
        show_document({"key": str(key), "trust": str(document), "trustDigest": digest}, output)
        return
    click.echo(f"key         {key} (keep it secret; 0600)")
    click.echo(f"trust root  {document} (version {root.version})")
    click.echo(f"At each site, once:\n  bundle trust accept {document.name} --expect {digest}")


@trust.command()
@click.argument("trust_json", type=FILE)
@click.option("--expect", required=True, metavar="sha256:…", help="Trust digest, from another channel.")
@trust_option
@output_option
def accept(trust_json: Path, expect: str, trust_folder: Path | None, output: str) -> None:
    """Believe the bundles that this trust root vouches for.

    --expect is the trust digest as you got it by another channel than the file: from the transfer slip, by telephone.
    """
    from bundler import trust as store
    from bundler.domain.digest import Digest
    from bundler.errors import FormatError

    try:
        digest = Digest.parse(expect)
    except FormatError as error:
        raise UsageError("--expect", f"{error}", hint="Give the trust digest that the slip shows.") from None
    folder = store.trust_folder(trust_folder, environ=os.environ)
    root = store.accept_trust(_read(trust_json), expect=digest, folder=folder)
    if output != "text":
        show_document({"trust": str(folder), "version": root.version, "trustDigest": str(digest)}, output)
        return
    click.echo(f"Accepted trust root version {root.version} in {folder}\n{digest}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(str(path), "does not exist") from None
    except OSError as error:
        raise LocalResourceError(str(path), f"cannot be read: {error.strerror}") from error
