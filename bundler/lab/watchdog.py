"""Ends what a process started when that process is gone, however it went: `kill -9` included.

Run as a program, standard library only: `python -I watchdog.py MARK`. It waits until its standard input ends, which
the kernel sees to when the other side dies, then kills every process that carries MARK in its environment.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

VARIABLE = "EKS_BUNDLER_LAB_MARK"
_SWEEPS = 3
_PAUSE_S = 0.1  # a process between fork and exec is seen in the next sweep


def marked(mark: str) -> list[int]:
    """Return the processes that carry the mark, but for this one."""
    wanted = f"{VARIABLE}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def kill_marked(mark: str) -> None:
    """Kill them, without a farewell: nothing the lab keeps is meant to last."""
    for process in marked(mark):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)


def main(mark: str) -> None:
    """Wait for the end of standard input, then clean up."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    sys.stdin.buffer.read()
    for _ in range(_SWEEPS):
        kill_marked(mark)
        time.sleep(_PAUSE_S)


if __name__ == "__main__":
    main(sys.argv[1])
