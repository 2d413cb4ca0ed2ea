"""Objects as the Kubernetes API gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bundler.domain.workload import WorkloadRef


def workload(
    ref: WorkloadRef, containers: Mapping[str, str], *, init: Mapping[str, str] | None = None, **metadata: Any
) -> dict[str, Any]:
    """A rolled-out workload with one pod."""
    labels = {"app": ref.name}
    spec: dict[str, Any] = {"containers": [{"name": name, "image": image} for name, image in containers.items()]}
    if init:
        spec["initContainers"] = [{"name": name, "image": image} for name, image in init.items()]
    counts = (
        {"desiredNumberScheduled": 1, "numberAvailable": 1, "updatedNumberScheduled": 1}
        if ref.kind == "DaemonSet"
        else {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
    )
    return {
        "kind": ref.kind,
        "metadata": {"name": ref.name, "namespace": ref.namespace, "generation": 1, **metadata},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {"spec": spec}},
        "status": {"observedGeneration": 1, **counts},
    }


def pod(ref: WorkloadRef, images: Mapping[str, str], *, waiting: str = "") -> dict[str, Any]:
    """A pod of that workload; with `waiting`, its containers wait for that reason."""
    state = {"waiting": {"reason": waiting, "message": f"it says {waiting}"}} if waiting else {"running": {}}
    return {
        "metadata": {"name": f"{ref.name}-x", "namespace": ref.namespace, "labels": {"app": ref.name}},
        "spec": {"containers": [{"name": name, "image": image} for name, image in images.items()]},
        "status": {
            "phase": "Pending" if waiting else "Running",
            "conditions": [{"type": "Ready", "status": "False" if waiting else "True"}],
            "containerStatuses": [{"name": name, "state": state} for name in images],
        },
    }
