"""Long-running programs of the lab: a log each, a session each, and none of them outlives us."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from bundler.errors import MissingToolError, TargetError
from bundler.lab import watchdog

_TAIL_LINES = 20
_TAIL_BYTES = 16 << 10
_POLL_S = 0.1


class Programs:
    """Starts programs, waits for them, and ends them all at once.

    A watchdog ends them too when this process dies without `stop`. (A parent-death signal would not do: the kernel
    sends it when the *thread* that started a program ends.)
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._mark = secrets.token_hex(16)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._watchdog: subprocess.Popen[bytes] | None = None

    def start(self, name: str, argv: Sequence[str]) -> None:
        """Start a program; what it says goes to `<logs>/<name>.log`.

        Raises:
            MissingToolError: it is not there, or cannot be run here.
        """
        if self._watchdog is None:
            self._watchdog = self._start_watchdog()
        with self._log(name).open("wb") as log:
            self._running[name] = self._spawn(argv, stdin=subprocess.DEVNULL, log=log.fileno())

    def wait_until(self, name: str, ready: Callable[[], bool], *, deadline: float) -> None:
        """Wait until `ready()`, at most to `deadline` (of time.monotonic).

        Raises:
            TargetError: the program ended, or was not ready in time; with the end of its log.
        """
        while not ready():
            code = self._running[name].poll()
            if code is not None:
                raise TargetError(name, f"ended with {code} before it was ready\n{self.log_tail(name)}")
            if time.monotonic() >= deadline:
                raise TargetError(name, f"did not become ready in time\n{self.log_tail(name)}")
            time.sleep(_POLL_S)

    def ended(self) -> list[str]:
        """Return the programs that have ended although nobody stopped them."""
        return [name for name, process in self._running.items() if process.poll() is not None]

    def log_tail(self, name: str) -> str:
        """Return the last lines of a program's log."""
        with suppress(FileNotFoundError), self._log(name).open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - _TAIL_BYTES))
            lines = log.read().decode("utf-8", "replace").splitlines()
            return "\n".join(lines[-_TAIL_LINES:])
        return ""

    def end(self, name: str, *, within_s: float) -> int:
        """Ask one program to stop, kill it and its session when it does not in time, and return what it ended with."""
        process = self._running.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM if within_s > 0 else signal.SIGKILL)
        try:
            return process.wait(within_s or None)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return process.wait()

    def stop(self) -> None:
        """Kill every program, and whatever each has started; none of them has anything worth a slow farewell."""
        watchdog.kill_marked(self._mark)
        for process in self._running.values():
            process.wait()
        self._running.clear()
        if self._watchdog is not None:
            assert self._watchdog.stdin is not None  # noqa: S101 - it is a pipe
            self._watchdog.stdin.close()
            self._watchdog.wait()
            self._watchdog = None

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _start_watchdog(self) -> subprocess.Popen[bytes]:
        with self._log("watchdog").open("wb") as log:
            argv = [sys.executable, "-I", watchdog.__file__, self._mark]
            return self._spawn(argv, stdin=subprocess.PIPE, log=log.fileno(), marked=False)

    def _spawn(self, argv: Sequence[str], *, stdin: int, log: int, marked: bool = True) -> subprocess.Popen[bytes]:
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "HOME": str(self._logs)}
        if marked:
            environment[watchdog.VARIABLE] = self._mark
        try:
            return subprocess.Popen(
                list(argv),
                stdin=stdin,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise MissingToolError(argv[0], f"cannot be run: {error.strerror}") from error
