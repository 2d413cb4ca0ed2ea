"""The site that the shared lab plays, and AWS as the tool reaches it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bundler.adapters.aws.clients import Aws, AwsSettings, site_endpoints
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
