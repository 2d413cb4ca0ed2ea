"""The closed side, as install sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from bundler.domain.site import Site
from bundler.journal import Place, Session
from bundler.retry import Patience
from bundler.stages.check import Watched
from bundler.stages.check_nodes import GroupWatch, NodeWatch
from bundler.stages.identity import Access
from bundler.stages.infrastructure import Network, Profiles
from bundler.stages.nodes import Groups, Templates
from bundler.stages.preflight import Probes, VersionProbe
from bundler.stages.release import Cluster, ReleaseTool
from bundler.stages.repositories import RepositoryRegistry
from bundler.transfer import Pace
from bundler.workflows.placed_blobs import SiteRegistry
from bundler.workflows.restore import Machines


class LiveCluster(VersionProbe, Cluster, NodeWatch, Watched, Protocol):
    """The Kubernetes API: its version, releases, workloads and nodes."""


class ScalingGroups(Groups, GroupWatch, Protocol):
    """Auto Scaling groups, read and written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """The closed side, as install sees it.

    Attributes:
        profiles: IAM, None where the site has no way to it.
        place: of the journal.
        session: who writes to it.
        patience: how long to wait for nodes and for health.
    """

    site: Site
    registry: SiteRegistry
    repositories: RepositoryRegistry
    network: Network
    profiles: Profiles | None
    probes: Probes
    access: Access
    machines: Machines
    templates: Templates
    groups: ScalingGroups
    helm: ReleaseTool
    cluster: LiveCluster
    place: Place
    session: Session
    patience: Patience = field(default_factory=Patience)
    pace: Pace = field(default_factory=Pace)
