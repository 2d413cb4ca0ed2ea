"""The restore phase, and an export, as processes of their own: to be killed at any call, and to end with a code.

`python -m tests.restoring restore ARCHIVE SITE TRUST` does what `bundle install` does in its restore phase, without a
cluster; `… export SNAPSHOT… CACHE` reads snapshots out. DIE names a call and when: `put:30:before`, `register:1:after`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import click

from bundler.cli.main import COMMANDS, main

_counts = Counter[str]()
_lock = threading.Lock()


class Dying:
    """Passes every call on, and ends the process, as when the host fails, before or after the one that DIE names."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if not callable(real):
            return real

        def call(*arguments: Any, **options: Any) -> Any:
            with _lock:
                _counts[name] += 1
                number = _counts[name]
            _die_at(f"{name}:{number}:before")
            answer = real(*arguments, **options)
            _die_at(f"{name}:{number}:after")
            return answer

        return call


def _die_at(moment: str) -> None:
    if os.environ.get("DIE") == moment:
        os.kill(os.getpid(), signal.SIGKILL)


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.argument("site_file", type=click.Path(path_type=Path))
@click.argument("trust", type=click.Path(path_type=Path))
@click.option("--deadline", default=60.0)
@click.option("--visible", default=60.0, help="How long EC2 may take to show what it has just made.")
def restore(archive: Path, site_file: Path, trust: Path, deadline: float, visible: float) -> None:
    """Restore the AMIs of an archive."""
    from bundler import trust as store
    from bundler.domain.finding import raise_findings
    from bundler.domain.plan import Plan
    from bundler.domain.restored import check_amis
    from bundler.journal import hold
    from bundler.retry import Patience
    from bundler.stages.verify import verify
    from bundler.wiring import InstallOptions, Surroundings, archive_source, aws_for, read_site, site_folder
    from bundler.wiring.inside import _journal_place, _journal_session, machines
    from bundler.workflows.restore import Machines, Restoration

    site, around = read_site(site_file), Surroundings(emit=_tell)
    with archive_source(str(archive), around) as source:
        opened = verify(source, trust=store.load_accepted_trust(trust), full=False)
        raise_findings("site", check_amis(site, opened.lock))
        real = machines(aws_for(around, site, connections=64), around)
        restoration = Restoration(
            archive=opened,
            site=site,
            machines=Machines(images=Dying(real.images), blocks=Dying(real.blocks)),
            patience=Patience(deadline_s=deadline, every_s=0.2, visible_s=visible, emit=around.emit),
            pace=around.pace,
        )
        planned = restoration.observe()
        for item in planned:
            click.echo("".join(f"{action}\n" for action in item.plan), nl=False)
        if sum((item.plan for item in planned), Plan()).empty:
            click.echo("Nothing to do.")
            return
        options = InstallOptions(token_command=(), deadline_s=deadline)
        place = _journal_place(site, aws_for(around, site), site_folder(site, os.environ))
        with hold(place, _journal_session(opened, options, around)) as journal:
            restoration.run(planned, Dying(journal))
        click.echo("Done.")


@click.command()
@click.argument("snapshot")
@click.argument("cache", type=click.Path(path_type=Path))
@click.option("--pack-bytes", default=17_000)
def export(snapshot: str, cache: Path, pack_bytes: int) -> None:
    """Read a snapshot into small packs; print the digests of index and table."""
    import bundler.archive.packs as packing
    from bundler.adapters.aws.ebs import EbsDirect
    from bundler.cache import Cache
    from bundler.domain.snapshot import DeviceSnapshot
    from bundler.exports import ExportFolder
    from bundler.stages import export as stage
    from bundler.wiring import Surroundings, aws_for
    from bundler.wiring.clients import BLOCK_CONNECTIONS
    from bundler.wiring.surroundings import retry_policy

    packing.MAX_PACK_BYTES = pack_bytes
    stage.FRAME_BLOCKS = 4
    around = Surroundings(emit=_tell)
    service = aws_for(around, connections=BLOCK_CONNECTIONS).service("ebs")
    reader = Dying(EbsDirect(service=service, policy=retry_policy(around)))
    place = Dying(ExportFolder(Cache(cache), key="test"))
    made = stage.export([DeviceSnapshot(device="/dev/xvda", snapshot=snapshot)], reader=reader, place=place)
    click.echo(f"{made.index.digest} {' '.join(map(str, made.table.packs))}")


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.argument("site_file", type=click.Path(path_type=Path))
@click.argument("trust", type=click.Path(path_type=Path))
def push(archive: Path, site_file: Path, trust: Path) -> None:
    """Push the images and charts of an archive to the private registry of a site, as install does."""
    from bundler import trust as store
    from bundler.adapters.aws.ecr import EcrRepositories
    from bundler.domain.image_map import PrivateRegistry
    from bundler.stages import push as stage
    from bundler.stages.repositories import observe_repositories, repositories
    from bundler.stages.verify import verify
    from bundler.wiring import Surroundings, archive_source, aws_for, read_site, registry_client
    from bundler.workflows.push import observe_push

    site, around = read_site(site_file), Surroundings()
    with archive_source(str(archive), around) as source:
        opened = verify(source, trust=store.load_accepted_trust(trust), full=False)
        registry = registry_client(around, site)
        private = PrivateRegistry(host=site.registry_host, prefix=site.registry.prefix)
        wanted = observe_push(opened, target=private, registry=registry, immutable=False, pace=around.pace)
        ecr = EcrRepositories(aws_for(around, site).service("ecr"), account=site.account)
        repositories(observe_repositories(site, wanted.repositories, registry=ecr), registry=ecr)
        stage.push(wanted, archive=opened, registry=registry)


def _tell(event: object) -> None:
    sys.stderr.write(f"{event}\n")


if __name__ == "__main__":
    COMMANDS["restore"] = ("tests.restoring:restore", "")
    COMMANDS["export"] = ("tests.restoring:export", "")
    COMMANDS["push-all"] = ("tests.restoring:push", "")
    main()
