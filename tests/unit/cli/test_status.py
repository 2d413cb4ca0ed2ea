"""`bundle status` for machines."""

from __future__ import annotations

from bundler.cli.status import document
from bundler.domain.record import Record
from bundler.domain.report import Report
from bundler.workflows.status import SiteStatus
from tests.fakes.sites import make_site

EMPTY = Report(nodes=(), wanted_nodes=0, workloads=())
INSTALLED = Record(
    step="add-ons", key="k", at="2026-01-02T03:04:05Z", facts={"bundle": "core-7", "root": "sha256:1234"}
)


def test_the_document_holds_what_the_text_shows_of_cluster_and_install() -> None:
    site = make_site()
    shown = document(site, SiteStatus(version="v1.36.3", installed=INSTALLED, report=EMPTY))
    assert shown["cluster"] == site.cluster.name
    assert shown["endpoint"] == site.cluster.endpoint
    assert shown["serverVersion"] == "v1.36.3"
    assert (shown["bundle"], shown["root"]) == ("core-7", "sha256:1234")
    assert shown["installedAt"] == "2026-01-02T03:04:05Z"
    assert shown["healthy"] is True


def test_keys_stay_where_no_install_is_known() -> None:
    shown = document(make_site(), SiteStatus(version="v1.36.3", installed=None, report=EMPTY))
    assert [shown[key] for key in ("bundle", "root", "installedAt")] == [None, None, None]
