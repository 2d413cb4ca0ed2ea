"""Who may join and use a cluster, as EKS keeps it."""

from __future__ import annotations

from dataclasses import dataclass

NODE_TYPE = "EC2_LINUX"
NODE_BY_ID_TYPE = "EC2"
"""The user name behind it is the session's, which for an instance is its id (nodeadm, InstanceIdNodeName)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessEntry:
    """An access entry: `type` decides the user name and groups of the principal."""

    principal: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """What EKS says of a cluster.

    Attributes:
        certificate_authority: base64 of PEM, as in the site file.
        authentication_mode: CONFIG_MAP, API_AND_CONFIG_MAP or API.
    """

    status: str
    endpoint: str
    certificate_authority: str
    service_cidr: str
    authentication_mode: str
