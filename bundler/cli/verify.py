"""`bundle verify`: an archive, and with --installed what stands at a site."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundler.cli.inspect import absent, open_archive, requires, show_requires
from bundler.cli.options import (
    FILE,
    ca_file_option,
    jobs_option,
    output_option,
    parts_option,
    progress_option,
    showing,
    trust_option,
)
from bundler.cli.render import human_bytes, show_document
from bundler.domain.events import PhaseDone, counted
from bundler.errors import UsageError, keeping

if TYPE_CHECKING:
    from bundler.archive.reader import Archive
    from bundler.domain.site import Site
    from bundler.wiring import Surroundings
    from bundler.workflows.verify_installed import InstalledReport


@click.command()
@click.argument("archive")
@click.option("--installed", is_flag=True, help="Then read back what stands at the site, and compare it.")
@click.option("--site", "site_file", type=FILE, help="With --installed: the site file (site.yaml).")
@parts_option
@trust_option
@ca_file_option
@jobs_option
@progress_option
@output_option
def verify(
    archive: str,
    installed: bool,
    site_file: Path | None,
    parts: tuple[str, ...],
    trust_folder: Path | None,
    ca_file: Path | None,
    jobs: int,
    progress: str,
    output: str,
) -> None:
    """Check signature and every byte of an archive.

    ARCHIVE is a file or s3://bucket/key, or STEM.parts.json of one in parts, which are read where they are; every part
    that is missing or damaged is named. The signature must be by a key of the trust root that was accepted here.

    With --installed, what the site then runs on is read back and compared with the archive: every block of the AMIs
    that node groups of the site file name (by EBS direct), what they were registered with, and the digest of each image
    and chart in the private registry. All that differs is named; nothing is written.
    """
    from bundler import wiring
    from bundler.domain.finding import raise_findings

    if installed != (site_file is not None):
        raise UsageError("bundle verify", "--installed and --site FILE go together", hint="Give both, or neither.")
    site = None if site_file is None else wiring.read_site(site_file)
    report = None
    with showing(progress) as emit:
        surroundings = wiring.Surroundings(ca_file=ca_file, jobs=jobs, emit=emit, parts=parts)
        with wiring.archive_source(archive, surroundings, site, thorough=True) as source:
            opened = open_archive(source, trust_folder)
            opened.verify_all(emit=emit, workers=jobs)
            emit(PhaseDone(phase="verify", detail=f"{len(opened.members) + 1} members, {human_bytes(source.size)}"))
            if site is not None:
                report = _read_back(opened, site, surroundings)
    if output != "text":
        document = {"archive": source.name, "root": str(opened.root.digest), "bytes": source.size}
        document["requires"] = requires(opened.lock)
        document["absent"] = absent(opened)
        show_document(document if report is None else {**document, "installed": _described(report)}, output)
    elif report is None or not report.findings:
        click.echo(f"{source.name} is complete and signed.\nroot {opened.root.digest}")
        show_requires(opened)
        _show_report(report)
    if report is not None and site is not None:
        raise_findings(f"site of cluster {site.cluster.name}", report.findings)


def _read_back(opened: Archive, site: Site, surroundings: Surroundings) -> InstalledReport:
    from bundler import wiring
    from bundler.workflows.verify_installed import verify_installed

    with keeping("Nothing was written; the archive itself is complete and signed."):
        return verify_installed(opened, site, installed=wiring.installed(site, surroundings), pace=surroundings.pace)


def _show_report(report: InstalledReport | None) -> None:
    if report is None:
        return
    for one in report.amis:
        click.echo(f"{one.name} {one.architecture} is {one.ami}: {counted(one.blocks, 'block')}, all of them right.")
    click.echo(f"{counted(report.references, 'image or chart is', 'images and charts are')} what the lock says.")


def _described(report: InstalledReport) -> dict[str, object]:
    """Return a report for machines."""
    return {
        "amis": [
            {"name": one.name, "architecture": one.architecture, "ami": one.ami, "blocks": one.blocks}
            for one in report.amis
        ],
        "references": report.references,
        "findings": [
            {
                "check": one.check,
                "subject": one.subject,
                "cause": one.cause,
                "hint": one.hint,
                "exitCode": one.exit_code,
            }
            for one in report.findings
        ],
    }
