"""`bundle lock`: definition -> charts -> images -> digests -> lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bundler.atomic import publish
from bundler.cache import Cache
from bundler.domain.ami import AmiSource, LockedAmi
from bundler.domain.bake import kept_bakes
from bundler.domain.chart import FetchedChart
from bundler.domain.definition import ChartSource, Definition, LocalSource
from bundler.domain.digest import Digest
from bundler.domain.events import Noted, PhaseDone, PhaseStarted, counted
from bundler.domain.image_map import ANY_ECR, check_names
from bundler.domain.lock import Lock, LockedChart, LockedImage, LockedRelease, lock_bytes, same_content
from bundler.errors import DefinitionError, LockChangedError, keeping
from bundler.ports import ChartRenderer, ImageSource, UrlSource
from bundler.stages.discover import Discovered, Release, discover, refuse_other_source, releases
from bundler.stages.obtain import obtain
from bundler.stages.pin import pin
from bundler.stages.resolve import ImageOrigin, WantedImage, resolve
from bundler.transfer import Pace
from bundler.workflows.bakes import Foundry


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """The outside, as lock and build see it.

    Attributes:
        folder: relative paths of the definition start here.
        cache: blobs by digest.
        registry: every registry, each under its own name.
        local: images that no registry has.
        urls: files by URL.
        find_chart: a chart from where the definition says.
        wrap_manifest: a file of Kubernetes manifests as a chart.
        built_in_chart: a chart that comes with this tool.
        renderer: the real `helm template`.
        foundry: where AMIs come from.
        pace: transfers at a time, and who hears of them.
    """

    folder: Path
    cache: Cache
    registry: ImageSource
    local: Callable[[LocalSource], tuple[ImageSource, ImageOrigin]]
    urls: UrlSource
    find_chart: Callable[[ChartSource], FetchedChart]
    wrap_manifest: Callable[[str, str], FetchedChart]
    built_in_chart: Callable[[str], FetchedChart]
    renderer: ChartRenderer
    foundry: Foundry
    pace: Pace = field(default_factory=Pace)


@dataclass(frozen=True, slots=True, kw_only=True)
class LockRequest:
    """What to lock.

    Attributes:
        definition: what a person wrote.
        existing: the lock as it is, None for none.
        created: ISO 8601 time for a lock that changes (SOURCE_DATE_EPOCH, else now).
        previous: root digest of the archive before this one.
        update: accept tags that moved.
    """

    definition: Definition
    existing: Lock | None
    created: str
    previous: Digest | None = None
    update: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An image or chart that one of two locks does not have (None), or has under another digest."""

    name: str
    was: Digest | None
    now: Digest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AmiChange:
    """What an AMI is made from, where one of two locks does not say it (None), or says something else."""

    name: str
    was: AmiSource | None
    now: AmiSource | None

    @property
    def is_a_move(self) -> bool:
        """Whether AWS names another AMI than it did, as a tag that moved."""
        return self.was is not None and self.now is not None and self.was.parameter == self.now.parameter != ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LockOutcome:
    """A lock, and how it differs from the one before: what came, what went, what moved."""

    lock: Lock
    changed: bool
    changes: tuple[Change, ...] = ()
    amis: tuple[AmiChange, ...] = ()


