"""Where the lab pretends to be, and whose key opens it."""

from __future__ import annotations

from dataclasses import dataclass, field

from bundler.domain.partition import DNS_SUFFIXES


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The account, Region and partition that the lab plays."""

    account: str
    region: str
    partition: str

    @property
    def dns_suffix(self) -> str:
        """What AWS names end with in this partition."""
        return DNS_SUFFIXES[self.partition]

    @property
    def registry_host(self) -> str:
        """ECR's own name for the registry."""
        return f"{self.account}.dkr.ecr.{self.region}.{self.dns_suffix}"

    @property
    def sts_host(self) -> str:
        """The Region's STS: the only host that EKS tokens ask."""
        return f"sts.{self.region}.{self.dns_suffix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKey:
    """The operator's credentials, good in this lab only."""

    id: str
    secret: str = field(repr=False)
