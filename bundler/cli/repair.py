"""`bundle repair`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundler.cli.options import (
    FOLDER,
    ca_file_option,
    jobs_option,
    output_option,
    parts_option,
    progress_option,
    showing,
)
from bundler.cli.render import human_bytes, show_document
from bundler.errors import FormatError, UsageError

if TYPE_CHECKING:
    from bundler.domain.digest import Digest


@click.command()
@click.argument("archive")
@click.option(
    "--from",
    "copies",
    multiple=True,
    metavar="COPY",
    help="Another copy: a file, a folder, s3://bucket/key or a prefix; may be given again.",
)
@click.option("--out", type=FOLDER, help="Folder for what is mended, where the archive cannot be written to.")
@click.option("--expect", metavar="sha256:…", help="The root digest, where the archive cannot say it any more.")
@parts_option
@ca_file_option
@jobs_option
@progress_option
@output_option
def repair(
    archive: str,
    copies: tuple[str, ...],
    out: Path | None,
    expect: str | None,
    parts: tuple[str, ...],
    ca_file: Path | None,
    jobs: int,
    progress: str,
    output: str,
) -> None:
    """Mend a damaged archive, or its parts, and fetch only what is damaged.

    ARCHIVE is a file, or STEM.parts.json of one in parts. What is damaged is found by digest: parts that are missing,
    cut or wrong, members of an archive in one file. Their content comes from a copy (--from: other disks, an S3 bucket;
    a copy may have damage or holes of its own), by ranges. Without --from it comes from the cache and from the
    registries that the lock names.

    What is damaged stays until the right bytes are on the disk; killed anywhere, the same command goes on. Copies are
    never written to. With --out DIR nothing but DIR is: it gets the mended parts (then: bundle verify ARCHIVE --parts
    DIR), or a whole archive.

    Digests say what is damaged, not whom to believe: bundle verify checks the signature.
    """
    from bundler.wiring import Surroundings
    from bundler.wiring.repair import repaired
    from bundler.workflows.repair import RepairRequest

    root = None if expect is None else _digest(expect)
    with showing(progress) as emit:
        surroundings = Surroundings(ca_file=ca_file, jobs=jobs, emit=emit, parts=parts)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
        request = RepairRequest(path=Path(archive), out=out, expect=root)
        outcome = repaired(archive, copies, request, surroundings)
    if output != "text":
        document = {
            "archive": archive,
            "root": str(outcome.root),
            "mended": list(outcome.mended),
            "written": [str(path) for path in outcome.written],
            "fetchedBytes": outcome.fetched_bytes,
        }
        show_document(document, output)
        return
    for name in outcome.mended:
        click.echo(f"mended {name}")
    state = f"{human_bytes(outcome.fetched_bytes)} fetched" if outcome.mended else "nothing was damaged"
    click.echo(f"{archive}: {state}\nroot {outcome.root}")


def _digest(text: str) -> Digest:
    from bundler.domain.digest import Digest

    try:
        return Digest.parse(text)
    except FormatError as error:
        raise UsageError("--expect", str(error), hint="Give the root digest: sha256:…") from None
