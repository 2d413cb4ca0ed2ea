"""Names, tokens and tags of what we create: functions of bundle, site and step; a second call finds the first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from bundler.domain.digest import Digest

LAUNCH_TEMPLATE_NAME_MAX = 128
CLUSTER_TAG = "bundle:cluster"
MANAGED_TAG = "bundle:managed"
GROUP_TAG = "bundle:node-group"


def derived_name(*parts: str, limit: int) -> str:
    """Join the parts with `-`; cut to `limit` characters with a digest at the end where they are too long."""
    name = "-".join(parts)
    if len(name) <= limit:
        return name
    return f"{name[: limit - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def step_key(step: str, inputs: Mapping[str, object], bundle: Digest) -> str:
    """Return 64 hex digits that name a step with these inputs of this bundle: journal key and client token."""
    document = {"step": step, "inputs": inputs, "bundle": str(bundle)}
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def shared_tags() -> dict[str, str]:
    """Tags of what all clusters of an account share, AMIs and their snapshots: the same whichever cluster is first."""
    return {MANAGED_TAG: "true"}


def owner_tags(cluster: str) -> dict[str, str]:
    """Tags of everything we create for one cluster; nothing without them is ever changed or deleted."""
    return {CLUSTER_TAG: cluster, **shared_tags()}