@keeping("The lock is as it was; finished downloads are kept.")
def make_lock(request: LockRequest, *, outside: Connected) -> LockOutcome:
    """Return the lock of the definition; an unchanged upstream returns the existing one.

    Raises:
        LockChangedError: as `compare`.
        DefinitionError: an image's name does not fit into a private ECR, or a core image comes from another Region.
        NotFoundUpstreamError: an image, tag, platform, chart or file does not exist upstream.
    """
    definition, emit = request.definition, outside.pace.emit
    emit(PhaseStarted(phase="charts"))
    planned = gather_releases(definition, outside=outside)
    found = discover(definition, planned, renderer=outside.renderer)
    refuse_other_source(definition, found)
    emit(
        PhaseDone(
            phase="charts", detail=f"{counted(len(planned), 'release')} rendered, {counted(len(found), 'image')} found"
        )
    )
    emit(PhaseStarted(phase="images"))
    images = resolve(wanted_images(definition, found, outside=outside), cache=outside.cache, pace=outside.pace)
    emit(PhaseDone(phase="images", detail=f"{len(images)} pinned by digest"))
    tools, files = obtain(definition, folder=outside.folder, cache=outside.cache, urls=outside.urls)
    emit(PhaseDone(phase="tools", detail=f"{counted(len(tools), 'tool')}, {counted(len(files), 'file')}"))
    amis = _pinned(definition, images, outside)
    lock = Lock(
        name=definition.name,
        sequence=1 if request.existing is None else request.existing.sequence + 1,
        created=request.created,
        previous=request.previous,
        definition=definition.digest,
        kubernetes_version=definition.kubernetes_version,
        platforms=definition.platforms,
        operator_platforms=definition.operator_platforms,
        pause=None if definition.core.pause is None else definition.core.pause.image,
        images=images,
        charts=locked_charts(planned),
        releases=tuple(locked_release(release) for release in planned),
        tools=tools,
        files=files,
        amis=amis,
        targets=definition.targets,
    )
    check_names(lock, ANY_ECR, source="the lock")
    return compare(lock, existing=request.existing, update=request.update)


def _pinned(definition: Definition, images: Sequence[LockedImage], outside: Connected) -> tuple[LockedAmi, ...]:
    if not definition.amis:
        return ()
    outside.pace.emit(PhaseStarted(phase="amis"))
    amis = pin(definition, images=images, sights=outside.foundry.sights(outside.folder))
    outside.pace.emit(PhaseDone(phase="amis", detail=f"{counted(len(amis), 'AMI')} pinned"))
    return amis


def gather_releases(definition: Definition, *, outside: Connected) -> tuple[Release, ...]:
    """Return every release of the definition with its chart; the charts' blobs go to the cache.

    Raises:
        DefinitionError: two different charts share name and version.
    """
    planned = releases(definition, find=outside.find_chart, wrap=outside.wrap_manifest, built_in=outside.built_in_chart)
    locked_charts(planned)
    for release in planned:
        outside.cache.put(release.chart.manifest)
        for blob in release.chart.blobs:
            outside.cache.put(blob)
        for note in release.chart.content.notes:
            outside.pace.emit(Noted(text=f"chart {release.chart.name}: {note}", warning=True))
    return planned


def wanted_images(definition: Definition, found: Iterable[Discovered], *, outside: Connected) -> Sequence[WantedImage]:
    """Return what to resolve: each image for the definition's platforms, unless its own entry says otherwise."""
    own = {extra.image: extra for extra in definition.images}
    wanted = []
    for image in found:
        extra = own.get(image.reference)
        source: ImageSource = outside.registry
        origin: ImageOrigin = "registry"
        if extra is not None and extra.from_ is not None:
            source, origin = outside.local(extra.from_)
        platforms = definition.platforms if extra is None or extra.platforms is None else extra.platforms
        wanted.append(
            WantedImage(
                reference=image.reference,
                platforms=platforms,
                source=source,
                origin=origin,
                evidence=image.evidence,
            )
        )
    return wanted


def locked_charts(planned: Iterable[Release]) -> tuple[LockedChart, ...]:
    """Return each chart once, in the order of its name.

    Raises:
        DefinitionError: two different charts share name and version, and so their place in the registry.
    """
    found: dict[str, tuple[str, LockedChart]] = {}
    for release in planned:
        chart = release.chart.locked()
        first, other = found.setdefault(chart.reference, (release.name, chart))
        if other.manifest.digest != chart.manifest.digest:
            raise DefinitionError(
                f"releases {first} and {release.name}",
                f"have different charts that both call themselves {chart.name} {chart.version}",
                hint="Give one of them a version of its own (Chart.yaml).",
            )
    return tuple(found[reference][1] for reference in sorted(found))


