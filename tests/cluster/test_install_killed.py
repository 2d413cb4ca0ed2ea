"""`bundle install` killed in every phase, over and over, on one site: a later run finishes, the next writes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bundler.lab.request_log import read_requests
from tests.closed import (
    GROUP,
    Closed,
    Site,
    Skopeo,
    Tail,
    Writes,
    descendants,
    eventually,
    image_pairs,
    kill,
    private,
    workloads,
)
from tests.peers import lab_control

pytestmark = [pytest.mark.cluster, pytest.mark.loopback, pytest.mark.slow, pytest.mark.timeout(900)]
POLL_S = 0.01


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When a run ends: so many writes or seconds after the start of a phase, at the latest when the phase is over.

    Attributes:
        whole: everything the run has started dies with it, as when the host fails; else helm outlives it.
    """

    phase: str
    writes: int = 0
    seconds: float = 0.0
    whole: bool = True
    signal: signal.Signals = signal.SIGKILL

    def __str__(self) -> str:
        return f"{self.phase} +{self.writes} writes +{self.seconds} s{'' if self.whole else ', helm lives on'}"


MOMENTS = (
    Moment(phase="preflight"),
    Moment(phase="infrastructure", seconds=1),  # while it plans
    Moment(phase="push"),
    Moment(phase="push", writes=1),
    Moment(phase="push", writes=6),
    Moment(phase="push", writes=25),
    Moment(phase="push", writes=40, signal=signal.SIGINT),
    Moment(phase="push", writes=1000),
    Moment(phase="identity", writes=1),
    Moment(phase="core", writes=2),
    Moment(phase="core", writes=4),
    Moment(phase="core", writes=12),
    Moment(phase="core", writes=2, whole=False),
    Moment(phase="core", writes=5, signal=signal.SIGTERM),
    Moment(phase="core", writes=9, whole=False),
    Moment(phase="core", writes=1000),
    Moment(phase="nodes", writes=1),
    Moment(phase="nodes", writes=2),
    Moment(phase="check-nodes", seconds=0.5),
    Moment(phase="add-ons", writes=2),
    Moment(phase="add-ons", writes=5, whole=False),
    Moment(phase="add-ons", writes=7, signal=signal.SIGINT),
    Moment(phase="add-ons", writes=6),
    Moment(phase="add-ons", writes=8, seconds=0.5),
    Moment(phase="check"),
)
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}


class Watch:
    """One run as seen from outside: its phase, and what it has written since that began (the lock in S3 apart)."""

    def __init__(self, site: Site, progress: Path) -> None:
        facts = site.closed.facts
        self._progress = Tail(progress)
        self._requests = Tail(facts.requests_file)
        self._audit = Tail(facts.state / "kubernetes" / "audit.jsonl")
        self.begun: list[str] = []
        self.writes = 0
        self.since = time.monotonic()

    def look(self) -> None:
        for event in self._progress.lines():
            if event["event"] == "PhaseStarted":
                self.begun.append(event["phase"])
                self.writes, self.since = 0, time.monotonic()
        self.writes += sum(line["mutating"] and line["service"] != "s3" for line in self._requests.lines())
        self.writes += sum(_is_write(event) for event in self._audit.lines())

    def has_come(self, moment: Moment) -> bool:
        """Whether the moment is there, or gone by."""
        if moment.phase not in self.begun:
            return False
        enough = self.writes >= moment.writes and time.monotonic() >= self.since + moment.seconds
        return self.begun[-1] != moment.phase or enough


def _is_write(event: dict[str, Any]) -> bool:
    return "arn" in event["user"].get("extra", {}) and event["verb"] in ("create", "update", "patch", "delete")


def run_until(site: Site, moment: Moment, output: Path) -> tuple[int, str]:
    """Start an install and end it at a moment; return its code and the phase it was in."""
    process = site.start(output, "--progress", "json")
    watch = Watch(site, output.with_suffix(".err"))
    while process.poll() is None:
        watch.look()
        if watch.has_come(moment):
            _end(process, moment)
            break
        time.sleep(POLL_S)
    return process.wait(60), watch.begun[-1]


