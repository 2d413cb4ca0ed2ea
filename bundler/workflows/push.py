"""`bundle push`: the push phase of install by itself, to any OCI registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bundler.archive.reader import Archive
from bundler.domain.events import PhaseDone, PhaseStarted
from bundler.domain.image_map import PrivateRegistry, check_names
from bundler.domain.reference import Reference
from bundler.errors import keeping
from bundler.ports import ImageRegistry
from bundler.stages.push import PushPlan, observe, plan_push, push, pushes_of
from bundler.transfer import Pace
from bundler.workflows.placed_blobs import SiteRegistry, locate, with_placed


def observe_push(
    archive: Archive, *, target: PrivateRegistry, registry: ImageRegistry, immutable: bool, pace: Pace
) -> PushPlan:
    """Return what the registry lacks of the archive's images and charts, looking only: the same for install.

    Raises:
        DefinitionError: a repository name is too long, or two images would share one.
        AbsentContentError: the archive is a delta, and the registry lacks what it does not carry.
    """
    check_names(archive.lock, target, source=archive.source.name)
    pushes = pushes_of(archive.lock, image_target=target.image, chart_target=target.chart)
    wanted = plan_push(pushes, present=observe(pushes, registry=registry, pace=pace), immutable=immutable)
    return replace(wanted, placed=locate(archive, wanted.missing, target=target, registry=registry, pace=pace))


def push_archive(
    archive: Archive, *, target: PrivateRegistry, registry: SiteRegistry, pace: Pace
) -> Mapping[str, Reference]:
    """Push everything that is missing; return the private reference of each image and chart."""
    pace.emit(PhaseStarted(phase="push", detail=f"{target.host}/{target.prefix}"))
    with keeping("Nothing was pushed."):
        wanted = observe_push(archive, target=target, registry=registry, immutable=False, pace=pace)
    with keeping("What was pushed stays; the same command sends only what is missing."):
        push(wanted, archive=archive, registry=with_placed(registry, wanted.placed, source=registry), pace=pace)
    pace.emit(PhaseDone(phase="push", detail=f"{len(wanted.missing)} pushed, {len(wanted.present)} were there"))
    return wanted.references
