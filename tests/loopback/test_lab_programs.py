"""Programs of the lab with real processes: nothing outlives the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.errors import MissingToolError, TargetError
from bundler.lab.programs import Programs

pytestmark = pytest.mark.loopback
OWNER = """
import sys, time
from pathlib import Path
from bundler.lab.programs import Programs
programs = Programs(Path(sys.argv[1]))
# a program that ignores SIGTERM and has a child in a session of its own
programs.start("stubborn", ["sh", "-c", "trap '' TERM; setsid sleep 300 & echo $! $$; wait"])
print("started", flush=True)
time.sleep(300)
"""


def eventually(what: Callable[[], bool], *, limit_s: float = 10) -> bool:
    ends = time.monotonic() + limit_s
    while not what():
        if time.monotonic() > ends:
            return False
        time.sleep(0.05)
    return True


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def pids(log: Path) -> list[int]:
    assert eventually(lambda: len(log.read_text().split()) == 2)
    return [int(word) for word in log.read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_programs_end_when_their_owner_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    argv = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "started\n"
        started = pids(tmp_path / "stubborn.log")
        assert all(alive(pid) for pid in started)
        os.kill(owner.pid, number)
        owner.wait(timeout=10)
        assert eventually(lambda: not any(alive(pid) for pid in started))


def test_stop_ends_programs_and_what_they_started(tmp_path: Path) -> None:
    programs = Programs(tmp_path)
    programs.start("stubborn", ["sh", "-c", "trap '' TERM; setsid sleep 300 & echo $! $$; wait"])
    started = pids(tmp_path / "stubborn.log")
    programs.stop()
    assert not any(alive(pid) for pid in started)


def test_program_that_ends_before_it_is_ready_is_shown_with_its_last_words(tmp_path: Path) -> None:
    programs = Programs(tmp_path)
    programs.start("part", ["sh", "-c", "echo no such flag >&2; exit 3"])
    try:
        with pytest.raises(TargetError, match="ended with 3 before it was ready\nno such flag"):
            programs.wait_until("part", lambda: False, deadline=time.monotonic() + 10)
        assert programs.ended() == ["part"]
    finally:
        programs.stop()


def test_program_that_is_not_ready_in_time_is_shown_with_its_last_words(tmp_path: Path) -> None:
    programs = Programs(tmp_path)
    programs.start("part", ["sh", "-c", "echo waiting for etcd; exec sleep 300"])
    try:
        assert eventually(lambda: "etcd" in programs.log_tail("part"))
        with pytest.raises(TargetError, match="did not become ready in time\nwaiting for etcd"):
            programs.wait_until("part", lambda: False, deadline=time.monotonic() + 0.2)
    finally:
        programs.stop()


def test_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    programs = Programs(tmp_path)
    with pytest.raises(MissingToolError, match="/nonexistent"):
        programs.start("part", ["/nonexistent"])
    programs.stop()
