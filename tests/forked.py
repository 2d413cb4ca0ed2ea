"""`bundle` in a process of its own that starts at once: forked from one that has imported everything."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "bundler.cli.main",
        "bundler.cli.build",
        "bundler.cli.push",
        "bundler.stages.verify",
        "bundler.wiring.clients",
        "bundler.workflows.push",
        "tests.forked",
    ]
)


def start(arguments: list[str], *, folder: Path, environment: Mapping[str, str], said: Path) -> BaseProcess:
    """Start `bundle arguments`; what it says goes to the file `said`."""
    process = _context.Process(target=_run, args=(arguments, str(folder), dict(environment), str(said)), daemon=True)
    process.start()
    return process


def kill(process: BaseProcess) -> bool:
    """Kill -9; return whether it was still running."""
    running = process.is_alive()
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    return running and process.exitcode == -signal.SIGKILL


def _run(arguments: list[str], folder: str, environment: dict[str, str], said: str) -> None:
    from bundler.cli.main import main

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["bundle", *arguments]
    main(arguments)
