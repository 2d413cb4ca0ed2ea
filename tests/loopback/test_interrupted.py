"""Ctrl-C and SIGTERM while `bundle` works or waits: it ends soon, says that work is kept, and the next run finishes."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bundler.lab.faults import Fault, Faults
from bundler.lab.lab import LabFacts
from bundler.lab.plain import plain_registry
from bundler.lab.tools import Tools
from tests.journey import Workspace, definition, heavy_definition, workspace
from tests.peers import lab_control

pytestmark = pytest.mark.loopback
MIB = 1 << 20
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
SOON_S = 5.0
both = pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture(scope="module")
def place(lab: LabFacts, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a lock and an archive of 400 MiB, nearly all in one layer."""
    folder = tmp_path_factory.mktemp("interrupted")
    made = workspace(folder, lab, heavy_definition(folder, 400 * MIB, layers=1))
    made.environment = {**made.environment, "AWS_ENDPOINT_URL": lab.aws_url}
    made.build()
    return made


@pytest.fixture(autouse=True)
def no_faults(lab: LabFacts) -> Iterator[None]:
    yield
    lab_control(lab, "DELETE", "faults")


def interrupt(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Ctrl-C reaches the whole process group, SIGTERM the process; it must end soon and say the right words."""
    sent = time.monotonic()
    (os.killpg if number is signal.SIGINT else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - sent < SOON_S
    told = " ".join(said.decode().split())
    assert process.returncode == CODES[number], told
    assert "safe: Finished work is kept. next: Run the same command again." in told
    assert "Traceback" not in told
    assert told.count("next:") == 1


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    while not condition():
        assert process.poll() is None
        time.sleep(0.01)


@both
def test_build_ends_within_one_large_layer_and_goes_on_with_the_next_run(
    place: Workspace, number: signal.Signals, tmp_path: Path
) -> None:
    wanted = digest_of(place.folder / "heavy-1.tar")
    process = place.start("build", "--key", "keys/bundle.key", "--out", str(tmp_path), stderr=subprocess.PIPE)
    partial = tmp_path / "heavy-1.tar.partial"
    wait_for(lambda: partial.exists() and written(process) > 100 * MIB, process)
    interrupt(process, number)
    assert [path.name for path in tmp_path.iterdir()] == [partial.name]
    place.bundle("build", "--key", "keys/bundle.key", "--out", str(tmp_path))
    assert digest_of(tmp_path / "heavy-1.tar") == wanted
    assert not partial.exists()


def written(process: subprocess.Popen[bytes]) -> int:
    """How many bytes a process has written so far, anywhere."""
    found = re.search(r"wchar: (\d+)", Path(f"/proc/{process.pid}/io").read_text())
    return int(found[1]) if found else 0


@both
def test_push_ends_while_the_registry_keeps_it_waiting(
    place: Workspace, number: signal.Signals, tmp_path: Path
) -> None:
    faults = Faults()
    faults.plan(Fault(service="source", operation="StartUpload", kind="slow", times=99, delay_s=20))
    with plain_registry(tmp_path, faults=faults) as url:
        address = f"{url.removeprefix('http://')}/team"
        process = place.start("push", "heavy-1.tar", address, "--trust", "trust", stderr=subprocess.PIPE)
        log = tmp_path / "requests.jsonl"
        wait_for(lambda: log.exists() and log.read_text().count('"HEAD"') > 3, process)
        time.sleep(0.5)
        interrupt(process, number)


@both
def test_ship_ends_while_s3_keeps_it_waiting(place: Workspace, lab: LabFacts, number: signal.Signals) -> None:
    slow = {"service": "s3", "operation": "UploadPart", "kind": "slow", "nth": 5, "times": 99, "delay_s": 20}
    lab_control(lab, "POST", "faults", slow)
    address = f"s3://{lab.bucket}/interrupted-{number.name}"
    process = place.start("ship", "heavy-1.tar", address, stderr=subprocess.PIPE)
    before = lab.requests_file.read_text().count('"UploadPart"')
    wait_for(lambda: lab.requests_file.read_text().count('"UploadPart"') >= before + 4, process)
    time.sleep(0.5)
    interrupt(process, number)


@both
def test_lock_ends_while_upstream_keeps_it_waiting(
    lab: LabFacts, tools: Tools, number: signal.Signals, tmp_path: Path
) -> None:
    slow = {"service": "source", "operation": "GetManifest", "kind": "slow", "times": 99, "delay_s": 20}
    lab_control(lab, "POST", "faults", slow)
    fresh = workspace(tmp_path, lab, definition(tools))
    process = fresh.start("lock", stderr=subprocess.PIPE)
    time.sleep(2)
    interrupt(process, number)
    assert not (tmp_path / "bundle.lock.json").exists()
