"""Every kind of user data there is, as sites of one group each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bundler.domain.site import Site
from tests.fakes.sites import group_document, make_site

SYSTEMS = ("al2023", "bottlerocket", "al2")
PROXY = {"httpsProxy": "http://proxy.example:3128", "httpProxy": "http://proxy.example:3129", "noProxy": ["10.0.0.0/8"]}
FULL = {
    "labels": {"pool": "main", "team.example/x": "a_b", "empty": ""},
    "taints": [
        {"key": "only", "value": "batch", "effect": "NoSchedule"},
        {"key": "only", "value": "batch", "effect": "NoExecute"},
        {"key": "example.org/solo", "effect": "PreferNoSchedule"},
    ],
    "maxPods": 58,
}


def variants() -> Iterator[Site]:
    """Yield each operating system with each of its options, alone and together."""
    for os in SYSTEMS:
        options: list[dict[str, Any]] = [{}, FULL]
        if os != "al2":
            options += [{"instanceIdNodeName": "true"}, {**FULL, "instanceIdNodeName": "true"}]
        for option in options:
            group = group_document(os=os, **option)
            yield make_site(nodeGroups=[group])
            if os != "al2":
                yield make_site(nodeGroups=[group], proxy=PROXY)
                yield make_site(nodeGroups=[group], cluster={**cluster(), "serviceCidr": "fd30:1c53:5f8a::/108"})


def cluster() -> dict[str, Any]:
    """The cluster of a site file."""
    return make_site().cluster.model_dump(mode="json", by_alias=True, exclude_none=True)
