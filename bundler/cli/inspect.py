"""`bundle inspect`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundler.cli.options import ca_file_option, output_option, trust_option
from bundler.cli.render import human_bytes, show_document, show_table

if TYPE_CHECKING:
    from bundler.archive.reader import Archive
    from bundler.domain.lock import LockedImage
    from bundler.ports import ByteSource


@click.command()
@click.argument("archive")
@trust_option
@ca_file_option
@output_option
def inspect(archive: str, trust_folder: Path | None, ca_file: Path | None, output: str) -> None:
    """Show what an archive holds, without unpacking it.

    ARCHIVE is a file or s3://bucket/key. Root, signature and table of contents are verified; content is not read
    (bundle verify does that).
    """
    from bundler.wiring import Surroundings, archive_source

    with archive_source(archive, Surroundings(ca_file=ca_file)) as source:
        opened = open_archive(source, trust_folder)
        if output == "text":
            _show(opened)
        else:
            show_document(describe(opened), output)


def open_archive(source: ByteSource, trust_folder: Path | None) -> Archive:
    """Return an archive whose signature, lock and table of contents are right."""
    from bundler import trust as store
    from bundler.stages.verify import verify as open_verified

    trusted = store.load_accepted_trust(store.trust_folder(trust_folder, environ=os.environ))
    return open_verified(source, trust=trusted, full=False)


def describe(archive: Archive) -> dict[str, object]:
    """Return an archive's contents for machines."""
    lock = archive.lock
    return {
        "name": lock.name,
        "sequence": lock.sequence,
        "created": lock.created,
        "root": str(archive.root.digest),
        "trustDigest": str(archive.trust_digest),
        "bytes": archive.source.size,
        "members": len(archive.members) + 1,
        "kubernetesVersion": lock.kubernetes_version,
        "platforms": [str(platform) for platform in lock.platforms],
        "images": [
            {
                "reference": str(image.reference),
                "digest": str(image.target.digest),
                "form": image.form,
                "platforms": [str(platform) for platform in image.platforms],
                "origin": image.origin,
                "bytes": _image_bytes(image),
                "evidence": [{"by": item.by, "where": item.where} for item in image.evidence],
            }
            for image in lock.images
        ],
        "charts": [
            {
                "reference": chart.reference,
                "digest": str(chart.manifest.digest),
                "origin": chart.origin,
                "bytes": chart.content.size,
            }
            for chart in lock.charts
        ],
        "releases": [
            {"name": r.name, "namespace": r.namespace, "chart": r.chart, "role": r.role} for r in lock.releases
        ],
        "tools": [
            {
                "name": tool.name,
                "version": tool.version,
                "platform": str(tool.platform),
                "digest": str(tool.content.digest),
                "bytes": tool.content.size,
            }
            for tool in lock.tools
        ],
        "files": [
            {"name": file.name, "purpose": file.purpose, "digest": str(file.content.digest), "bytes": file.content.size}
            for file in lock.files
        ],
    }


def _image_bytes(image: LockedImage) -> int:
    """Size of an image by itself; blobs that images share stand in the archive once."""
    blobs = {blob.digest: blob.size for manifest in image.manifests for blob in manifest.blobs}
    return sum(blobs.values())


def _show(archive: Archive) -> None:
    lock = archive.lock
    click.echo(f"{click.style(f'{lock.name}-{lock.sequence}', bold=True)}  Kubernetes {lock.kubernetes_version}")
    click.echo(f"root     {archive.root.digest}")
    click.echo(f"created  {lock.created}")
    click.echo(f"size     {human_bytes(archive.source.size)} in {len(archive.members) + 1} members\n")
    show_table(
        ("IMAGE", "DIGEST", "SIZE", "PLATFORMS", "FORM", "ORIGIN"),
        [
            (
                str(image.reference),
                image.target.digest.short,
                human_bytes(_image_bytes(image)),
                ",".join(str(platform) for platform in image.platforms),
                image.form,
                image.origin,
            )
            for image in lock.images
        ],
    )
    click.echo()
    show_table(
        ("CHART", "DIGEST", "SIZE", "ORIGIN"),
        [(c.reference, c.manifest.digest.short, human_bytes(c.content.size), c.origin) for c in lock.charts],
    )
    click.echo()
    show_table(
        ("TOOL OR FILE", "DIGEST", "SIZE", "FOR"),
        [
            (f"{t.name} {t.version}", t.content.digest.short, human_bytes(t.content.size), str(t.platform))
            for t in lock.tools
        ]
        + [(f.name, f.content.digest.short, human_bytes(f.content.size), f.purpose) for f in lock.files],
    )
