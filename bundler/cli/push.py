"""`bundle push`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundler.cli.options import (
    ca_file_option,
    jobs_option,
    output_option,
    parts_option,
    progress_option,
    showing,
    trust_option,
)
from bundler.cli.render import private_name, show_document, show_table
from bundler.errors import FormatError, UsageError

if TYPE_CHECKING:
    from bundler.domain.reference import Reference


@click.command()
@click.argument("archive")
@click.argument("registry", metavar="REGISTRY/PREFIX")
@parts_option
@trust_option
@ca_file_option
@jobs_option
@progress_option
@output_option
def push(
    archive: str,
    registry: str,
    parts: tuple[str, ...],
    trust_folder: Path | None,
    ca_file: Path | None,
    jobs: int,
    progress: str,
    output: str,
) -> None:
    """Push an archive's images and charts to any OCI registry.

    ARCHIVE is a file or s3://bucket/key, or STEM.parts.json of one in parts.

    Each image goes to REGISTRY/PREFIX/<source host>/<path> with its tag, each chart to REGISTRY/PREFIX/charts/<name>.
    What is there already is not sent. Credentials come from docker's configuration, or from the ECR API; a token
    server of another origin, a CA or plain HTTP is what registries.yaml (BUNDLE_REGISTRIES) is for.
    """
    from bundler import trust as store
    from bundler import wiring
    from bundler.domain.image_map import PrivateRegistry
    from bundler.stages.verify import verify
    from bundler.workflows.push import push_archive

    try:
        target = PrivateRegistry.parse(registry)
    except FormatError as error:
        raise UsageError("REGISTRY/PREFIX", f"{error.subject} {error.cause}") from error
    with showing(progress) as emit:
        surroundings = wiring.Surroundings(ca_file=ca_file, jobs=jobs, emit=emit, parts=parts)
        trusted = store.load_accepted_trust(store.trust_folder(trust_folder, environ=os.environ))
        with wiring.archive_source(archive, surroundings) as source:
            opened = verify(source, trust=trusted, emit=emit, full=False)
            references = push_archive(
                opened,
                target=target,
                registry=wiring.any_registry(surroundings),
                pace=surroundings.pace,
            )
    if output == "text":
        _show(references.values(), below=f"{target.host}/{target.prefix}".rstrip("/") + "/")
    else:
        show_document({name: str(pushed) for name, pushed in references.items()}, output)


def _show(pushed: Iterable[Reference], *, below: str) -> None:
    show_table(
        ("DIGEST", f"PUSHED (below {below.rstrip('/')})"),
        [private_name(str(target), below=below)[::-1] for target in pushed],
        fold=False,
    )
