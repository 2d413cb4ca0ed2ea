"""Charts -> releases in the cluster, images by private references (phases core and add-ons of install).

Values first, then Helm's post-renderer for what they did not reach, then a verifying render: nothing is applied that
would run an image from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from bundler.domain.adoption import (
    FIELD_MANAGER,
    CoreMode,
    Way,
    adopted_images,
    adoption_patch,
    choose_way,
    refuse_other_versions,
)
from bundler.domain.core import CORE_NAMESPACE, CORE_OBJECTS, site_values
from bundler.domain.digest import Digest
from bundler.domain.image_map import ImageMap
from bundler.domain.image_values import ChartDefaults, merge, values_overrides
from bundler.domain.lock import Lock, LockedRelease
from bundler.domain.plan import Action
from bundler.domain.release import (
    Installing,
    ReleasePlan,
    Rendering,
    Revision,
    description_of,
    inputs_digest,
    plan_release,
)
from bundler.domain.report import ExpectedWorkload
from bundler.domain.rewrite import refuse_outside
from bundler.domain.workload import Pod, Workload, WorkloadRef, pods_of, rendered_containers, workload_refs
from bundler.errors import BundleError, ClosureError, DefinitionError, TargetError
from bundler.ports import ChartRenderer
from bundler.transfer import parallel_map

CORE_LIMIT_S = 300.0
WORKERS = 4
_MOST_CAUSES = 5


class ReleaseTool(ChartRenderer, Protocol):
    """Helm, with the cluster."""

    def defaults(self, chart: bytes) -> ChartDefaults:
        """Return a chart's own values."""
        ...

    def history(self, release: str, namespace: str) -> tuple[Revision, ...]:
        """Return the revisions of a release, oldest first."""
        ...

    def upgrade_install(self, chart: bytes, rendering: Rendering, *, images: ImageMap, installing: Installing) -> None:
        """Install or upgrade."""
        ...

    def rollback(self, release: str, namespace: str, revision: int) -> None:
        """Return to an earlier revision."""
        ...

    def uninstall(self, release: str, namespace: str) -> None:
        """Remove a release that was never whole."""
        ...


class Look(Protocol):
    """Workloads as they are, or were at one moment."""

    def workload(self, ref: WorkloadRef) -> Workload | None:
        """Return a live workload."""
        ...


