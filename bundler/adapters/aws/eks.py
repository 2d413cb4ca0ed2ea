"""The EKS API: how a cluster lets nodes in, and what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping

from bundler.adapters.aws.clients import Answer, Service
from bundler.domain.access import AccessEntry, ClusterFacts
from bundler.errors import RejectedError

_ABSENT = "ResourceNotFoundException"
_EXISTS = "ResourceInUseException"


class Eks:
    """One cluster's EKS API in our words."""

    def __init__(self, service: Service, *, cluster: str) -> None:
        self._service = service
        self._cluster = cluster

    def facts(self) -> ClusterFacts | None:
        """Return what EKS says of the cluster, None where there is none of that name."""
        try:
            return self._service.ask("DescribeCluster", _facts, about=f"cluster {self._cluster}", name=self._cluster)
        except RejectedError as error:
            if error.code == _ABSENT:
                return None
            raise

    def entry(self, principal: str) -> AccessEntry | None:
        """Return the access entry of an IAM principal, None where there is none."""
        try:
            return self._service.ask(
                "DescribeAccessEntry",
                _entry,
                about=f"access entry {principal}",
                clusterName=self._cluster,
                principalArn=principal,
            )
        except RejectedError as error:
            if error.code == _ABSENT:
                return None
            raise

    def create_entry(self, entry: AccessEntry, *, tags: Mapping[str, str], token: str) -> None:
        """Create an access entry; one that somebody made meanwhile is left: the next look compares it."""
        try:
            self._service.call(
                "CreateAccessEntry",
                about=f"access entry {entry.principal}",
                clusterName=self._cluster,
                principalArn=entry.principal,
                type=entry.type,
                tags=dict(tags),
                clientRequestToken=token,
            )
        except RejectedError as error:
            if error.code != _EXISTS:
                raise


def _facts(answer: Answer) -> ClusterFacts:
    cluster = answer["cluster"]
    network = cluster.get("kubernetesNetworkConfig", {})
    return ClusterFacts(
        status=cluster.get("status", ""),
        endpoint=cluster.get("endpoint", "").rstrip("/"),
        certificate_authority=cluster.get("certificateAuthority", {}).get("data", ""),
        service_cidr=network.get("serviceIpv4Cidr") or network.get("serviceIpv6Cidr") or "",
        authentication_mode=cluster.get("accessConfig", {}).get("authenticationMode") or "CONFIG_MAP",
    )


def _entry(answer: Answer) -> AccessEntry:
    entry = answer["accessEntry"]
    return AccessEntry(principal=entry["principalArn"], type=entry.get("type") or "STANDARD")
