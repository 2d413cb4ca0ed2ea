"""A node as the cluster sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterNode:
    """One Node object.

    Attributes:
        provider_id: `aws:///<zone>/<instance>`; it names the instance whatever the node is called.
        ready: whether its Ready condition is true.
        message: what the condition says, empty where there is none yet.
        stand_in: what a lab's node says of itself, empty for real ones.
    """

    name: str
    provider_id: str
    ready: bool
    message: str = ""
    stand_in: str = ""