class Cluster(Look, Protocol):
    """The Kubernetes API, as far as releases need it."""

    def pods(self, namespace: str) -> tuple[Pod, ...]:
        """Return the pods of a namespace."""
        ...

    def patch(self, ref: WorkloadRef, change: Mapping[str, object], *, field_manager: str) -> None:
        """Merge fields into a live workload and own them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A release of the lock, ready for this site and proved to run private images only.

    Attributes:
        locked: what the lock says of it.
        chart: the .tgz.
        rendering: with the site's values and private references.
        manifests: what the verifying render gave.
        inputs: digest of all that went in.
    """

    locked: LockedRelease
    chart: bytes
    rendering: Rendering
    manifests: str
    inputs: Digest

    @property
    def name(self) -> str:
        """Name of the release."""
        return self.locked.name

    @property
    def workloads(self) -> tuple[WorkloadRef, ...]:
        """Deployments, DaemonSets and StatefulSets of the release; of a core component EKS's object first."""
        found = workload_refs(self.manifests, namespace=self.locked.namespace, subject=f"release {self.name}")
        return found if self.core_object is None or self.core_object in found else (self.core_object, *found)

    @property
    def core_object(self) -> WorkloadRef | None:
        """The object that EKS itself makes for this component; None for add-ons."""
        if self.locked.role != "core" or self.name not in CORE_OBJECTS:
            return None
        kind, name = CORE_OBJECTS[self.name]
        return WorkloadRef(kind=kind, namespace=CORE_NAMESPACE, name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is to happen to one release.

    Attributes:
        prepared: the release.
        way: by Helm, by adopting EKS's object, or not at all.
        plan: for Helm.
        patch: for an adoption.
        action: the write as `--plan` shows it; None where there is nothing to do.
    """

    prepared: Prepared
    way: Way
    plan: ReleasePlan = field(default_factory=lambda: ReleasePlan(verb=None))
    patch: Mapping[str, object] | None = None
    action: Action | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFacts:
    """What the site knows of its cluster and charts need."""

    endpoint: str
    service_cidr: str


def prepare(
    lock: Lock,
    *,
    read: Callable[[Digest], bytes],
    images: ImageMap,
    facts: SiteFacts,
    charts: ReleaseTool,
) -> tuple[Prepared, ...]:
    """Return every release of the lock in the order of installation, rewritten and verified; nothing is written.

    Args:
        lock: the bundle's.
        read: gives a blob of the archive, verified.
        images: where each image is in the private registry.
        facts: of the cluster.
        charts: renders.

    Raises:
        ClosureError: a pod would run an image from outside; names image and object.
    """

    def one(release: LockedRelease) -> Prepared:
        content = lock.chart(release.chart).content
        known = site_values(release.name, endpoint=facts.endpoint, service_cidr=facts.service_cidr)
        rendering = Rendering(
            release=release.name,
            namespace=release.namespace,
            values=merge(known, release.values) if release.role == "core" else release.values,
            kubernetes_version=lock.kubernetes_version,
            api_versions=release.api_versions,
        )
        return _verified(release, read(content.digest), rendering, images, charts)

    return tuple(parallel_map(one, lock.releases, workers=WORKERS))


def plan_steps(
    prepared: Sequence[Prepared], *, images: ImageMap, core: CoreMode, helm: ReleaseTool, cluster: Look
) -> tuple[Step, ...]:
    """Return what is to happen to each release; only reads.

    Raises:
        ConflictError: a core object belongs to somebody else, or the site says stop.
    """

    def plan(one: Prepared) -> Step:
        return _plan_one(one, images=images, core=core, helm=helm, cluster=cluster)

    return tuple(parallel_map(plan, prepared, workers=WORKERS))


def release(steps: Iterable[Step], *, images: ImageMap, helm: ReleaseTool, cluster: Cluster) -> None:
    """Do the steps, each whole before the next.

    Add-ons are waited for; the core set is not, because it comes before the nodes that it needs.

    Raises:
        TargetError: an add-on did not become ready in time; with what its pods say.
    """
    for step in steps:
        if step.patch is not None and step.prepared.core_object is not None:
            cluster.patch(step.prepared.core_object, step.patch, field_manager=FIELD_MANAGER)
        elif step.plan.verb is not None:
            _recover(step, helm)
            _install(step, images, helm, cluster)


def _verified(
    release: LockedRelease, chart: bytes, rendering: Rendering, images: ImageMap, charts: ReleaseTool
) -> Prepared:
    """Render with values that name private references; with the given ones where the chart means something else."""
    overridden = values_overrides(charts.defaults(chart), rendering.values, images)
    failed: BundleError | None = None
    for values in (overridden, rendering.values):
        candidate = replace(rendering, values=values)
        try:
            manifests = charts.render(chart, candidate, images=images)
            refuse_outside(manifests, images, subject=f"release {release.name}")
        except (ClosureError, DefinitionError) as error:
            failed = failed or error
            continue
        inputs = inputs_digest(chart=Digest.of(chart), values=values, manifests=manifests, host=images.host)
        return Prepared(locked=release, chart=chart, rendering=candidate, manifests=manifests, inputs=inputs)
    if failed is None:
        raise ClosureError(f"release {release.name}", "was not rendered")
    raise failed


def _plan_one(one: Prepared, *, images: ImageMap, core: CoreMode, helm: ReleaseTool, cluster: Look) -> Step:
    if one.core_object is None:
        return _plan_helm(one, images, helm, cluster)
    live = cluster.workload(one.core_object)
    way = choose_way(live, release=f"{one.locked.namespace}/{one.name}", mode=core)
    if way == "helm" or live is None:
        return _plan_helm(one, images, helm, cluster)
    rendered = rendered_containers(one.manifests, live.ref, subject=f"release {one.name}")
    if way == "keep":
        refuse_other_versions(live, rendered, images=images)
        return Step(prepared=one, way="keep")
    containers = adopted_images(live, rendered, images=images)
    if containers == live.containers:
        return Step(prepared=one, way="adopt")
    moved = ", ".join(new.name for new, old in zip(containers, live.containers, strict=True) if new != old)
    action = Action(phase="core", verb="adopt", target=str(live.ref), detail=f"images of {moved}")
    return Step(prepared=one, way="adopt", patch=adoption_patch(containers), action=action)


def _plan_helm(one: Prepared, images: ImageMap, helm: ReleaseTool, cluster: Look) -> Step:
    plan = plan_release(helm.history(one.name, one.locked.namespace), inputs=one.inputs)
    if plan.verb is None:
        drift = _drift(one, images, cluster)
        plan = ReleasePlan(verb="upgrade", reason=drift) if drift else plan
    if plan.verb is None:
        return Step(prepared=one, way="helm")
    phase = "core" if one.locked.role == "core" else "add-ons"
    target = f"release {one.locked.namespace}/{one.name}"
    recovery = f", {plan.recover} first" if plan.recover else ""
    action = Action(phase=phase, verb=plan.verb, target=target, detail=f"{plan.reason}{recovery}")
    return Step(prepared=one, way="helm", plan=plan, action=action)


def _drift(one: Prepared, images: ImageMap, cluster: Look) -> str:
    """Why a release that Helm holds for deployed needs another revision: a workload is gone, or runs other images."""
    for ref in workload_refs(one.manifests, namespace=one.locked.namespace, subject=f"release {one.name}"):
        live = cluster.workload(ref)
        if live is None:
            return f"{ref} is gone"
        wanted = {container.image for container in rendered_containers(one.manifests, ref, subject=one.name)}
        other = next((box for box in live.containers if box.image not in wanted and not images.has(box.image)), None)
        if other is not None:
            return f"{ref} runs {other.image} in {other.name}"
    return ""


def _recover(step: Step, helm: ReleaseTool) -> None:
    name, namespace = step.prepared.name, step.prepared.locked.namespace
    if step.plan.recover == "rollback" and step.plan.back_to is not None:
        helm.rollback(name, namespace, step.plan.back_to)
    elif step.plan.recover == "uninstall":
        helm.uninstall(name, namespace)


def _install(step: Step, images: ImageMap, helm: ReleaseTool, cluster: Cluster) -> None:
    one = step.prepared
    is_core = one.locked.role == "core"
    installing = Installing(
        description=description_of(one.inputs),
        timeout_s=CORE_LIMIT_S if is_core else 60.0 * one.locked.timeout_minutes,
        wait=not is_core,
        take_ownership=is_core,
    )
    try:
        helm.upgrade_install(one.chart, one.rendering, images=images, installing=installing)
    except TargetError as error:
        causes = _causes(one.workloads, cluster)
        raise TargetError(error.subject, error.cause + causes, hint=error.hint) from error


def _causes(refs: Sequence[WorkloadRef], cluster: Cluster) -> str:
    """What the pods of a release say about why they are not ready."""
    found: list[str] = []
    for ref in refs:
        live = cluster.workload(ref)
        pods = () if live is None else pods_of(live, cluster.pods(ref.namespace))
        found += [f"\n- {ref}, pod {pod.name}: {pod.problem}" for pod in pods if not pod.is_ready]
    return "".join(found[:_MOST_CAUSES])


def of_role(prepared: Sequence[Prepared], role: Literal["core", "addon"]) -> tuple[Prepared, ...]:
    """Return the releases of one phase."""
    return tuple(one for one in prepared if one.locked.role == role)


def expected_workloads(steps: Iterable[Step]) -> tuple[ExpectedWorkload, ...]:
    """Return what `check` has to find: of an adopted or kept component EKS's own object, else all of the release."""
    return tuple(
        ExpectedWorkload(ref=ref, owner=f"release {step.prepared.name}", own_images=step.way != "keep")
        for step in steps
        for ref in _left_behind(step)
    )


def _left_behind(step: Step) -> tuple[WorkloadRef, ...]:
    core = step.prepared.core_object
    return step.prepared.workloads if step.way == "helm" or core is None else (core,)
