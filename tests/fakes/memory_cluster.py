"""A cluster and a Helm in memory, for what stages decide; how Helm and Kubernetes behave is tested on real ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bundler.adapters.chart_archive import read_chart
from bundler.adapters.chart_tar import unpack
from bundler.domain.cluster_node import ClusterNode
from bundler.domain.image_map import ImageMap
from bundler.domain.image_values import ChartDefaults, coalesce
from bundler.domain.release import Installing, Rendering, Revision
from bundler.domain.rewrite import closure_error, rewrite_manifests
from bundler.domain.workload import Pod, Workload, WorkloadRef
from bundler.errors import DefinitionError, TargetError


@dataclass(kw_only=True)
class MemoryCluster:
    """Workloads, pods and nodes that the test puts there; patches are kept."""

    workloads: dict[WorkloadRef, Workload] = field(default_factory=dict)
    all_pods: list[Pod] = field(default_factory=list)
    all_nodes: list[ClusterNode] = field(default_factory=list)
    patched: list[tuple[str, WorkloadRef, Mapping[str, object]]] = field(default_factory=list)

    def workload(self, ref: WorkloadRef) -> Workload | None:
        return self.workloads.get(ref)

    def pods(self, namespace: str) -> tuple[Pod, ...]:
        return tuple(pod for pod in self.all_pods if pod.namespace == namespace)

    def nodes(self) -> Sequence[ClusterNode]:
        return self.all_nodes

    def snapshot(self) -> MemoryCluster:
        return self

    def patch(self, ref: WorkloadRef, change: Mapping[str, object], *, field_manager: str) -> None:
        self.patched.append((field_manager, ref, change))


@dataclass(kw_only=True)
class MemoryHelm:
    """Renders by replacing `{{ .Values.KEY }}` in templates; remembers what it was told to do.

    A chart with a schema takes no digests in its values.
    """

    revisions: dict[str, list[Revision]] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    installed: list[tuple[Rendering, Installing]] = field(default_factory=list)
    fails: TargetError | None = None

    def render(self, chart: bytes, rendering: Rendering, *, images: ImageMap | None = None) -> str:
        values = coalesce(self.defaults(chart), rendering.values)
        _, files = unpack(chart, subject="x")
        if "values.schema.json" in files and "@sha256" in json.dumps(rendering.values):
            raise DefinitionError(f"release {rendering.release}", "does not render: values do not fit the schema")
        texts = [content.decode() for name, content in sorted(files.items()) if name.startswith("templates/")]
        text = "\n---\n".join(texts)
        for key, value in values.items():
            text = text.replace(f"{{{{ .Values.{key} }}}}", value if isinstance(value, str) else json.dumps(value))
        if images is None:
            return text
        rewritten = rewrite_manifests(text, images, subject="x")
        if rewritten.missing:
            raise closure_error(rewritten.missing, subject=f"release {rendering.release}")
        return rewritten.text

    def defaults(self, chart: bytes) -> ChartDefaults:
        return read_chart(chart, subject="x").defaults

    def history(self, release: str, namespace: str) -> tuple[Revision, ...]:
        return tuple(self.revisions.get(f"{namespace}/{release}", ()))

    def upgrade_install(self, chart: bytes, rendering: Rendering, *, images: ImageMap, installing: Installing) -> None:
        self.render(chart, rendering, images=images)
        self.done.append(f"install {rendering.namespace}/{rendering.release}")
        self.installed.append((rendering, installing))
        if self.fails is not None:
            raise self.fails
        known = self.revisions.setdefault(f"{rendering.namespace}/{rendering.release}", [])
        known.append(Revision(number=len(known) + 1, status="deployed", description=installing.description))

    def rollback(self, release: str, namespace: str, revision: int) -> None:
        self.done.append(f"rollback {namespace}/{release} to {revision}")

    def uninstall(self, release: str, namespace: str) -> None:
        self.done.append(f"uninstall {namespace}/{release}")
