"""`bundle receipt`."""

from __future__ import annotations

from pathlib import Path

import click

from bundler.cli.options import (
    FILE,
    ca_file_option,
    jobs_option,
    output_option,
    progress_option,
    showing,
    site_option,
)
from bundler.cli.render import human_bytes, show_document
from bundler.domain.events import counted


@click.command()
@site_option
@click.option("--out", type=FILE, show_default="CLUSTER.receipt.json", help="File to write.")
@ca_file_option
@jobs_option
@progress_option
@output_option
def receipt(site_file: Path, out: Path | None, ca_file: Path | None, jobs: int, progress: str, output: str) -> None:
    """Write down what a site holds now: a small file to carry out, for bundle build --against.

    It lists every repository below the site's prefix with the tags, configs and layers that are in it, and the AMIs
    that install restored in the account, all by digest. It is read from ECR and EC2, not from what was installed;
    nothing is written to the site, and the same site gives the same bytes.
    """
    from bundler import wiring
    from bundler.atomic import publish
    from bundler.domain.receipt import receipt_bytes
    from bundler.workflows.receipt import make_receipt

    site = wiring.read_site(site_file)
    path = Path(f"{site.cluster.name}.receipt.json") if out is None else out
    with showing(progress) as emit:
        surroundings = wiring.Surroundings(ca_file=ca_file, jobs=jobs, emit=emit)
        made = make_receipt(site, sources=wiring.receipt_sources(site, surroundings), pace=surroundings.pace)
    publish(path, receipt_bytes(made))
    held = made.content
    total = sum(one.size for one in held.values())
    if output == "text":
        repositories = counted(len(made.repositories), "repository", "repositories")
        blobs = f"{counted(len(held), 'blob')} of {human_bytes(total)}"
        click.echo(f"{path}: {repositories}, {blobs}, {counted(len(made.amis), 'AMI')}\ndigest {made.digest}")
        return
    show_document(
        {
            "receipt": str(path),
            "digest": str(made.digest),
            "repositories": len(made.repositories),
            "blobs": len(held),
            "bytes": total,
            "amis": len(made.amis),
        },
        output,
    )
