"""`bundle build`: lock -> closure gate -> lay out -> fetch -> seal. Start reading here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from bundler import __version__
from bundler.archive.layout import Layout, plan_layout
from bundler.archive.metadata import closure_report, provenance, sbom
from bundler.archive.writer import ArchiveWriter, Failpoint, no_failpoint
from bundler.domain.definition import Definition
from bundler.domain.digest import Digest
from bundler.domain.events import PhaseDone, PhaseStarted, counted
from bundler.domain.lock import Lock, LockedFile, LockedImage, LockedTool
from bundler.errors import ClosureError, LockChangedError, keeping
from bundler.ports import ImageSource
from bundler.stages.discover import Discovered, Release, discover
from bundler.stages.fetch import Supply, check_manifests, fetch
from bundler.stages.obtain import obtain
from bundler.trust import Signer
from bundler.workflows.lock import Connected, gather_releases, locked_charts, locked_release

FETCHED = "What was fetched is kept; the same command goes on from there."


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """What to build.

    Attributes:
        lock: what goes in; it belongs to `definition`.
        out: folder of the archive.
        trust: content of trust.json, carried for sites that know an older version.
        signer: the bundle key.
        reopen: gives the root digest of an archive that is complete in every byte, None for anything else.
    """

    definition: Definition
    lock: Lock
    out: Path
    trust: bytes
    signer: Signer
    reopen: Callable[[Path], Digest | None]
    failpoint: Failpoint = no_failpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOutcome:
    """A complete, signed archive."""

    archive: Path
    root: Digest
    total_bytes: int


@keeping("Nothing was built.")
def build(request: BuildRequest, *, outside: Connected) -> BuildOutcome:
    """Build the archive of a lock; an interrupted build of the same lock goes on from what is right already.

    Raises:
        LockChangedError: the lock belongs to another definition, or is wrong about what it names.
        ClosureError: a rendered chart needs an image that the lock does not hold.
        LocalResourceError: not enough disk; said before the first download.
    """
    lock, emit = request.lock, outside.pace.emit
    require_current(request.definition, lock)
    emit(PhaseStarted(phase="closure"))
    planned = gather_releases(request.definition, outside=outside)
    found = discover(request.definition, planned, renderer=outside.renderer)
    gate(lock, found)
    tools, files = obtain(request.definition, folder=outside.folder, cache=outside.cache, urls=outside.urls)
    require_same(lock, planned, {*tools, *files})
    emit(PhaseDone(phase="closure", detail=f"the lock holds all that the charts need: {counted(len(found), 'image')}"))

    layout = lay_out(request)
    archive = request.out / f"{lock.name}-{lock.sequence}.tar"
    root = layout.root.digest
    if request.reopen(archive) == root:
        emit(PhaseDone(phase="build", detail=f"{archive.name} is complete already"))
        return BuildOutcome(archive=archive, root=root, total_bytes=layout.total_bytes)
    emit(PhaseStarted(phase="fetch", detail=archive.name))
    with keeping(FETCHED), ArchiveWriter(archive, layout, failpoint=request.failpoint) as writer:
        members = {member.digest: member for member in writer.missing(pace=outside.pace)}
        fetch(
            lock,
            [(member.digest, member.size) for member in members.values()],
            place=lambda digest: writer.write_at(members[digest]),
            supply=Supply(cache=outside.cache, source_of=lambda image: _source_of(image, request, outside)),
            pace=outside.pace,
        )
        there = len(layout.blobs) - len(members)
        emit(PhaseDone(phase="fetch", detail=f"{counted(len(members), 'blob')} fetched, {there} were there"))
        check_manifests(lock, read=writer.read)
        writer.seal(request.signer)
    emit(PhaseDone(phase="seal", detail=f"{archive.name} is complete and signed"))
    return BuildOutcome(archive=archive, root=root, total_bytes=layout.total_bytes)


def require_current(definition: Definition, lock: Lock) -> None:
    """Do nothing where the lock was made from this definition.

    Raises:
        LockChangedError: the definition changed since.
    """
    if lock.definition != definition.digest:
        raise LockChangedError(
            "the lock",
            "was made from another definition, or the definition changed since",
            hint="Make it again: bundle lock",
        )


def require_same(lock: Lock, planned: Sequence[Release], pinned: Set[LockedTool | LockedFile]) -> None:
    """Do nothing where the lock holds the charts, releases, tools and files that the definition gives today.

    Raises:
        LockChangedError: names the first that differs.
    """
    hint = "Look at what changed; to take it: bundle lock"
    known = {chart.reference: chart.manifest.digest for chart in lock.charts}
    charts = {chart.reference: chart.manifest.digest for chart in locked_charts(planned)}
    for reference, _ in sorted(known.items() ^ charts.items()):
        raise LockChangedError(reference, "is not the chart that the lock pins", hint=hint)
    if lock.releases != tuple(locked_release(release) for release in planned):
        raise LockChangedError("the lock", "has other releases than the definition", hint=hint)
    if {*lock.tools, *lock.files} != pinned:
        raise LockChangedError("the lock", "has other tools or files than the definition", hint=hint)


def gate(lock: Lock, found: Iterable[Discovered]) -> None:
    """Do nothing where every image that the charts need is in the lock.

    Raises:
        ClosureError: names each that is not, and where it stands.
    """
    absent = [image for image in found if lock.image(image.reference) is None]
    if absent:
        listed = "\n".join(
            f"- {image.reference}\n  {image.evidence[0].by}, {image.evidence[0].where}" for image in absent
        )
        raise ClosureError(
            f"{counted(len(absent), 'image')} not in the lock",
            listed,
            hint="Lock them: bundle lock",
        )


def lay_out(request: BuildRequest) -> Layout:
    """Return the place of every byte; only the content of blobs is still to come."""
    lock = request.lock
    generated = {
        "trust.json": request.trust,
        "closure.json": closure_report(lock),
        "sbom.cdx.json": sbom(lock),
        "provenance.json": provenance(lock, definition=lock.definition, tool_version=__version__),
    }
    return plan_layout(lock, generated=generated)


def _source_of(image: LockedImage, request: BuildRequest, outside: Connected) -> ImageSource:
    local = request.definition.local_source(image.reference)
    return outside.registry if local is None else outside.local(local)[0]
