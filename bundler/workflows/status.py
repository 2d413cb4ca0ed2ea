"""`bundle status`: what runs at a site, looked at once; nothing is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bundler.domain.cluster_node import ClusterNode
from bundler.domain.plan import LAST_PHASE
from bundler.domain.record import Record
from bundler.domain.report import ExpectedWorkload, Report, WorkloadState, of_the_registry, workload_state
from bundler.domain.site import Site
from bundler.domain.workload import Pod, Workload


class Seen(Protocol):
    """What one look at the cluster saw."""

    def all(self) -> Iterable[Workload]:
        """Return every workload."""
        ...

    def pods(self, namespace: str) -> tuple[Pod, ...]:
        """Return the pods of a namespace."""
        ...

    def nodes(self) -> Sequence[ClusterNode]:
        """Return every node."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteStatus:
    """A site as it is.

    Attributes:
        version: the API server's.
        installed: the last install that wrote all it had to, None where none is known.
        report: nodes and workloads.
    """

    version: str
    installed: Record | None
    report: Report


def site_status(site: Site, *, version: str, seen: Seen, records: Sequence[Record]) -> SiteStatus:
    """Return the status of a site from one look and the journal."""
    workloads = sorted(seen.all(), key=lambda workload: workload.ref)
    return SiteStatus(
        version=version,
        installed=next((record for record in reversed(records) if _is_whole(record)), None),
        report=Report(
            nodes=tuple(sorted(seen.nodes(), key=lambda node: node.name)),
            wanted_nodes=0,
            workloads=tuple(_state(site, workload, seen.pods(workload.ref.namespace)) for workload in workloads),
        ),
    )


def _is_whole(record: Record) -> bool:
    return record.step == LAST_PHASE and {"bundle", "root"} <= record.facts.keys()


def _state(site: Site, workload: Workload, pods: Sequence[Pod]) -> WorkloadState:
    expected = ExpectedWorkload(
        ref=workload.ref,
        owner=f"release {workload.release}" if workload.release else ("EKS" if workload.is_eks else "somebody else"),
        own_images=not (workload.is_eks and site.core == "keep"),
    )
    return workload_state(expected, workload, pods, rule=of_the_registry(site.registry_host))
