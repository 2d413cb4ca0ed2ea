"""The site that the shared lab plays, and AWS as the tool reaches it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bundler.adapters.aws.clients import Aws, AwsSettings, Service, site_endpoints
from bundler.adapters.aws.failures import Asked
from bundler.adapters.documents import read_document
from bundler.domain.site import Site, parse_site
from bundler.lab.lab import LabFacts
from bundler.lab.request_log import mutations


@dataclass(frozen=True)
class Closed:
    """The closed side: site, AWS, and the lab behind them."""

    site: Site
    aws: Aws
    lab: LabFacts

    def fault(self, service: str, operation: str, kind: str, **more: object) -> None:
        """Plan a fault."""
        self._control("POST", {"service": service, "operation": operation, "kind": kind, **more})

    def no_faults(self) -> None:
        """Forget the planned faults."""
        self._control("DELETE", None)

    def written(self) -> list[str]:
        """Return the mutating operations so far."""
        return [str(line.get("operation", line.get("method"))) for line in mutations(self.lab.requests_file)]

    def _control(self, method: str, value: object) -> None:
        body = None if value is None else json.dumps(value).encode()
        request = urllib.request.Request(f"{self.lab.aws_url}/_lab/faults", data=body, method=method)
        urllib.request.urlopen(request, timeout=10).close()


@pytest.fixture(scope="module")
def services(lab: LabFacts) -> Callable[[str], Service]:
    """Services of the shared lab with the operator's credentials, which wait for nothing; each is made once."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in lab.environment().items():
            patch.setenv(name, value)
        endpoints = dict.fromkeys(("ec2", "ssm"), lab.aws_url)
        aws = Aws(AwsSettings(region=lab.region, endpoints=endpoints, sleep=lambda _: None))
        aws.credentials()
        for name in endpoints:
            aws.service(name)
    return aws.service


class OddClient:
    """boto3's client, whose every answer is the same."""

    class meta:  # noqa: N801 - boto3's own name
        endpoint_url = "https://ec2.example"
        region_name = "eu-central-1"

    def __init__(self, answer: object) -> None:
        self._answer = answer

    def __getattr__(self, name: str) -> Callable[..., object]:
        return lambda **_: self._answer

    def get_paginator(self, _: str) -> OddClient:
        return self

    def paginate(self, **_: object) -> list[object]:
        return [self._answer]


def odd_service(answer: object) -> Service:
    """A service whose every answer is the same, right or wrong."""
    url = OddClient.meta.endpoint_url
    return Service(OddClient(answer), Asked(service="ec2", operation="*", resource="*", endpoint=url, setting="ec2"))


@pytest.fixture
def closed(lab: LabFacts, monkeypatch: pytest.MonkeyPatch) -> Iterator[Closed]:
    """The closed side of the shared lab; faults are forgotten afterwards."""
    yield from _closed(lab, monkeypatch)


@pytest.fixture
def fresh_closed(fresh_lab: LabFacts, monkeypatch: pytest.MonkeyPatch) -> Iterator[Closed]:
    """The closed side of a lab of one's own."""
    yield from _closed(fresh_lab, monkeypatch)


def _closed(lab: LabFacts, monkeypatch: pytest.MonkeyPatch) -> Iterator[Closed]:
    for name, value in lab.environment().items():
        monkeypatch.setenv(name, value)
    site = parse_site(read_document(Path(lab.site_file)))
    made = Closed(site=site, aws=Aws(AwsSettings(region=site.region, endpoints=site_endpoints(site))), lab=lab)
    yield made
    made.no_faults()
