"""A lab starts, is found, stops, and leaves nothing running, however it ends."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from bundler.errors import ConflictError, TargetError
from bundler.lab.lab import LabFacts, LabOptions, lab_down, lab_status, lab_up
from bundler.lab.request_log import read_requests
from tests.peers import boto_client

pytestmark = pytest.mark.loopback


@pytest.fixture
def up(tmp_path: Path) -> Iterator[LabFacts]:
    facts = lab_up(tmp_path / "lab", LabOptions(source=False), bound=True)
    yield facts
    lab_down(facts.state)


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int) -> None:
    ends = time.monotonic() + 20
    while is_alive(pid):
        assert time.monotonic() < ends, "still running"
        time.sleep(0.05)


def test_a_lab_is_found_by_its_folder_until_it_is_down(up: LabFacts) -> None:
    assert lab_status(up.state) == up
    lab_down(up.state)
    assert lab_status(up.state) is None
    assert not is_alive(up.pid)
    lab_down(up.state)


def test_facts_and_credentials_are_for_their_owner_alone(lab: LabFacts) -> None:
    for path in (lab.credentials_file, lab.state / "lab.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert lab.environment()["AWS_SHARED_CREDENTIALS_FILE"] == str(lab.credentials_file)
    assert not [name for name in lab.environment() if "ENDPOINT" in name]


def test_one_folder_has_one_lab(lab: LabFacts) -> None:
    with pytest.raises(ConflictError):
        lab_up(lab.state, LabOptions(source=False))
    assert lab_status(lab.state) == lab


def test_a_killed_lab_is_not_found_and_starts_again_empty(up: LabFacts) -> None:
    boto_client(up, "ecr").create_repository(repositoryName="before")
    os.kill(up.pid, signal.SIGKILL)
    os.waitpid(up.pid, 0)
    assert lab_status(up.state) is None
    again = lab_up(up.state, LabOptions(source=False), bound=True)
    assert boto_client(again, "ecr").describe_repositories()["repositories"] == []
    assert [line["operation"] for line in read_requests(again.requests_file)] == ["DescribeRepositories"]


def test_a_bound_lab_ends_with_whoever_started_it(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys\n"
        "from bundler.lab.lab import LabOptions, lab_up\n"
        "print(lab_up(pathlib.Path(sys.argv[1]), LabOptions(source=False), bound=True).pid, flush=True)\n"
        "os._exit(0)\n"
    )
    argv = [sys.executable, "-c", script, str(tmp_path / "lab")]
    done = subprocess.run(argv, capture_output=True, check=True, timeout=60)
    wait_until_gone(int(done.stdout))
    assert lab_status(tmp_path / "lab") is None


def test_a_lab_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="MissingToolError"):
        lab_up(tmp_path / "lab", LabOptions(source=False, kubernetes=True, assets=tmp_path / "nothing"))
    assert lab_status(tmp_path / "lab") is None


def test_nothing_of_a_secret_is_in_the_logs(lab: LabFacts) -> None:
    ecr = boto_client(lab, "ecr")
    token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    headers = {"Authorization": f"Basic {token}"}
    with urllib3.PoolManager(ca_certs=str(lab.ca_file)) as pool:
        assert pool.request("GET", f"https://{lab.ecr_address}/v2/", headers=headers).status == 200
    text = lab.requests_file.read_text() + "".join(path.read_text() for path in (lab.state / "logs").iterdir())
    secret = lab.credentials_file.read_text().split("aws_secret_access_key = ")[1].strip()
    assert token not in text
    assert secret not in text
    assert secret not in json.dumps(lab.environment())
