"""User data: what the instances of a node group are told, each operating system in its own words.

Always with the endpoint, the authority and the Services of the cluster: no node asks eks:DescribeCluster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bundler.domain.al2_bootstrap import END_OF_SUPPORT, bootstrap_script
from bundler.domain.bottlerocket import bottlerocket_settings
from bundler.domain.node_config import node_config
from bundler.domain.node_settings import NodeSettings, node_settings
from bundler.domain.site import NodeGroup, NodeOs, Site
from bundler.errors import DefinitionError

MAX_USER_DATA_BYTES = 16 << 10  # EC2 takes no more, counted before base64
_WRITERS: Mapping[NodeOs, Callable[[NodeSettings], bytes]] = {
    "al2023": node_config,
    "bottlerocket": bottlerocket_settings,
    "al2": bootstrap_script,
}


def user_data(site: Site, group: NodeGroup) -> bytes:
    """Return the user data of a group's instances, as an instance sees it (not base64).

    Raises:
        DefinitionError: a fact is missing or not plain, or labels, taints and proxy make it more than 16 KiB.
    """
    raw = _WRITERS[group.os](node_settings(site, group))
    if len(raw) > MAX_USER_DATA_BYTES:
        cause = f"its user data has {len(raw)} bytes, EC2 takes {MAX_USER_DATA_BYTES}"
        raise DefinitionError(
            f"node group {group.name}", cause, hint="Give it fewer labels, taints and noProxy entries."
        )
    return raw


def user_data_warnings(site: Site, group: NodeGroup) -> tuple[str, ...]:
    """Return what people should know of a group's user data, one line each."""
    if group.os == "al2":
        return (f"node group {group.name}: {END_OF_SUPPORT}",)
    if group.os == "bottlerocket" and site.proxy is not None and site.proxy.http_proxy is not None:
        return (f"node group {group.name}: Bottlerocket knows no proxy for plain HTTP; proxy.httpProxy is left out",)
    return ()
