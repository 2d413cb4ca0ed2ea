from __future__ import annotations

from bundler.adapters.kubernetes import Snapshot
from bundler.journal import Record
from bundler.workflows.status import SiteStatus, site_status
from tests.fakes.sites import make_site

NOTHING = Snapshot(workloads={}, all_pods=(), all_nodes=())


def done(step: str, *, bundle: str) -> Record:
    return Record(step=step, key=f"{step} {bundle}", at="2026-01-02T03:04:05Z", facts={"bundle": bundle})


def status(*records: Record) -> SiteStatus:
    return site_status(make_site(), version="v1.36.3", seen=NOTHING, records=records)


def test_an_install_that_died_after_the_push_is_not_shown_as_installed() -> None:
    assert status(done("push", bundle="core-1")).installed is None


def test_the_last_whole_install_stays_shown_while_the_next_one_is_under_way() -> None:
    whole = done("add-ons", bundle="core-1")
    assert status(done("push", bundle="core-1"), whole, done("push", bundle="core-2")).installed == whole
