"""Names of private ECR registries: account and Region in a host name, in every partition."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bundler.domain.partition import DNS_SUFFIXES

_DUAL_STACK = r"on\.(?:aws|amazonwebservices\.com\.cn|amazonwebservices\.eu)"
_SUFFIXES = "|".join(re.escape(suffix) for suffix in sorted(set(DNS_SUFFIXES.values()), key=len, reverse=True))
_REGION = r"(?P<region>[a-z]{2,5}(?:-[a-z]+)+-[0-9]{1,2})"
_HOST = re.compile(
    rf"(?P<account>[0-9]{{12}})\.(?:dkr\.ecr(?:-fips)?\.{_REGION}\.(?:{_SUFFIXES})"
    rf"|dkr-ecr(?:-fips)?\.{_REGION.replace('region', 'other')}\.{_DUAL_STACK})\Z"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EcrHost:
    """The registry of one account in one Region."""

    account: str
    region: str

    @classmethod
    def parse(cls, host: str) -> EcrHost | None:
        """Return what `host` (with or without a port) names, None where it is no private ECR registry."""
        match = _HOST.match(host.partition(":")[0])
        if match is None:
            return None
        return cls(account=match["account"], region=match["region"] or match["other"])
