"""What `check` proves of a live cluster, and `bundle status` shows of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bundler.domain.cluster_node import ClusterNode
from bundler.domain.image_map import ImageMap
from bundler.domain.workload import Pod, Workload, WorkloadRef, pods_of

_MOST_PODS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedWorkload:
    """A workload that must be rolled out.

    Attributes:
        owner: the release that brings it, for people.
        own_images: whether it must run the bundle's images; a core object that is kept need not.
    """

    ref: WorkloadRef
    owner: str
    own_images: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadState:
    """One workload as it was found.

    Attributes:
        problem: empty where all is well.
        is_final: whether waiting changes nothing: it is not there, or its template names other images.
    """

    ref: WorkloadRef
    owner: str
    ready: int = 0
    desired: int = 0
    images: tuple[str, ...] = ()
    problem: str = ""
    is_final: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One look at the cluster.

    Attributes:
        nodes: all, in the order of their names.
        wanted_nodes: how many must be Ready at least.
        workloads: in the order of installation.
    """

    nodes: tuple[ClusterNode, ...]
    wanted_nodes: int
    workloads: tuple[WorkloadState, ...]

    @property
    def ready_nodes(self) -> int:
        """How many nodes are Ready."""
        return sum(node.ready for node in self.nodes)

    @property
    def stand_ins(self) -> str:
        """What has to be said wherever nodes of a lab are shown; empty for real ones."""
        found = sorted({node.stand_in for node in self.nodes if node.stand_in})
        return f"nodes and pods are stand-ins: {', '.join(found)}" if found else ""

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each thing that is not as it must be; none when all is well."""
        nodes = [f"node {node.name}: {node.message or 'is not Ready'}" for node in self.nodes if not node.ready]
        if self.ready_nodes < self.wanted_nodes:
            nodes.insert(0, f"{self.ready_nodes} of {self.wanted_nodes} nodes are Ready")
        workloads = [f"{state.ref} ({state.owner}): {state.problem}" for state in self.workloads if state.problem]
        return (*nodes, *workloads)

    @property
    def is_hopeless(self) -> bool:
        """Whether something is wrong that no waiting mends."""
        return any(state.is_final for state in self.workloads)

    @property
    def is_healthy(self) -> bool:
        """Whether nothing is left to wait for."""
        return not self.problems


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRule:
    """Which images a workload may run.

    Attributes:
        allows: whether it may run this one.
        otherwise: what is said of one that it may not run.
    """

    allows: Callable[[str], bool]
    otherwise: str


def of_the_bundle(images: ImageMap) -> ImageRule:
    """Return the rule of `check`: the bundle's own, by digest."""
    return ImageRule(
        allows=images.has, otherwise=": not an image of the bundle in the private registry, pinned by digest"
    )


def of_the_registry(host: str) -> ImageRule:
    """Return the rule of `bundle status`, which knows no bundle: whatever is in the private registry."""
    return ImageRule(allows=lambda image: image.startswith(f"{host}/"), otherwise=", from outside the private registry")


def workload_state(
    expected: ExpectedWorkload, live: Workload | None, pods: Sequence[Pod], *, rule: ImageRule
) -> WorkloadState:
    """Return what became of a workload: there, on images that the rule allows, rolled out."""
    if live is None:
        return WorkloadState(ref=expected.ref, owner=expected.owner, problem="does not exist", is_final=True)
    own = pods_of(live, pods)
    templates = {container.image for container in live.containers}
    running = sorted({image for pod in own for image in pod.images} | templates)
    outside = [image for image in running if expected.own_images and not rule.allows(image)]
    return WorkloadState(
        ref=expected.ref,
        owner=expected.owner,
        ready=live.ready,
        desired=live.desired,
        images=tuple(running),
        problem=f"runs {', '.join(outside)}{rule.otherwise}" if outside else _unready(live, own),
        is_final=not templates.isdisjoint(outside),
    )


def _unready(live: Workload, pods: Sequence[Pod]) -> str:
    if live.is_rolled_out:
        return ""
    said = [f"{pod.name}: {pod.problem}" for pod in pods if not pod.is_ready][:_MOST_PODS]
    counted = f"{live.ready} of {live.desired} pods are ready" if live.is_current else "is being rolled out"
    return "; ".join([counted, *said])