def locked_release(release: Release) -> LockedRelease:
    """Return what the lock says of a release."""
    return LockedRelease(
        name=release.name,
        namespace=release.namespace,
        role=release.role,
        chart=release.chart.locked().reference,
        values=dict(release.values),
        api_versions=release.api_versions,
        timeout_minutes=release.timeout_minutes,
    )


def compare(lock: Lock, *, existing: Lock | None, update: bool) -> LockOutcome:
    """Return what becomes of a new lock beside the existing one; the same content keeps the existing one.

    Raises:
        LockChangedError: a tag or a chart's version moved and `update` was not given; the difference is named.
    """
    if existing is None:
        return LockOutcome(lock=lock, changed=True, changes=_changes({}, _upstream(lock)), amis=_ami_changes({}, lock))
    if same_content(existing, lock):
        return LockOutcome(lock=existing, changed=False)
    lock = lock.model_copy(update={"bake": kept_bakes(existing, lock)})
    if not update:
        _refuse_moved("image", _changes(_images(existing), _images(lock)))
        _refuse_moved("chart", _changes(_published(existing), _published(lock)))
        _refuse_moved_amis(existing, lock)
    return LockOutcome(
        lock=lock,
        changed=True,
        changes=_changes(_upstream(existing), _upstream(lock)),
        amis=_ami_changes(_sources(existing), lock),
    )


def _changes(before: Mapping[str, Digest], after: Mapping[str, Digest]) -> tuple[Change, ...]:
    came = [name for name in after if name not in before]
    went = [name for name in before if name not in after]
    moved = [name for name in after if name in before and before[name] != after[name]]
    return tuple(Change(name=name, was=before.get(name), now=after.get(name)) for name in (*came, *went, *moved))


def _refuse_moved(noun: str, changes: Iterable[Change]) -> None:
    moves = [(change.name, change.was, change.now) for change in changes]
    listed = [f"- {name}\n  was {was.short}, is {now.short}" for name, was, now in moves if was and now]
    if listed:
        raise LockChangedError(f"{counted(len(listed), noun)} moved upstream", "\n".join(listed))


def _refuse_moved_amis(before: Lock, after: Lock) -> None:
    """AMIs that AWS names are tags of a kind: another one is taken only where somebody agrees to it."""
    moves = [
        f"- {change.name}\n  was {change.was.id} ({change.was.name}), is {change.now.id} ({change.now.name})"
        for change in _ami_changes(_sources(before), after)
        if change.is_a_move and change.was is not None and change.now is not None
    ]
    if moves:
        raise LockChangedError(f"{counted(len(moves), 'AMI')} moved upstream", "\n".join(moves))


def _sources(lock: Lock) -> Mapping[str, AmiSource]:
    named = {f"{ami.name} {ami.architecture}": ami.source for ami in lock.amis}
    return {name: source for name, source in named.items() if source is not None}


def _ami_changes(was: Mapping[str, AmiSource], lock: Lock) -> tuple[AmiChange, ...]:
    now = _sources(lock)
    ids = {name: source.id for name, source in was.items()}
    changed = [name for name in {**was, **now} if name not in now or ids.get(name) != now[name].id]
    return tuple(AmiChange(name=name, was=was.get(name), now=now.get(name)) for name in sorted(changed))


def _upstream(lock: Lock) -> Mapping[str, Digest]:
    return {**_images(lock), **_charts(lock.charts)}


def _images(lock: Lock) -> Mapping[str, Digest]:
    return {str(image.reference): image.upstream_digest for image in lock.images}


def _charts(charts: Iterable[LockedChart]) -> Mapping[str, Digest]:
    return {chart.reference: chart.content.digest for chart in charts}


def _published(lock: Lock) -> Mapping[str, Digest]:
    """The charts of others. One from a path is the reader's own, and changes when they change it."""
    return _charts(chart for chart in lock.charts if chart.origin in ("oci", "https"))


def write_lock(outcome: LockOutcome, path: Path) -> None:
    """Write the lock where it changed, whole or not at all."""
    if outcome.changed:
        publish(path, lock_bytes(outcome.lock))
