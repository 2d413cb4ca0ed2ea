"""AWS partitions: their DNS suffixes, and which of them a Region is in (botocore, endpoints.json)."""

from __future__ import annotations

DNS_SUFFIXES = {
    "aws": "amazonaws.com",
    "aws-cn": "amazonaws.com.cn",
    "aws-us-gov": "amazonaws.com",
    "aws-eusc": "amazonaws.eu",
    "aws-iso": "c2s.ic.gov",
    "aws-iso-b": "sc2s.sgov.gov",
    "aws-iso-e": "cloud.adc-e.uk",
    "aws-iso-f": "csp.hci.ic.gov",
}
_REGION_PREFIXES = {
    "cn-": "aws-cn",
    "us-gov-": "aws-us-gov",
    "eusc-": "aws-eusc",
    "us-iso-": "aws-iso",
    "us-isob-": "aws-iso-b",
    "eu-isoe-": "aws-iso-e",
    "us-isof-": "aws-iso-f",
    "eu-isof-": "aws-iso-f",
}


def partition_of(region: str) -> str:
    """Return the partition of a Region, by the form of its name."""
    return next((name for prefix, name in _REGION_PREFIXES.items() if region.startswith(prefix)), "aws")


def refuse_other_partition(region: str, partition: str) -> None:
    """Raise ValueError where the Region is in another partition."""
    home = partition_of(region)
    if home != partition:
        raise ValueError(f"the Region {region} is in the partition {home}, not in {partition}: set partition: {home}")
