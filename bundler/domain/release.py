"""Helm releases: what one is rendered from, what Helm remembers of it, and what has to happen next."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bundler.domain.digest import Digest

_MARK = "bundle inputs "
Recovery = Literal["rollback", "uninstall"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """All that decides what a chart renders to, apart from the chart.

    Attributes:
        release: name of the Helm release.
        namespace: that it is installed into.
        values: over the chart's own.
        kubernetes_version: such as 1.36.
        api_versions: that the cluster has beside Kubernetes' own.
    """

    release: str
    namespace: str
    values: Mapping[str, object] = field(default_factory=dict)
    kubernetes_version: str
    api_versions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Installing:
    """How a release is written: its mark, whether to wait until it is ready, whether to take orphans over."""

    description: str
    timeout_s: float
    wait: bool
    take_ownership: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One entry of `helm history`: number, status (deployed, failed, pending-install, …) and description."""

    number: int
    status: str
    chart: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasePlan:
    """What to do with a release.

    Attributes:
        verb: None where it is as wanted.
        reason: why, in a few words.
        recover: what a killed Helm left is put in order by this first.
        back_to: the revision that a rollback returns to.
    """

    verb: Literal["install", "upgrade"] | None
    reason: str = ""
    recover: Recovery | None = None
    back_to: int | None = None


def inputs_digest(*, chart: Digest, values: Mapping[str, object], manifests: str, host: str) -> Digest:
    """Return the digest of what a release is made from: the same inputs need no second revision.

    The manifests themselves do not count, because charts may render random secrets; the private references in them
    do, because an image can change where chart and values do not.
    """
    references = sorted(set(re.findall(re.escape(host) + r"/[A-Za-z0-9_./:@-]+", manifests)))
    meaning = {"chart": str(chart), "values": values, "references": references, "form": 1}
    return Digest.of(json.dumps(meaning, sort_keys=True, separators=(",", ":"), default=str).encode())


def description_of(inputs: Digest) -> str:
    """Return the description that marks a revision as made by us from these inputs; Helm carries it to no other one."""
    return f"{_MARK}{inputs}"


def plan_release(history: Sequence[Revision], *, inputs: Digest) -> ReleasePlan:
    """Return what brings a release to these inputs, given its history, oldest first."""
    if not history or history[-1].status == "uninstalled":
        return ReleasePlan(verb="install", reason="not installed")
    last = history[-1]
    if last.status.startswith("pending-") or last.status == "uninstalling":
        return _plan_recovery(history, f"revision {last.number} was left {last.status}")
    if last.status == "deployed" and last.description == description_of(inputs):
        return ReleasePlan(verb=None)
    what = "was made from other inputs" if last.status == "deployed" else f"is {last.status}"
    return ReleasePlan(verb="upgrade", reason=f"revision {last.number} {what}")


def _plan_recovery(history: Sequence[Revision], reason: str) -> ReleasePlan:
    """What a killed Helm left: back to the last revision that stood, or away with it where none did."""
    good = next((one.number for one in reversed(history) if one.status in ("deployed", "superseded")), None)
    if good is None or history[-1].status == "uninstalling":
        return ReleasePlan(verb="install", reason=reason, recover="uninstall")
    return ReleasePlan(verb="upgrade", reason=reason, recover="rollback", back_to=good)
