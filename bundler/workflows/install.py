"""`bundle install`, from verify to check. Start reading here.

Phases: verify, preflight, infrastructure, push, restore, identity, core, nodes, check-nodes, add-ons, check. Every one
observes, plans, acts and observes again; what it plans is shown first. The world is the truth: killed anywhere, the
next run looks again and goes on. A finished install writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from bundler.archive.reader import Archive
from bundler.domain.events import Noted, PhaseDone, PhaseStarted, counted
from bundler.domain.finding import raise_findings
from bundler.domain.image_map import ImageMap, PrivateRegistry, image_map
from bundler.domain.infrastructure import Infrastructure, MachineImage
from bundler.domain.plan import LAST_PHASE, Action, Plan
from bundler.domain.reference import Reference
from bundler.domain.report import Report
from bundler.domain.restored import check_amis, preload_notes
from bundler.errors import ConflictError, keeping
from bundler.journal import Journal, hold, was_cut_off
from bundler.ports import ByteSource
from bundler.stages.check import check
from bundler.stages.check_nodes import check_nodes
from bundler.stages.identity import identity, observe_identity
from bundler.stages.infrastructure import infrastructure
from bundler.stages.nodes import nodes, observe_nodes, plan_nodes
from bundler.stages.preflight import check_version, preflight
from bundler.stages.push import PushPlan, push
from bundler.stages.release import (
    Prepared,
    SiteFacts,
    Step,
    expected_workloads,
    of_role,
    plan_steps,
    prepare,
    release,
)
from bundler.stages.repositories import observe_repositories, repositories
from bundler.stages.verify import verify
from bundler.transfer import Pace
from bundler.trust import TrustRoot
from bundler.workflows.held_registry import HeldRegistry
from bundler.workflows.inside import Inside
from bundler.workflows.placed_blobs import with_placed
from bundler.workflows.push import observe_push
from bundler.workflows.restore import AmiPlan, Restoration


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallOutcome:
    """What an install planned or, once it is done, did; and what then runs."""

    plan: Plan
    is_done: bool
    report: Report | None = None


BEGUN = "What was pushed and created stays; the same command goes on from there."
Role = Literal["core", "addon"]
Confirm = Callable[[Plan], bool]
"""Shows a plan that is not empty and says whether to go on."""


@keeping("Nothing was written to the site.")
def install(
    source: ByteSource, *, trust: TrustRoot, enter: Callable[[Archive], Inside], confirm: Confirm, pace: Pace
) -> InstallOutcome:
    """Install an archive into a site.

    Args:
        source: the archive, on disk or in S3.
        trust: what this site accepted.
        enter: gives the closed side; programs come out of the verified archive.
        confirm: decides after the plan is known; nothing has been written by then.
        pace: transfers at a time, and who hears of them.

    Raises:
        BundleError: typed by phase; what was done before stays, and the same command goes on.
    """
    pace.emit(PhaseStarted(phase="verify", detail=source.name))
    archive = verify(source, trust=trust, emit=pace.emit, full=False)
    pace.emit(
        PhaseDone(
            phase="verify", detail=f"{archive.lock.name}-{archive.lock.sequence}, root {archive.root.digest.short}"
        )
    )
    run = _Install(archive=archive, inside=enter(archive), confirm=confirm)
    run.preflight()
    run.adopt()
    plan = run.plan()
    if not plan.empty:
        if not run.agreed(plan):
            return InstallOutcome(plan=plan, is_done=False)
        with keeping(BEGUN), hold(run.inside.place, run.inside.session) as journal:
            run.act(journal)
        plan = Plan(actions=tuple(run.done) or plan.actions, unchanged=plan.unchanged)
    with keeping("Everything is installed; nothing was taken back."):
        return InstallOutcome(plan=plan, is_done=True, report=run.check())


class _Install:
    """One run: what was observed and done so far, phase by phase."""

    def __init__(self, *, archive: Archive, inside: Inside, confirm: Confirm) -> None:
        self.archive = archive
        self.inside = inside
        self.done: list[Action] = []
        self._confirm = confirm
        self._seen: set[tuple[str, str]] = set()
        self._references: Mapping[str, Reference] = {}
        self._emit = inside.pace.emit
        self._infrastructure = Infrastructure()
        self._machine_images: dict[str, MachineImage] = {}
        self._prepared: tuple[Prepared, ...] = ()
        self._steps: dict[Role, tuple[Step, ...]] = {}
        self._images = ImageMap.of(inside.site.registry_host, ())

    def preflight(self) -> None:
        """Refuse to begin where a later phase cannot work; all reasons at once."""
        site = self.inside.site
        with self._phase("preflight") as done:
            found = (
                *check_amis(site, self.archive.lock),
                *preflight(site, probes=self.inside.probes),
                *self._restoration.check(),
            )
            raise_findings(f"site of cluster {site.cluster.name}", found)
            version = check_version(self.archive.lock.kubernetes_version, cluster=self.inside.cluster)
            for note in preload_notes(site, self.archive.lock):
                self._emit(Noted(text=note, warning=True))
            done(f"every endpoint answers; Kubernetes {version}")

    def adopt(self) -> None:
        """Take what the site names for what it is."""
        with self._phase("infrastructure") as done:
            self._infrastructure = infrastructure(
                self.inside.site, network=self.inside.network, profiles=self.inside.profiles
            )
            done("adopted as the site names it")

    def plan(self) -> Plan:
        """Return every write, in the order of the phases."""
        inside, site = self.inside, self.inside.site
        wanted = self._observe_push()
        needed = observe_repositories(site, wanted.repositories, registry=inside.repositories)
        self._prepare(wanted)
        plan = (
            needed.plan
            + wanted.plan
            + self._plan_amis()
            + observe_identity(site, access=inside.access).plan
            + self._plan_releases("core")
            + self._plan_nodes()
            + self._plan_releases("addon")
        )
        return plan + _finish_plan() if plan.empty and was_cut_off(inside.place) else plan

    def agreed(self, plan: Plan) -> bool:
        """Whether every write of the plan was shown and agreed to; what was shown before is not asked again."""
        new = tuple(action for action in plan if (action.verb, action.target) not in self._seen)
        if new and not self._confirm(Plan(actions=new, unchanged=plan.unchanged)):
            return False
        self._seen.update((action.verb, action.target) for action in new)
        return True

    def act(self, journal: Journal) -> None:
        """Do every phase; each looks again before it writes.

        Raises:
            ConflictError: the site changed since the plan was shown, and what it needs now was not agreed to.
        """
        phases: tuple[tuple[str, Callable[[], str]], ...] = (
            ("push", lambda: self._push(journal)),
            *((("restore", lambda: self._restore(journal)),) if self._restoration.wanted else ()),
            ("identity", self._identity),
            ("core", lambda: self._release("core", journal)),
            ("nodes", self._nodes),
            ("check-nodes", self._check_nodes),
            (LAST_PHASE, lambda: self._release("addon", journal)),
        )
        for name, phase in phases:
            journal.check()
            with self._phase(name) as done:
                done(phase())
            journal.record(
                name,
                journal.key(name, site=self.inside.place.site),
                bundle=f"{self.archive.lock.name}-{self.archive.lock.sequence}",
                root=str(self.archive.root.digest),
            )

    def check(self) -> Report:
        """Return what runs, once all of it is healthy."""
        inside = self.inside
        with self._phase("check") as done:
            count = check_nodes(inside.site, groups=inside.groups, cluster=inside.cluster, patience=inside.patience)
            report = check(
                expected_workloads(self._steps["core"] + self._steps["addon"]),
                images=self._images,
                wanted_nodes=count,
                cluster=inside.cluster,
                patience=inside.patience,
            )
            found = f"{counted(report.ready_nodes, 'node')} and {counted(len(report.workloads), 'workload')}"
            done(f"{found} healthy, on private images")
        if report.stand_ins:
            self._emit(Noted(text=report.stand_ins))
        return report

    def _begin(self, plan: Plan) -> None:
        """Go on to write what a phase plans now: it was shown, or is shown now."""
        if not self.agreed(plan):
            raise ConflictError(
                f"site of cluster {self.inside.site.cluster.name}",
                "changed since the plan was shown, and what it needs now was not agreed to",
                safe="What was written until then stays.",
                hint="Look at the plan as it is now: run the same command again.",
            )
        self.done += plan.actions

    def _observe_push(self) -> PushPlan:
        inside, site = self.inside, self.inside.site
        return observe_push(
            self.archive,
            target=PrivateRegistry(host=site.registry_host, prefix=site.registry.prefix),
            registry=inside.registry,
            immutable=site.registry.immutable,
            pace=inside.pace,
        )

    def _prepare(self, wanted: PushPlan) -> None:
        site, lock = self.inside.site, self.archive.lock
        self._references = wanted.references
        self._images = image_map(lock, wanted.references, host=site.registry_host)
        self._prepared = prepare(
            lock,
            read=self.archive.read,
            images=self._images,
            facts=SiteFacts(endpoint=site.cluster.endpoint, service_cidr=site.cluster.service_cidr),
            charts=self.inside.helm,
        )

    def _push(self, journal: Journal) -> str:
        inside = self.inside
        wanted = self._observe_push()
        needed = observe_repositories(inside.site, wanted.repositories, registry=inside.repositories)
        self._begin(needed.plan + wanted.plan)
        if wanted.references != self._references:  # a tag was taken meanwhile: ours is beside it
            self._prepare(wanted)
        repositories(needed, registry=inside.repositories, emit=self._emit)
        held = with_placed(HeldRegistry(inside.registry, journal), wanted.placed, source=inside.registry)
        push(wanted, archive=self.archive, registry=held, pace=inside.pace)
        return f"{len(wanted.missing)} pushed, {len(wanted.present)} were there; all digests read back"

    @property
    def _restoration(self) -> Restoration:
        inside = self.inside
        return Restoration(
            archive=self.archive,
            site=inside.site,
            machines=inside.machines,
            patience=inside.patience,
            pace=inside.pace,
        )

    def _plan_amis(self) -> Plan:
        return sum((item.plan for item in self._observe_amis()), Plan())

    def _observe_amis(self) -> tuple[AmiPlan, ...]:
        planned = self._restoration.observe()
        self._machine_images = {**self._infrastructure.images, **self._restoration.images(planned)}
        return planned

    def _restore(self, journal: Journal) -> str:
        planned = self._observe_amis()
        plan = sum((item.plan for item in planned), Plan())
        self._begin(plan)
        self._restoration.run(planned, journal)
        there = self._observe_amis()
        return f"{counted(len(there), 'AMI')}: {', '.join(image.id for image in self._machine_images.values())}"

    def _identity(self) -> str:
        inside = self.inside
        wanted = observe_identity(inside.site, access=inside.access)
        self._begin(wanted.plan)
        identity(
            wanted, inside.site, bundle=self.archive.root.digest, access=inside.access, sleep=inside.patience.sleep
        )
        return f"access entries: {len(wanted.missing)} made, {len(wanted.present)} were there"

    def _plan_nodes(self) -> Plan:
        inside = self.inside
        found = observe_nodes(inside.site, templates=inside.templates, groups=inside.groups)
        bundle = self.archive.root.digest
        return plan_nodes(inside.site, bundle=bundle, images=self._machine_images, found=found).plan

    def _nodes(self) -> str:
        inside = self.inside
        found = observe_nodes(inside.site, templates=inside.templates, groups=inside.groups)
        wanted = plan_nodes(inside.site, bundle=self.archive.root.digest, images=self._machine_images, found=found)
        self._begin(wanted.plan)
        nodes(wanted, templates=inside.templates, groups=inside.groups, emit=self._emit)
        return f"{counted(len(wanted.plan.actions), 'change')} to {counted(len(wanted.groups), 'node group')}"

    def _check_nodes(self) -> str:
        inside = self.inside
        count = check_nodes(inside.site, groups=inside.groups, cluster=inside.cluster, patience=inside.patience)
        return f"{counted(count, 'node')} Ready"

    def _plan_releases(self, role: Role) -> Plan:
        return _release_plan(self._observe_releases(role))

    def _observe_releases(self, role: Role) -> tuple[Step, ...]:
        inside = self.inside
        self._steps[role] = plan_steps(
            of_role(self._prepared, role),
            images=self._images,
            core=inside.site.core,
            helm=inside.helm,
            cluster=inside.cluster.snapshot(),
        )
        return self._steps[role]

    def _release(self, role: Role, journal: Journal) -> str:
        steps = self._observe_releases(role)
        self._begin(_release_plan(steps))
        for step in steps:
            journal.check()
            release((step,), images=self._images, helm=self.inside.helm, cluster=self.inside.cluster)
        changed = sum(step.action is not None for step in steps)
        return f"{changed} of {len(steps)} releases changed"

    @contextmanager
    def _phase(self, name: str) -> Iterator[Callable[[str], None]]:
        """Announce a phase; what is handed to the yielded function is told at its end, with the time it took."""
        told: list[str] = []
        clock = self.inside.patience.clock
        started = clock()
        self._emit(PhaseStarted(phase=name))
        yield told.append
        self._emit(PhaseDone(phase=name, detail=f"{' '.join(told)} ({clock() - started:.1f} s)"))


def _finish_plan() -> Plan:
    """What is left where everything is written but an install was killed before it had said so."""
    target = "what an install from this host was cut off at"
    return Plan(actions=(Action(phase=LAST_PHASE, verb="finish", target=target, detail="lock and journal"),))


def _release_plan(steps: Iterable[Step]) -> Plan:
    return Plan(actions=tuple(step.action for step in steps if step.action is not None))