def _end(process: subprocess.Popen[bytes], moment: Moment) -> None:
    if moment.signal != signal.SIGKILL:
        os.kill(process.pid, moment.signal)
    elif moment.whole:
        kill(list(descendants(process.pid)))
    else:
        kill([process.pid])


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A site whose install was ended again and again, then left alone."""

    site: Site
    met: Counter[str]
    codes: list[tuple[Moment, int]]
    statuses: Counter[str]


@pytest.fixture(scope="module")
def finished(closed: Closed) -> Finished:
    site = closed.site("killed", "closed-minimal-1.tar")
    met, statuses, codes = Counter[str](), Counter[str](), []
    for number, moment in enumerate(MOMENTS):
        code, phase = run_until(site, moment, site.file.with_name(f"run-{number}"))
        if code == 0:  # an earlier one had got through already: give it something to do again
            closed.helm("uninstall", "metrics-server", "--namespace=kube-system")
            code, phase = run_until(site, moment, site.file.with_name(f"run-{number}-again"))
        codes.append((moment, code))
        met[phase] += 1
        statuses.update(helm_statuses(closed))
    site.install()
    return Finished(site=site, met=met, codes=codes, statuses=statuses)


def helm_statuses(closed: Closed) -> list[str]:
    """What helm has recorded of each revision."""
    found = json.loads(closed.kubectl("get", "secrets", "--namespace=kube-system", "-lowner=helm", "-ojson"))
    return [secret["metadata"]["labels"]["status"] for secret in found["items"]]


def test_each_run_was_ended_in_its_phase(finished: Finished) -> None:
    for moment, code in finished.codes:
        assert code == CODES[moment.signal], f"{moment}: {code}"
    assert len(finished.codes) == 25
    assert set(finished.met) >= {moment.phase for moment in MOMENTS}
    assert {"pending-install", "deployed"} <= set(finished.statuses)


def test_what_runs_in_the_end_is_whole(finished: Finished) -> None:
    found = workloads(finished.site.closed)
    assert len(found) == 4
    for name, workload in found.items():
        status = workload["status"]
        wanted = status.get("desiredNumberScheduled", workload["spec"].get("replicas"))
        assert private(workload, finished.site), name
        assert status.get("numberReady", status.get("readyReplicas")) == wanted, name
    histories = finished.site.closed.histories()
    assert {name: revisions[-1][1] for name, revisions in histories.items()} == dict.fromkeys(histories, "deployed")
    assert len(histories) == 4
    assert not [status for status in helm_statuses(finished.site.closed) if "pending" in status]


def test_nothing_was_made_twice(finished: Finished) -> None:
    ec2, scaling = finished.site.closed.aws("ec2"), finished.site.closed.aws("autoscaling")
    assert len(ec2.describe_launch_templates()["LaunchTemplates"]) == 1
    assert len(ec2.describe_launch_template_versions(LaunchTemplateName=GROUP)["LaunchTemplateVersions"]) == 1
    (group,) = scaling.describe_auto_scaling_groups()["AutoScalingGroups"]
    assert len(group["Instances"]) == group["DesiredCapacity"] == 2
    requests = Counter(str(line.get("operation")) for line in read_requests(finished.site.closed.facts.requests_file))
    assert requests["CreateLaunchTemplateVersion"] == 0


def test_every_image_is_whole(finished: Finished, skopeo: Skopeo, tmp_path: Path) -> None:
    pairs = image_pairs(finished.site, skopeo, tmp_path)
    lock = json.loads((finished.site.place.folder / "bundle.lock.json").read_bytes())
    assert len(pairs) == len(lock["images"])
    for pair in pairs:
        pair.pull(tmp_path)


def test_the_next_run_writes_nothing(finished: Finished) -> None:
    writes, before = Writes(finished.site.closed.facts), finished.site.closed.histories()
    assert "Nothing to do" in finished.site.install().stdout
    assert writes.seen() == []
    assert finished.site.closed.histories() == before


def test_no_lock_is_left(finished: Finished) -> None:
    assert state_objects(finished.site) == ["journal.jsonl"]


def state_objects(site: Site) -> list[str]:
    bucket, _, prefix = site.document["state"]["s3"].removeprefix("s3://").partition("/")
    found = site.closed.aws("s3").list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["Contents"]
    return sorted(one["Key"].removeprefix(f"{prefix}/") for one in found)


def test_lock_of_an_install_that_was_killed_after_its_last_write_goes_with_the_next_run(finished: Finished) -> None:
    """The answer to its last record is late by a lab's fault; nothing else is left to do."""
    site, closed = finished.site, finished.site.closed
    closed.helm("uninstall", "metrics-server", "--namespace=kube-system")
    progress = site.file.with_name("last")
    process = site.start(progress, "--progress", "json")
    eventually(lambda: '"phase": "add-ons"' in progress.with_suffix(".err").read_text())
    slow = {"service": "s3", "operation": "PutObject", "kind": "slow", "delay_s": 20, "times": 10}
    lab_control(closed.facts, "POST", "faults", slow)
    (journal,) = site.state.glob("eks-bundler/sites/*/journal.jsonl")
    eventually(lambda: json.loads(journal.read_text().splitlines()[-1])["step"] == "add-ons" and process.poll() is None)
    kill(list(descendants(process.pid)))
    process.wait()
    lab_control(closed.facts, "DELETE", "faults")
    assert state_objects(site) == ["journal.jsonl", "lock.json"]
    shown = json.loads(site.plan("-o", "json").stdout)
    assert [one["verb"] for one in shown["actions"]] == ["finish"]
    assert "Done: 1 change" in site.install().stdout
    assert state_objects(site) == ["journal.jsonl"]
    assert "Nothing to do" in site.install().stdout
