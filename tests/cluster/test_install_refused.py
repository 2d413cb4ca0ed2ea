"""`bundle install` where it cannot work: exit code, object, cause and fix of each; nothing is written."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bundler.lab.kubernetes import free_ports
from tests.closed import NODE_ROLE, Closed, Site, Writes, descendants, eventually, kill
from tests.journey import Workspace
from tests.peers import lab_control

pytestmark = [pytest.mark.cluster, pytest.mark.loopback]


@pytest.fixture(scope="module")
def site(closed: Closed) -> Site:
    """An empty site that everything is refused for."""
    return closed.site("refused", "closed-minimal-1.tar")


@contextmanager
def nothing_is_written(site: Site) -> Iterator[None]:
    writes = Writes(site.closed.facts)
    yield
    assert writes.seen() == []


def flat(done: subprocess.CompletedProcess[str]) -> str:
    """What it said, without line breaks."""
    return " ".join(done.stderr.split())


# --- the command line and the site file


def test_without_a_terminal_and_yes_nothing_begins(site: Site) -> None:
    with nothing_is_written(site):
        done = site.place.bundle(*site.arguments(), expect=2)
    assert "there is no terminal to ask" in flat(done)
    assert "Give --yes" in flat(done)


def test_plan_of_an_empty_site_shows_every_change_and_ends_with_10(site: Site) -> None:
    with nothing_is_written(site):
        done = site.plan("--exit-code", expect=10)
    for line in (
        "create repository refused/registry.k8s.io/pause (immutable tags)",
        "install release kube-system/aws-vpc-cni (not installed)",
        "create launch template lab-main",
        "create Auto Scaling group lab-main (min 1, max 4, desired 2)",
    ):
        assert f"  {line}\n" in done.stdout
    assert "29 changes; 0 objects are right already." in done.stdout


@pytest.mark.parametrize("fact", ["endpoint", "certificateAuthority", "serviceCidr"])
def test_site_file_without_a_fact_of_the_cluster_is_refused_with_its_place(site: Site, fact: str) -> None:
    known = {key: value for key, value in site.document["cluster"].items() if key != fact}
    lacking = site.with_changes("lacking.yaml", cluster=known)
    with nothing_is_written(site):
        done = lacking.install(expect=2)
    assert re.search(rf"lacking\.yaml:\d+:\d+.*{fact}", flat(done))


def test_site_file_without_a_cluster_is_refused_with_its_place(site: Site) -> None:
    done = site.with_changes("lacking.yaml", cluster=None).install(expect=2)
    assert re.search(r"lacking\.yaml:\d+:\d+.*cluster", flat(done))


# --- trust


def test_without_an_accepted_trust_root_nothing_is_read(site: Site) -> None:
    untrusted = [word.replace("trust", "nowhere") if word == "trust" else word for word in site.arguments("--yes")]
    with nothing_is_written(site):
        done = site.place.bundle(*untrusted, expect=3)
    assert "bundle trust accept trust.json --expect sha256:" in flat(done)


def test_archive_of_another_signer_is_refused(site: Site, tmp_path: Path) -> None:
    other = Workspace(folder=tmp_path, environment=site.place.environment)
    other.make_trust()
    arguments = [str(tmp_path / "trust") if word == "trust" else word for word in site.arguments("--yes")]
    with nothing_is_written(site):
        done = site.place.bundle(*arguments, expect=3)
    assert "Signature" in done.stderr


def test_archive_that_was_cut_is_refused(site: Site, tmp_path: Path) -> None:
    cut = tmp_path / "cut.tar"
    with (site.place.folder / site.archive).open("rb") as whole:
        cut.write_bytes(whole.read(40_000_000))
    with nothing_is_written(site):
        done = replace(site, archive=str(cut)).install(expect=3)
    assert str(cut) in done.stderr.replace("\n         ", "")


def test_damaged_blob_is_refused_before_its_upload_closes(site: Site, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.tar"
    subprocess.run(["cp", "--reflink=auto", str(site.place.folder / site.archive), str(damaged)], check=True)
    with damaged.open("r+b") as out:
        out.seek(-2_000_000, os.SEEK_END)
        out.write(b"\0" * 4096)
    done = replace(site, archive=str(damaged)).install(expect=3)
    assert "Digest" in done.stderr
    found = re.search(r"blobs/sha256/([0-9a-f]{64})", "".join(done.stderr.split()))
    assert found
    ecr = site.closed.aws("ecr")
    names = [one["repositoryName"] for one in ecr.describe_repositories(maxResults=1000)["repositories"]]
    ours = [name for name in names if name.startswith(f"{site.prefix}/")]
    held = {name: ecr.list_images(repositoryName=name)["imageIds"] for name in ours}
    for name in ours:
        ecr.delete_repository(repositoryName=name, force=True)
    users = repositories_with(f"sha256:{found[1]}", site)
    assert users
    assert [held.get(name, []) for name in users] == [[] for _ in users], "the tag of an image comes last"


def repositories_with(digest: str, site: Site) -> list[str]:
    """Where the images go that hold a blob."""
    lock = json.loads((site.place.folder / "bundle.lock.json").read_text())
    return [
        f"{site.prefix}/{image['reference'].rpartition(':')[0]}"
        for image in lock["images"]
        if any(blob["digest"] == digest for manifest in image["manifests"] for blob in manifest["blobs"])
    ]


# --- what is not there, or not ours


def test_registry_without_repositories_is_named_where_the_site_forbids_making_them(site: Site) -> None:
    settings = {**site.document["registry"], "createRepositories": False, "prefix": "forbidden"}
    with nothing_is_written(site):
        done = site.with_changes("forbidden.yaml", registry=settings).install(expect=7)
    assert done.stderr.count("aws ecr create-repository --region eu-central-1 --repository-name forbidden/") == 11
    assert "createRepositories: false" in flat(done)


def test_access_entry_of_another_type_is_not_touched(site: Site) -> None:
    eks = site.closed.aws("eks")
    eks.create_access_entry(clusterName="lab", principalArn=NODE_ROLE, type="STANDARD")
    try:
        with nothing_is_written(site):
            done = site.install(expect=7)
    finally:
        eks.delete_access_entry(clusterName="lab", principalArn=NODE_ROLE)
    assert f"access entry {NODE_ROLE}" in flat(done)
    assert "is of type STANDARD; nodes need EC2_LINUX" in flat(done)


def test_everything_that_the_site_names_and_does_not_exist_is_named_at_once(site: Site) -> None:
    group = {**site.document["nodeGroups"][0], "ami": "ami-00000000000000000", "securityGroups": ["sg-00000000"]}
    wrong = site.with_changes("wrong.yaml", nodeGroups=[group], subnets=["subnet-00000000"])
    with nothing_is_written(site):
        done = wrong.install(expect=2)
    for name in ("ami-00000000000000000", "sg-00000000", "subnet-00000000"):
        assert f"{name}" in flat(done)


# --- the way there


def test_endpoint_that_answers_with_another_authority_is_refused(site: Site) -> None:
    other = base64.b64encode(site.closed.facts.ca_file.read_bytes()).decode()
    wrong = {**site.document["cluster"], "certificateAuthority": other}
    with nothing_is_written(site):
        done = site.with_changes("authority.yaml", cluster=wrong).install(expect=2)
    assert f"{wrong['endpoint']}" in flat(done)
    assert "certificateAuthority" in flat(done)


def test_every_endpoint_that_does_not_answer_is_named_at_once_with_its_fix(site: Site) -> None:
    closed = ("ec2", "sts", "autoscaling", "ecr.api")
    ports = dict(zip((*closed, "ecr.dkr"), free_ports(5), strict=True))
    urls: dict[str, Any] = {name: f"http://127.0.0.1:{ports[name]}" for name in closed}
    urls["ecr.dkr"] = f"127.0.0.1:{ports['ecr.dkr']}"
    unreachable = site.with_changes("unreachable.yaml", endpoints={**site.document["endpoints"], **urls})
    with nothing_is_written(site):
        started = time.monotonic()
        done = unreachable.install(expect=5)
    assert time.monotonic() - started < 30
    said = flat(done)
    for name in ("STS", "EC2", "Auto Scaling", "ECR API", "ECR registry"):
        assert name in said
    for port in ports.values():
        assert re.search(rf"127\.0\.0\.1(:| port ){port}\b", said)
    for service in ("sts", "ec2", "autoscaling", "ecr.api", "ecr.dkr"):
        assert f"an endpoint for {service} " in said


@contextmanager
def denied(site: Site, service: str, operation: str) -> Iterator[None]:
    fault = {"service": service, "operation": operation, "kind": "denied", "times": 1000}
    lab_control(site.closed.facts, "POST", "faults", fault)
    try:
        yield
    finally:
        lab_control(site.closed.facts, "DELETE", "faults")


@pytest.mark.parametrize(
    ("service", "operation"),
    [
        ("ec2", "DescribeVpcs"),
        ("autoscaling", "DescribeAutoScalingGroups"),
        ("ecr", "GetAuthorizationToken"),
        ("ecr", "DescribeRepositories"),
        ("eks", "DescribeCluster"),
        ("iam", "GetInstanceProfile"),
    ],
)
def test_denied_read_names_the_action_before_anything_is_written(site: Site, service: str, operation: str) -> None:
    with denied(site, service, operation), nothing_is_written(site):
        done = site.install(expect=4)
    assert f"{service}:{operation}" in flat(done)


def test_denied_write_names_the_action_and_a_later_run_goes_on(site: Site) -> None:
    with denied(site, "ecr", "CreateRepository"):
        done = site.install(expect=4)
    assert "ecr:CreateRepository" in flat(done)


# --- another operator


def test_second_operator_is_turned_away_while_the_first_one_works(site: Site, tmp_path: Path) -> None:
    """On another host by the lock in S3, on the same host by the state folder; the first one stands still meanwhile."""
    closed = site.closed
    s3 = closed.aws("s3")
    bucket, _, prefix = site.document["state"]["s3"].removeprefix("s3://").partition("/")

    def lock_is_held() -> bool:
        assert first.poll() is None, site.file.with_name("first.err").read_text()
        return bool(s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/lock.json")["KeyCount"])

    first = site.start(site.file.with_name("first"))
    try:
        eventually(lock_is_held)
        pids = list(descendants(first.pid))
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(1)  # for the answer to what it had asked by then
        elsewhere = replace(site.place, environment={**site.place.environment, "XDG_STATE_HOME": str(tmp_path)})
        writes = Writes(closed.facts)
        done = replace(site, place=elsewhere).install(expect=7)
        assert "is locked by " in flat(done)
        assert f"pid {first.pid}" in flat(done)
        here = site.install(expect=7)
        assert "another process on this host works on it" in flat(here)
        assert [one for one in writes.seen() if one != "s3 PutObject"] == []
    finally:
        kill(list(descendants(first.pid)))
        first.wait()
