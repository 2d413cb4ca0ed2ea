"""What was written to the Kubernetes API by people with EKS tokens, from the API server's own audit log."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN_EXTRA = "arn"  # noqa: S105 - the name of a field; EKS and our token check set it, nothing else does
_COMPONENTS = ("apiserver", "kube-controller-manager", "kube-scheduler")
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        {"level": "None", "userGroups": ["system:masters", "system:serviceaccounts"]},
        {"level": "None", "users": [f"system:{name}" for name in _COMPONENTS]},
        {"level": "Metadata"},
    ],
}
_WRITING_VERBS = frozenset({"create", "update", "patch", "delete", "deletecollection"})
# questions that are asked by POST: SelfSubjectAccessReview (`kubectl auth can-i`), TokenReview and their kind
_ASKING_GROUPS = frozenset({"authorization.k8s.io", "authentication.k8s.io"})


@dataclass(frozen=True, slots=True, kw_only=True)
class MutatingRequest:
    """One request that could change something; `status` is that of HTTP, refused ones are listed too."""

    verb: str
    uri: str
    user: str
    status: int
    time: str


def mutating_requests(audit_path: Path) -> list[MutatingRequest]:
    """Return what users with EKS tokens asked to change, without dryRun, oldest first.

    Components of the control plane, service accounts and the lab's own administrator are left out.
    """
    return [_request(event) for event in _events(audit_path) if _is_users(event) and _is_mutating(event)]


def _events(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the events; a last line that is still being written is left for the next time."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


def _is_users(event: Mapping[str, Any]) -> bool:
    return TOKEN_EXTRA in event["user"].get("extra", {})


def _is_mutating(event: Mapping[str, Any]) -> bool:
    if event["stage"] != "ResponseComplete" or event["verb"] not in _WRITING_VERBS:
        return False
    dry_run = "dryRun" in parse_qs(urlsplit(event["requestURI"]).query)
    asking = event.get("objectRef", {}).get("apiGroup") in _ASKING_GROUPS
    return not dry_run and not asking


def _request(event: Mapping[str, Any]) -> MutatingRequest:
    return MutatingRequest(
        verb=event["verb"],
        uri=event["requestURI"],
        user=event["user"]["username"],
        status=int(event.get("responseStatus", {}).get("code", 0)),
        time=event["stageTimestamp"],
    )
