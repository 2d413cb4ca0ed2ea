"""`bundle build`: lock -> closure gate, bakes beside it -> lay out -> fetch -> seal. Start reading here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from bundler import __version__
from bundler.archive.layout import Layout, plan_layout
from bundler.archive.members import Member
from bundler.archive.metadata import closure_report, provenance, sbom
from bundler.archive.slicing import finish_slicing, slice_archive, table_path
from bundler.archive.writer import ArchiveWriter, Failpoint, no_failpoint
from bundler.cache import CachePlace
from bundler.domain.blob import Blob
from bundler.domain.definition import Definition
from bundler.domain.delta import Against
from bundler.domain.digest import Digest
from bundler.domain.events import DeltaPlanned, Emit, PhaseDone, PhaseStarted, counted
from bundler.domain.lock import Lock, LockedFile, LockedImage, LockedTool, image_finder
from bundler.domain.lock_manifests import check_manifests
from bundler.domain.parts import TABLE_SUFFIX, parse_table, plan_cuts
from bundler.errors import ClosureError, LockChangedError, UsageError, keeping
from bundler.ports import ImageSource
from bundler.stages.discover import Discovered, Release, discover
from bundler.stages.fetch import Supply, fetch
from bundler.stages.obtain import obtain
from bundler.transfer import parallel_map
from bundler.trust import Signer
from bundler.workflows.bakes import BakeRun
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
        record: keeps the lock once its bakes are known.
        rebake: bake again what is baked already.
        against: what the site holds: images' blobs and AMIs' blocks that are not carried again.
        whole: carry every block of every AMI, also where the lock records a delta.
        split: bytes of each part that the archive is cut into; None leaves it in one file.
    """

    definition: Definition
    lock: Lock
    out: Path
    trust: bytes
    signer: Signer
    reopen: Callable[[Path], Digest | None]
    record: Callable[[Lock], None]
    rebake: bool = False
    against: Against | None = None
    whole: bool = False
    split: int | None = None
    failpoint: Failpoint = no_failpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOutcome:
    """A complete, signed archive.

    Attributes:
        archive: STEM.tar, or STEM.parts.json of one that is in parts.
        total_bytes: its size.
        absent: blobs of images that it does not carry.
        absent_bytes: their size.
    """

    archive: Path
    root: Digest
    total_bytes: int
    absent: int = 0
    absent_bytes: int = 0


@keeping("Nothing was built.")
def build(request: BuildRequest, *, outside: Connected) -> BuildOutcome:
    """Build the archive of a lock; an interrupted build of the same lock goes on from what is right already.

    Raises:
        LockChangedError: the lock belongs to another definition, or is wrong about what it names.
        UsageError: the archive to compare with is no earlier one.
        ClosureError: a rendered chart needs an image that the lock does not hold.
        LocalResourceError: not enough disk; said before the first download.
    """
    require_current(request.definition, request.lock)
    require_older(request.against, request.lock)
    lock, emit = _planned(request, outside), outside.pace.emit
    layout = lay_out(request, lock)
    if request.against is not None:
        emit(_foretold(request.against, layout))
    archive = request.out / f"{lock.name}-{lock.sequence}.tar"
    root = layout.root.digest
    require_parts(request, layout.total_bytes)
    there = _complete(request, archive, root, emit)
    if there is not None:
        emit(PhaseDone(phase="build", detail=f"{there.name} is complete already"))
        return _outcome(_cut(request, there, root, emit), layout)
    emit(PhaseStarted(phase="fetch", detail=archive.name))
    with keeping(FETCHED), ArchiveWriter(archive, layout, failpoint=request.failpoint) as writer:
        missing = writer.missing(pace=outside.pace)
        _mend_packs(request, lock, outside, missing=missing)
        fetch(
            lock,
            ((member.digest, member.size) for member in missing),
            place=writer.place_of,
            supply=_supply(request, outside),
            pace=outside.pace,
        )
        kept = len(layout.blobs) - len(missing)
        emit(PhaseDone(phase="fetch", detail=f"{counted(len(missing), 'blob')} fetched, {kept} were there"))
        check_manifests(lock, read=writer.read)
        writer.seal(request.signer)
    emit(PhaseDone(phase="seal", detail=f"{archive.name} is complete and signed"))
    return _outcome(_cut(request, archive, root, emit), layout)


def _outcome(archive: Path, layout: Layout) -> BuildOutcome:
    absent = layout.absent
    return BuildOutcome(
        archive=archive,
        root=layout.root.digest,
        total_bytes=layout.total_bytes,
        absent=len(absent),
        absent_bytes=sum(one.size for one in absent),
    )


def require_parts(request: BuildRequest, total_bytes: int) -> None:
    """Do nothing where the archive can be cut as it is asked for.

    Raises:
        UsageError: into too many parts.
    """
    if request.split is not None:
        plan_cuts(total_bytes, request.split)


def _complete(request: BuildRequest, archive: Path, root: Digest, emit: Emit) -> Path | None:
    """Return what holds this archive already, whole: itself, or its parts; a slicing that was cut off is finished."""
    finish_slicing(archive, failpoint=request.failpoint, emit=emit)
    if request.reopen(archive) == root:
        return archive
    table = table_path(archive)
    return table if table.exists() and request.reopen(table) == root else None


