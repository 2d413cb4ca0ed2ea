"""Deployments, DaemonSets, StatefulSets, their pods and nodes as the API server describes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bundler.domain.cluster_node import ClusterNode
from bundler.domain.kubernetes_images import objects
from bundler.domain.kubernetes_yaml import compose

KINDS = ("DaemonSet", "Deployment", "StatefulSet")
_RELEASE = "meta.helm.sh/release-name"
_RELEASE_NAMESPACE = "meta.helm.sh/release-namespace"
_STAND_IN = "lab.eks-bundler.io/stand-in"
_EKS_LABEL = "eks.amazonaws.com/component"
EKS_MANAGER = "eks"


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class WorkloadRef:
    """Kind, namespace and name."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerImage:
    """A container of a pod template: its name, its image, and the list it stands in."""

    name: str
    image: str
    is_init: bool = False

    @property
    def field(self) -> str:
        """`containers` or `initContainers`."""
        return "initContainers" if self.is_init else "containers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One live object.

    Attributes:
        containers: of its pod template.
        selector: labels of its pods.
        release: namespace and name of the Helm release that owns it, "" for none.
        managers: field managers, who wrote it.
        is_eks: whether EKS made it.
        desired: pods that it wants now.
        ready: pods of the current template that are available.
        is_current: whether its controller has seen the last change and no old pod is left.
    """

    ref: WorkloadRef
    containers: tuple[ContainerImage, ...] = ()
    selector: Mapping[str, str] = field(default_factory=dict)
    release: str = ""
    managers: tuple[str, ...] = ()
    is_eks: bool = False
    desired: int = 0
    ready: int = 0
    is_current: bool = True

    @property
    def is_rolled_out(self) -> bool:
        """Whether all its pods are of the current template and available."""
        return self.is_current and self.ready >= self.desired


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One pod; `problem` says why it is not ready, as far as it says so itself."""

    namespace: str
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    images: tuple[str, ...] = ()
    is_ready: bool = False
    problem: str = ""


def workload_refs(manifests: str, *, namespace: str, subject: str) -> tuple[WorkloadRef, ...]:
    """Return the workloads in rendered manifests, in their order; hooks are none.

    Args:
        manifests: as rendered.
        namespace: of objects that name none.
        subject: what errors name.
    """
    return tuple(
        WorkloadRef(
            kind=item.text("kind"),
            namespace=item.mapping("metadata").text("namespace") or namespace,
            name=item.mapping("metadata").text("name"),
        )
        for root in compose(manifests, subject=subject)
        for item in objects(root)
        if item.text("kind") in KINDS and item.text("apiVersion").startswith("apps/")
        if not item.mapping("metadata").mapping("annotations").text("helm.sh/hook")
    )


def rendered_containers(manifests: str, ref: WorkloadRef, *, subject: str) -> tuple[ContainerImage, ...]:
    """Return the containers that rendered manifests give a workload, whatever namespace they name."""
    for root in compose(manifests, subject=subject):
        for item in objects(root):
            if (item.text("kind"), item.mapping("metadata").text("name")) == (ref.kind, ref.name):
                spec = item.mapping("spec").mapping("template").mapping("spec")
                return tuple(
                    ContainerImage(name=container.text("name"), image=container.text("image"), is_init=is_init)
                    for key, is_init in (("initContainers", True), ("containers", False))
                    for container in spec.mappings(key)
                )
    return ()


def parse_workload(item: Mapping[str, object]) -> Workload:
    """Return the workload that the API server describes in `item`."""
    metadata, spec, status = _map(item, "metadata"), _map(item, "spec"), _map(item, "status")
    kind, annotations = _text(item, "kind"), _map(metadata, "annotations")
    managers = {_text(entry, "manager") for entry in _maps(metadata, "managedFields")}
    release = _text(annotations, _RELEASE)
    desired, ready, is_current = _counts(kind, spec, status)
    return Workload(
        ref=WorkloadRef(kind=kind, namespace=_text(metadata, "namespace"), name=_text(metadata, "name")),
        containers=tuple(_containers(_map(_map(spec, "template"), "spec"))),
        selector=_texts(_map(_map(spec, "selector"), "matchLabels")),
        release=f"{_text(annotations, _RELEASE_NAMESPACE)}/{release}" if release else "",
        managers=tuple(sorted(managers)),
        is_eks=EKS_MANAGER in managers or _EKS_LABEL in _map(metadata, "labels"),
        desired=desired,
        ready=ready,
        is_current=is_current and _number(status, "observedGeneration") >= _number(metadata, "generation"),
    )


