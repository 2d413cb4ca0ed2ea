"""`bundle ship`."""

from __future__ import annotations

from pathlib import Path

import click

from bundler.cli.options import FILE, ca_file_option, jobs_option, output_option, parts_option, progress_option, showing
from bundler.cli.render import show_document


@click.command()
@click.argument("archive", type=FILE)
@click.argument("destination", metavar="s3://BUCKET/PREFIX")
@click.option("--clean", is_flag=True, help="Also remove unfinished uploads of the same name when done.")
@click.option("--slip", type=FILE, show_default="beside the archive", help="Where to write the slip.")
@parts_option
@ca_file_option
@jobs_option
@progress_option
@output_option
def ship(
    archive: Path,
    destination: str,
    clean: bool,
    slip: Path | None,
    parts: tuple[str, ...],
    ca_file: Path | None,
    jobs: int,
    progress: str,
    output: str,
) -> None:
    """Upload an archive to S3, resumable; write the transfer slip.

    ARCHIVE is a file, or STEM.parts.json of one in parts: each part is sent, and that table last.

    A second run sends only what is missing. The slip (STEM.slip.json) stays here: it holds the digests that the other
    side compares, and travels by another channel.
    """
    from bundler.domain.parts import table_of
    from bundler.domain.shipment import S3Address
    from bundler.wiring import Surroundings, ship_file

    with showing(progress) as emit:
        surroundings = Surroundings(ca_file=ca_file, jobs=jobs, emit=emit, parts=parts)
        written = ship_file(archive, S3Address.parse(destination), clean=clean, slip=slip, surroundings=surroundings)
    address = S3Address.parse(destination).below(Path(table_of(str(archive)) or archive).name)
    if output == "text":
        click.echo(f"{address}\nslip: {written}")
    else:
        show_document({"archive": str(address), "slip": str(written)}, output)
