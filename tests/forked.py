"""`bundle` in a process of its own that starts at once: forked from one that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "bundler.cli.main",
        "bundler.cli.build",
        "bundler.cli.push",
        "bundler.cli.ship",
        "boto3.s3.inject",
        "bundler.adapters.archive_file",
        "bundler.adapters.aws.s3_store",
        "bundler.adapters.docker_credentials",
        "bundler.adapters.kept_uploads",
        "bundler.adapters.oci_registry",
        "bundler.archive.identity",
        "bundler.stages.verify",
        "bundler.wiring.clients",
        "bundler.workflows.push",
        "bundler.workflows.ship",
        "encodings.idna",
        "tests.forked",
    ]
)


def start(
    arguments: list[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    said: Path,
    constants: Mapping[str, int] | None = None,
    dies_at: int = 0,
) -> BaseProcess:
    """Start `bundle arguments`.

    Args:
        arguments: what follows `bundle`.
        folder: where it runs.
        environment: all of it.
        said: the file for what it says.
        constants: `module:NAME` -> another value.
        dies_at: it kills itself -9 at this step: they are what Python audits of files, and alike in each run.
    """
    given = (arguments, str(folder), dict(environment), str(said), dict(constants or {}), dies_at)
    process = _context.Process(target=_run, args=given, daemon=True)
    process.start()
    return process


def _run(
    arguments: list[str], folder: str, environment: dict[str, str], said: str, constants: dict[str, int], dies_at: int
) -> None:
    from bundler.cli.main import main

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for name, value in constants.items():
        module, _, constant = name.partition(":")
        setattr(import_module(module), constant, value)
    sys.argv = ["bundle", *arguments]
    _die_at(dies_at)
    main(arguments)


def _die_at(step: int) -> None:
    """Kill this process at its n-th step; 0 is never."""
    left = step

    def look(event: str, _: object) -> None:
        nonlocal left
        if event == "open" or event.startswith(("os.", "fcntl.")):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    if step:
        sys.addaudithook(look)
