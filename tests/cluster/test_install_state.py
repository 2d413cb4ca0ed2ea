"""`bundle install` and its state in S3: a right that is missing, and state that somebody damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.closed import Closed, Site, Writes
from tests.peers import lab_control

pytestmark = [pytest.mark.cluster, pytest.mark.loopback, pytest.mark.slow]
UNDELETABLE = {"service": "s3", "operation": "DeleteObject", "kind": "denied", "times": 99}


@pytest.fixture(scope="module")
def site(closed: Closed) -> Iterator[Site]:
    """A site that was installed by somebody who may not delete in the bucket of its state."""
    made = closed.site("state", "closed-minimal-1.tar")
    lab_control(closed.facts, "POST", "faults", UNDELETABLE)
    done = made.install()
    assert "healthy, on private images" in done.stderr
    yield made
    lab_control(closed.facts, "DELETE", "faults")


def address(site: Site, name: str) -> dict[str, str]:
    bucket, _, prefix = site.document["state"]["s3"].removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": f"{prefix}/{name}"}


def test_without_the_right_to_delete_the_next_run_writes_nothing(site: Site) -> None:
    lock = json.loads(site.closed.aws("s3").get_object(**address(site, "lock.json"))["Body"].read())
    assert lock["released"] is True
    writes = Writes(site.closed.facts)
    assert "Nothing to do" in site.install().stdout
    assert writes.seen() == []


@pytest.mark.parametrize(("name", "command"), [("journal.jsonl", "aws s3 mv"), ("lock.json", "aws s3 rm")])
def test_damaged_state_is_named_by_its_address_with_a_command(site: Site, name: str, command: str) -> None:
    s3, place = site.closed.aws("s3"), address(site, name)
    before = s3.get_object(**place)["Body"].read()
    site.closed.helm("uninstall", "metrics-server", "--namespace=kube-system")
    s3.put_object(**place, Body=b"rubbish\n")
    said = "".join(site.install(expect=7).stderr.split())
    assert f"s3://{place['Bucket']}/{place['Key']}" in said
    assert command.replace(" ", "") in said
    assert "finish" not in site.plan().stdout
    s3.put_object(**place, Body=before)
    assert "Done" in site.install().stdout


def test_status_shows_what_runs_without_a_journal_that_can_be_read(site: Site) -> None:
    (journal,) = site.state.glob("eks-bundler/sites/*/journal.jsonl")
    before = journal.read_bytes()
    journal.write_bytes(b"rubbish\n")
    done = site.place.bundle("status", "--site", str(site.file))
    said = "".join(done.stderr.split())
    assert f"{journal}:isdamaged" in said
    assert "metrics-server" in done.stdout
    assert "closed-minimal-1" in done.stdout  # out of the mirror
    journal.write_bytes(before)
