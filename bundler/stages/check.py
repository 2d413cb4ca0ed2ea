"""Live cluster -> Report: everything that was installed is rolled out, on private images, on Ready nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bundler.domain.cluster_node import ClusterNode
from bundler.domain.image_map import ImageMap
from bundler.domain.report import ExpectedWorkload, Report, of_the_bundle, workload_state
from bundler.domain.workload import Pod, Workload, WorkloadRef
from bundler.errors import TargetError
from bundler.retry import Patience

_MOST_LINES = 20


class ClusterWatch(Protocol):
    """The cluster as it was at one moment."""

    def workload(self, ref: WorkloadRef) -> Workload | None:
        """Return a live workload."""
        ...

    def pods(self, namespace: str) -> tuple[Pod, ...]:
        """Return the pods of a namespace."""
        ...

    def nodes(self) -> Sequence[ClusterNode]:
        """Return every node."""
        ...


class Watched(Protocol):
    """A cluster that can be looked at again and again."""

    def snapshot(self) -> ClusterWatch:
        """Return how everything is now."""
        ...


def check(
    expected: Sequence[ExpectedWorkload],
    *,
    images: ImageMap,
    wanted_nodes: int,
    cluster: Watched,
    patience: Patience = Patience(),
) -> Report:
    """Return the report of a cluster in which all is well, once it is.

    Args:
        expected: what must be there.
        images: of the bundle, by private reference.
        wanted_nodes: how many nodes must be Ready at least.
        cluster: is asked again and again.
        patience: until when.

    Raises:
        TargetError: not healthy in time, or never going to be; each object with its cause.
    """
    started = patience.clock()
    while True:
        report = look(expected, images=images, wanted_nodes=wanted_nodes, cluster=cluster.snapshot())
        elapsed_s = patience.clock() - started
        if report.is_healthy:
            return report
        if report.is_hopeless or elapsed_s >= patience.deadline_s:
            raise _unhealthy(report, elapsed_s)
        patience.pause("cluster", report.problems, elapsed_s=elapsed_s)


def look(expected: Sequence[ExpectedWorkload], *, images: ImageMap, wanted_nodes: int, cluster: ClusterWatch) -> Report:
    """Return how things are now."""
    rule = of_the_bundle(images)
    pods = {namespace: cluster.pods(namespace) for namespace in sorted({one.ref.namespace for one in expected})}
    return Report(
        nodes=tuple(sorted(cluster.nodes(), key=lambda node: node.name)),
        wanted_nodes=wanted_nodes,
        workloads=tuple(
            workload_state(one, cluster.workload(one.ref), pods[one.ref.namespace], rule=rule) for one in expected
        ),
    )


def _unhealthy(report: Report, elapsed_s: float) -> TargetError:
    lines = list(report.problems[:_MOST_LINES])
    if len(report.problems) > _MOST_LINES:
        lines.append(f"and {len(report.problems) - _MOST_LINES} more")
    return TargetError(
        "the cluster",
        f"is not healthy after {elapsed_s:.0f} s\n" + "\n".join(f"- {line}" for line in lines),
        hint="Mend what is named above, then run bundle install again: it writes nothing that is there already.",
    )