def _counts(kind: str, spec: Mapping[str, object], status: Mapping[str, object]) -> tuple[int, int, bool]:
    """Wanted pods, available ones, and whether all are of the current template (kubectl's rollout status)."""
    if kind == "DaemonSet":
        desired = _number(status, "desiredNumberScheduled")
        return desired, _number(status, "numberAvailable"), _number(status, "updatedNumberScheduled") >= desired
    desired = _number(spec, "replicas", 1)
    updated, total = _number(status, "updatedReplicas"), _number(status, "replicas")
    available = _number(status, "availableReplicas")
    return desired, available, updated >= desired and total <= updated


def parse_pod(item: Mapping[str, object]) -> Pod | None:
    """Return the pod, None where it is going or has done its work."""
    metadata, spec, status = _map(item, "metadata"), _map(item, "spec"), _map(item, "status")
    if "deletionTimestamp" in metadata or _text(status, "phase") == "Succeeded":
        return None
    conditions = {_text(entry, "type"): entry for entry in _maps(status, "conditions")}
    is_ready = _text(conditions.get("Ready", {}), "status") == "True"
    return Pod(
        namespace=_text(metadata, "namespace"),
        name=_text(metadata, "name"),
        labels=_texts(_map(metadata, "labels")),
        images=tuple(container.image for container in _containers(spec)),
        is_ready=is_ready,
        problem="" if is_ready else _problem(status, conditions),
    )


def parse_node(item: Mapping[str, object]) -> ClusterNode:
    """Return the node that the API server describes in `item`."""
    conditions = _maps(_map(item, "status"), "conditions")
    ready = next((entry for entry in conditions if _text(entry, "type") == "Ready"), {})
    return ClusterNode(
        name=_text(_map(item, "metadata"), "name"),
        provider_id=_text(_map(item, "spec"), "providerID"),
        ready=_text(ready, "status") == "True",
        message=_text(ready, "message")[:300],
        stand_in=_text(_map(_map(item, "metadata"), "annotations"), _STAND_IN)[:100],
    )


def pods_of(workload: Workload, pods: Sequence[Pod]) -> tuple[Pod, ...]:
    """Return the pods that the workload selects."""
    wanted = workload.selector.items()
    return tuple(
        pod for pod in pods if pod.namespace == workload.ref.namespace and wanted and wanted <= pod.labels.items()
    )


def _problem(status: Mapping[str, object], conditions: Mapping[str, Mapping[str, object]]) -> str:
    """Waiting and failed containers first, then what the scheduler says."""
    found = []
    for key in ("initContainerStatuses", "containerStatuses"):
        for container in _maps(status, key):
            state = _map(container, "state")
            waiting, ended = _map(state, "waiting"), _map(state, "terminated")
            if _text(waiting, "reason") not in ("", "PodInitializing", "ContainerCreating"):
                found.append(_said(_text(container, "name"), waiting))
            elif _number(ended, "exitCode") != 0:
                found.append(_said(_text(container, "name"), ended))
    scheduled = conditions.get("PodScheduled", {})
    if not found and _text(scheduled, "status") == "False":
        found.append(_said("not scheduled", scheduled))
    return "; ".join(found) or _text(status, "phase") or "no status yet"


def _said(who: str, state: Mapping[str, object]) -> str:
    return f"{who}: {_text(state, 'reason')} {_text(state, 'message')}".strip()[:300]


def _containers(spec: Mapping[str, object]) -> Iterator[ContainerImage]:
    for key, is_init in (("initContainers", True), ("containers", False)):
        for container in _maps(spec, key):
            yield ContainerImage(name=_text(container, "name"), image=_text(container, "image"), is_init=is_init)


def _map(value: Mapping[str, object], key: str) -> Mapping[str, object]:
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}


def _maps(value: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    found = value.get(key)
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def _text(value: Mapping[str, object], key: str) -> str:
    """Text of the API on one printable line."""
    found = value.get(key)
    return "".join(char if char.isprintable() else " " for char in found) if isinstance(found, str) else ""


def _texts(value: Mapping[str, object]) -> dict[str, str]:
    return {key: text for key, text in value.items() if isinstance(text, str)}


def _number(value: Mapping[str, object], key: str, default: int = 0) -> int:
    found = value.get(key)
    return found if isinstance(found, int) else default
