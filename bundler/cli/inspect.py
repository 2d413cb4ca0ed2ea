"""`bundle inspect`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundler.cli.options import ca_file_option, output_option, parts_option, trust_option
from bundler.cli.render import human_bytes, show_document, show_table
from bundler.domain.events import counted

if TYPE_CHECKING:
    from bundler.archive.reader import Archive
    from bundler.domain.ami import AmiAttributes, BakedAmi, LockedAmi, NodeFacts
    from bundler.domain.lock import Lock, LockedImage
    from bundler.ports import ByteSource

_SHORT = 12
"""Digits of a digest that people compare; JSON has them all."""


@click.command()
@click.argument("archive")
@parts_option
@trust_option
@ca_file_option
@output_option
def inspect(archive: str, parts: tuple[str, ...], trust_folder: Path | None, ca_file: Path | None, output: str) -> None:
    """Show what an archive holds, without unpacking it.

    ARCHIVE is a file or s3://bucket/key, or STEM.parts.json of one in parts. Root, signature and table of contents are
    verified; content is not read (bundle verify does that).
    """
    from bundler.wiring import Surroundings, archive_source

    with archive_source(archive, Surroundings(ca_file=ca_file, parts=parts)) as source:
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


def requires(lock: Lock) -> list[dict[str, str]]:
    """What the archive does not carry and the site must hold."""
    return [
        {
            "ami": ami.name,
            "architecture": ami.architecture,
            "bundle": ami.base.bundle,
            "root": str(ami.base.root),
            "index": str(ami.base.index.digest),
        }
        for ami in lock.bake
        if ami.base is not None
    ]


def absent(archive: Archive) -> dict[str, object] | None:
    """What of images the archive does not carry, and what brought it to the site; None where it carries all."""
    against = archive.root.against
    if against is None:
        return None
    blobs = [one for one in archive.requires if one.repository is not None]
    return {
        "against": {"name": against.name, "digest": str(against.digest)},
        "blobs": len(blobs),
        "bytes": sum(one.size for one in blobs),
    }


def show_requires(archive: Archive) -> None:
    """Tell people what a site must hold for a delta."""
    against = archive.root.against
    if against is not None:
        blobs = [one for one in archive.requires if one.repository is not None]
        size = human_bytes(sum(one.size for one in blobs))
        held = f"{counted(len(blobs), 'blob')} of images, {size}, that {against.name} holds"
        click.echo(f"needs on site: {held} ({against.digest})")
    for one in requires(archive.lock):
        needed = f"the snapshots of {one['ami']} {one['architecture']} that {one['bundle']} brings"
        click.echo(f"needs on site: {needed} (block index {one['index']})")


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
        "requires": requires(lock),
        "absent": absent(archive),
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
        "amis": [_described_ami(ami, archive) for ami in lock.bake],
        "targets": [target.model_dump(mode="json", by_alias=True) for target in lock.targets],
    }


def _described_ami(ami: BakedAmi, archive: Archive) -> dict[str, object]:
    locked = _locked_ami(ami, archive)
    return {
        "name": ami.name,
        "architecture": ami.architecture,
        "kind": locked.kind,
        "source": None if locked.source is None else locked.source.model_dump(mode="json", by_alias=True),
        "builtAs": {"ami": ami.ami, "account": ami.account, "region": ami.region},
        "index": str(ami.index.digest),
        "bytes": _carried_bytes(ami),
        "writtenBytes": ami.written_bytes,
        "attributes": ami.attributes.model_dump(mode="json", by_alias=True, exclude_none=True),
        "facts": None if ami.facts is None else ami.facts.model_dump(mode="json", by_alias=True),
    }


def _locked_ami(ami: BakedAmi, archive: Archive) -> LockedAmi:
    key = (ami.name, ami.architecture)
    return next(locked for locked in archive.lock.amis if (locked.name, locked.architecture) == key)


def _carried_bytes(ami: BakedAmi) -> int:
    """Size of an AMI in the archive."""
    return sum({blob.digest: blob.size for blob in ami.blobs}.values())


def _image_bytes(image: LockedImage) -> int:
    """Size of an image by itself; blobs that images share stand in the archive once."""
    blobs = {blob.digest: blob.size for manifest in image.manifests for blob in manifest.blobs}
    return sum(blobs.values())


def _show(archive: Archive) -> None:
    lock = archive.lock
    click.echo(f"{click.style(f'{lock.name}-{lock.sequence}', bold=True)}  Kubernetes {lock.kubernetes_version}")
    click.echo(f"root     {archive.root.digest}")
    click.echo(f"created  {lock.created}")
    click.echo(f"size     {human_bytes(archive.source.size)} in {len(archive.members) + 1} members")
    show_requires(archive)
    click.echo()
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
    if lock.bake:
        _show_amis(archive)


def _show_amis(archive: Archive) -> None:
    click.echo()
    show_table(
        ("AMI", "CONTENT", "SIZE", "UNPACKED", "VOLUMES", "MADE FROM"),
        [
            (
                f"{ami.name} {ami.architecture}",
                ami.index.digest.short,
                human_bytes(_carried_bytes(ami)),
                human_bytes(ami.written_bytes),
                ", ".join(f"{one.device} {one.size} GiB" for one in ami.attributes.devices),
                _made_from(_locked_ami(ami, archive)),
            )
            for ami in archive.lock.bake
        ],
    )
    for ami in archive.lock.bake:
        system = "" if ami.facts is None else f"  {ami.facts.os}, kernel {ami.facts.kernel}"
        click.echo(f"\n{click.style(f'{ami.name} {ami.architecture}', bold=True)}{system}")
        click.echo(f"  {_registered_as(ami.attributes)}")
        if ami.facts is not None:
            _show_facts(ami.facts, archive.lock)


def _made_from(ami: LockedAmi) -> str:
    return "a template" if ami.source is None else ami.source.name or ami.source.id


def _registered_as(attributes: AmiAttributes) -> str:
    """What EC2 is told of an AMI, in one line; None of a value leaves it to EC2."""
    return ", ".join(
        (
            f"root {attributes.root_device}",
            f"boot mode {attributes.boot_mode or 'by default'}",
            f"ENA {'yes' if attributes.ena_support else 'no'}",
            f"IMDS {attributes.imds_support or 'by default'}",
            f"TPM {attributes.tpm_support or 'none'}",
        )
    )


def _show_facts(facts: NodeFacts, lock: Lock) -> None:
    click.echo(f"  kubelet {facts.kubelet}, containerd {facts.containerd}, runc {facts.runc}, nodeadm {facts.nodeadm}")
    kubelet, provider = (facts.kubelet_sha256[:_SHORT], facts.credential_provider_sha256[:_SHORT])
    click.echo(f"  sha256 of kubelet {kubelet}, of ecr-credential-provider {provider}")
    click.echo(f"  sandbox image {facts.sandbox_image}")
    held = {image.digest for image in facts.images}
    for image in lock.images:
        if image.target.digest in held:
            click.echo(f"  preloaded {image.target.digest.short} {image.reference}")
    for target in lock.targets:
        click.echo(f"  preloads are named for {target.account}, {target.region}, {target.prefix}")
    if not lock.targets:
        click.echo("  The definition has no targets: preloads carry content, and no reference of a site.")