def _cut(request: BuildRequest, archive: Path, root: Digest, emit: Emit) -> Path:
    """Cut a complete archive where that was asked for; return what holds it then.

    Raises:
        UsageError: it is in parts of another size.
    """
    if archive.name.endswith(TABLE_SUFFIX):
        _require_size(request.split, archive)
        return archive
    if request.split is None:
        return archive
    emit(PhaseStarted(phase="split", detail=archive.name))
    with keeping("The archive is complete; no byte of it is lost, whatever is in parts already."):
        table = slice_archive(archive, root=root, part_bytes=request.split, failpoint=request.failpoint, emit=emit)
    emit(PhaseDone(phase="split", detail=f"{table.name} lists its parts"))
    return table


def _require_size(wanted: int | None, table: Path) -> None:
    found = parse_table(table.read_bytes(), source=str(table))
    if wanted is None or wanted == found.part_bytes or (len(found.parts) == 1 and wanted >= found.part_bytes):
        return
    raise UsageError(
        "--split",
        f"{table} is complete, in parts of {found.part_bytes} bytes",
        safe="The parts are complete and signed.",
        hint=f"Use them; or remove {table} and its parts, and build again.",
    )


def _foretold(against: Against, layout: Layout) -> DeltaPlanned:
    absent = layout.absent
    return DeltaPlanned(
        against=against.label,
        carried=len(layout.blobs),
        carried_bytes=layout.root.totals.content_bytes,
        absent=len(absent),
        absent_bytes=sum(one.size for one in absent),
    )


def _planned(request: BuildRequest, outside: Connected) -> Lock:
    """Return the lock with its bakes, which are made while the closure is proved; either failing ends the other."""
    if not request.lock.amis:
        return _prove_closure(request, outside)
    bakes = _bakes(request, request.lock, outside)
    runs = (lambda: _prove_closure(request, outside), bakes.complete)
    _, lock = parallel_map(lambda run: run(), runs, workers=len(runs))
    if lock != request.lock:
        request.record(lock)
    bakes.recorded(lock)
    return lock


def _prove_closure(request: BuildRequest, outside: Connected) -> Lock:
    lock, emit = request.lock, outside.pace.emit
    emit(PhaseStarted(phase="closure"))
    planned = gather_releases(request.definition, outside=outside)
    found = discover(request.definition, planned, renderer=outside.renderer)
    gate(lock, found)
    tools, files = obtain(request.definition, folder=outside.folder, cache=outside.cache, urls=outside.urls)
    require_same(lock, planned, {*tools, *files})
    emit(PhaseDone(phase="closure", detail=f"the lock holds all that the charts need: {counted(len(found), 'image')}"))
    return lock


def _bakes(request: BuildRequest, lock: Lock, outside: Connected) -> BakeRun:
    return BakeRun(
        definition=request.definition,
        lock=lock,
        folder=outside.folder,
        cache=outside.cache,
        foundry=outside.foundry,
        fetch=lambda lock, blobs: _fetch_into_cache(lock, blobs, request, outside),
        again=request.rebake,
        against=request.against,
        whole=request.whole,
        pace=outside.pace,
    )


def _mend_packs(request: BuildRequest, lock: Lock, outside: Connected, *, missing: Sequence[Member]) -> None:
    """Read the AMIs again whose packs are neither in the archive nor in the cache."""
    lacking = {member.digest for member in missing} if lock.bake else frozenset[Digest]()
    for baked in lock.bake:
        if any(blob.digest in lacking and not outside.cache.has(blob.digest) for blob in baked.blobs):
            _bakes(request, lock, outside).mend(baked)


def _fetch_into_cache(lock: Lock, blobs: Sequence[Blob], request: BuildRequest, outside: Connected) -> None:
    """Bring what a bake preloads into the cache; the archive takes it from there."""
    wanted = [(blob.digest, blob.size) for blob in blobs if not outside.cache.has(blob.digest)]
    supply = _supply(request, outside)
    fetch(lock, wanted, place=lambda digest: CachePlace(outside.cache, digest), supply=supply, pace=outside.pace)
    if wanted:
        outside.pace.emit(PhaseDone(phase="preload", detail=f"{counted(len(wanted), 'blob')} fetched for the AMI"))


def _supply(request: BuildRequest, outside: Connected) -> Supply:
    local = request.definition.local_sources

    def source_of(image: LockedImage) -> ImageSource:
        source = local.get(image.reference)
        return outside.registry if source is None else outside.local(source)[0]

    return Supply(cache=outside.cache, source_of=source_of)


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


def require_older(against: Against | None, lock: Lock) -> None:
    """Do nothing where the archive to compare with is another bundle's, or an earlier one of this.

    Raises:
        UsageError: it is the archive that is to be built, or a later one.
    """
    if against is None or against.sequence is None or against.name != lock.name or against.sequence < lock.sequence:
        return
    raise UsageError(
        "--against",
        f"{against.label} is not older than {lock.name}-{lock.sequence}, which is to be built",
        hint="Name the archive that the site holds; or lock what has changed since: bundle lock",
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
    locked = image_finder(lock)
    absent = [image for image in found if locked(image.reference) is None]
    if absent:
        listed = "\n".join(
            f"- {image.reference}\n  {image.evidence[0].by}, {image.evidence[0].where}" for image in absent
        )
        raise ClosureError(
            f"{counted(len(absent), 'image')} not in the lock",
            listed,
            hint="Lock them: bundle lock",
        )


def lay_out(request: BuildRequest, lock: Lock) -> Layout:
    """Return the place of every byte; only the content of blobs is still to come."""
    generated = {
        "trust.json": request.trust,
        "closure.json": closure_report(lock),
        "sbom.cdx.json": sbom(lock),
        "provenance.json": provenance(lock, definition=lock.definition, tool_version=__version__),
    }
    return plan_layout(lock, generated=generated, against=request.against)
