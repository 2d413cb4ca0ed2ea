"""ECR host names."""

from __future__ import annotations

import pytest

from bundler.domain.ecr_host import EcrHost


@pytest.mark.parametrize(
    ("host", "account", "region"),
    [
        ("602401143452.dkr.ecr.ap-northeast-1.amazonaws.com", "602401143452", "ap-northeast-1"),
        ("918309763551.dkr.ecr.cn-north-1.amazonaws.com.cn", "918309763551", "cn-north-1"),
        ("877088126301.dkr.ecr.eusc-de-east-1.amazonaws.eu", "877088126301", "eusc-de-east-1"),
        ("013241004608.dkr.ecr-fips.us-gov-west-1.amazonaws.com", "013241004608", "us-gov-west-1"),
        ("123456789012.dkr.ecr.us-iso-east-1.c2s.ic.gov", "123456789012", "us-iso-east-1"),
        ("123456789012.dkr-ecr.eu-central-1.on.aws", "123456789012", "eu-central-1"),
        ("602401143452.dkr.ecr.us-west-2.amazonaws.com:443", "602401143452", "us-west-2"),
    ],
)
def test_account_and_region_stand_in_the_name(host: str, account: str, region: str) -> None:
    assert EcrHost.parse(host) == EcrHost(account=account, region=region)


@pytest.mark.parametrize(
    "host",
    [
        "public.ecr.aws",
        "registry.k8s.io",
        "602401143452.dkr.ecr.ap-northeast-1.amazonaws.com.evil.example",
        "evil602401143452.dkr.ecr.ap-northeast-1.amazonaws.com",
        "60240114345.dkr.ecr.ap-northeast-1.amazonaws.com",
        "602401143452.dkr.ecr.ap-northeast-1.example.com",
        "",
    ],
)
def test_other_hosts_get_no_ecr_token(host: str) -> None:
    assert EcrHost.parse(host) is None
