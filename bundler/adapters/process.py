"""The one door through which programs are started: a list, a deadline, bounded output, an environment of its own."""

from __future__ import annotations

import os
import re
import resource
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from bundler.errors import LimitError, MissingToolError, ProgramError

MAX_OUTPUT_BYTES = 64 << 20
GRACE_S = 5.0
"""Seconds between asking a program to stop and killing it: Helm uses them to record that a release failed."""
TAIL_CHARACTERS = 1000
_CHUNK_BYTES = 1 << 16
_TICK_S = 1.0
_Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.?")


class TimedOutError(ProgramError):
    """The program did not end in time, and was stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a program is asked to stop.

    Attributes:
        grace_s: seconds between asking and killing.
        leader_only: ask the program itself and not what it started; it ends its children in order.
    """

    grace_s: float = GRACE_S
    leader_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A program that ended by itself; a negative `returncode` is the signal that ended it."""

    program: str
    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def tail(self) -> str:
        """The end of what it said, safe to print: stderr, or stdout where stderr is empty."""
        return visible_tail(self.stderr if self.stderr.strip() else self.stdout)

    def error(self, subject: str) -> ProgramError:
        """Return the error that says how the program failed on `subject`."""
        how = f"was killed by signal {-self.returncode}" if self.returncode < 0 else f"ended with {self.returncode}"
        return ProgramError(subject, f"{self.program} {how}: {self.tail or 'it said nothing'}")


def run(  # noqa: PLR0913 - each is one property of a process; a record for them would only move the list
    argv: Sequence[str],
    *,
    timeout_s: float,
    input: bytes | None = None,  # noqa: A002 - the word that subprocess.run uses for it
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    max_output_bytes: int = MAX_OUTPUT_BYTES,
    max_memory_bytes: int | None = None,
    tick: Callable[[float], None] | None = None,
    on_line: Callable[[bytes], None] | None = None,
    ending: Ending = Ending(),
    keep_open: Sequence[int] = (),
) -> Completed:
    """Run a program to its end and return what it said, whatever its return code.

    It gets a session of its own; at the deadline, on too much output and on any exception here (Ctrl-C) the whole
    group is asked to stop and then killed, so nothing it started outlives this call.

    Args:
        argv: program and arguments; never a shell line. Secrets do not belong here: every user can read it.
        timeout_s: seconds until it is stopped.
        input: its standard input; empty when None.
        env: its whole environment; None means PATH and LANG=C.UTF-8 alone.
        cwd: its working folder.
        max_output_bytes: most that stdout and stderr may hold, each.
        max_memory_bytes: most writable memory that it, and each program it starts, may ask the kernel for. Address
            space is no measure: Go reserves gigabytes of it.
        tick: told about once a second how many seconds it runs; what it raises stops the program.
        on_line: told each line of stdout when it is whole, without its end; what it raises stops the program.
        ending: how it is asked to stop; while it ends, its output is read on.
        keep_open: handles that it and its children hold, too: a lock on one of them lasts as long as any of us.

    Raises:
        MissingToolError: there is no such program, or it cannot be run here.
        TimedOutError: it did not end in time.
        LimitError: it wrote more than allowed.
    """
    with _HeldSignals() as held:
        process = _start(argv, env, cwd, keep_open)
    try:
        with closing(_Conversation(process, input or b"", max_output_bytes, on_line)) as conversation:
            try:
                held.deliver()
                _limit_memory(process, max_memory_bytes)
                conversation.hold(timeout_s, tick or _untold, ending)
            except BaseException:
                conversation.stop(ending)
                raise
    except BaseException:
        _kill(process)
        raise
    finally:
        _reap(process)
    return Completed(
        program=_name(process),
        returncode=process.returncode,
        stdout=bytes(conversation.stdout),
        stderr=bytes(conversation.stderr),
    )


def visible_tail(output: bytes) -> str:
    """Return the end of a program's output on one line, without anything that could move a terminal's cursor."""
    text = _ESCAPES.sub("", output[-4 * TAIL_CHARACTERS :].decode("utf-8", "replace"))
    lines = ("".join(char if char.isprintable() else " " for char in line).strip() for line in text.splitlines())
    joined = " | ".join(line for line in lines if line)
    return joined if len(joined) <= TAIL_CHARACTERS else "…" + joined[-TAIL_CHARACTERS:]


def _start(
    argv: Sequence[str], env: Mapping[str, str] | None, cwd: Path | None, keep_open: Sequence[int]
) -> subprocess.Popen[bytes]:
    minimal = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}
    try:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=minimal if env is None else dict(env),
            cwd=cwd,
            pass_fds=tuple(keep_open),
            start_new_session=True,
        )
    except OSError as error:
        name = Path(argv[0]).name
        if cwd is not None and not cwd.is_dir():
            raise MissingToolError(name, f"cannot be run: the folder {cwd} does not exist") from error
        if isinstance(error, FileNotFoundError):
            raise MissingToolError(name, f"is not installed ({argv[0]})") from error
        raise MissingToolError(name, f"cannot be run: {error.strerror}") from error


class _HeldSignals:
    """Keeps Ctrl-C and SIGTERM until a program that is just starting can be stopped by them.

    Without it, one that comes between fork and the return of Popen leaves a program that nobody knows of. Only the
    main thread is ever interrupted, so nothing is held in others.
    """

    def __init__(self) -> None:
        self._came: list[int] = []
        self._before: dict[signal.Signals, _Handler] = {}

    def __enter__(self) -> _HeldSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            if not callable(signal.getsignal(number)):
                continue  # ignored, or fatal at once
            with suppress(ValueError):  # not the main thread
                self._before[number] = signal.signal(number, lambda number, _: self._came.append(number))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is not None:
            self.deliver()

    def deliver(self) -> None:
        """Let what came take its course."""
        for number in self._came:
            signal.raise_signal(number)


class _Conversation:
    """Feeds a process and collects what it says, without threads."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        feed: bytes,
        limit: int,
        on_line: Callable[[bytes], None] | None,
    ) -> None:
        self.stdout, self.stderr = bytearray(), bytearray()
        self._on_line = on_line
        self._told = 0
        self._is_stopping = False
        self._process = process
        self._feed = memoryview(feed)
        self._limit = limit
        self._selector = selectors.DefaultSelector()
        for pipe, buffer in ((process.stdout, self.stdout), (process.stderr, self.stderr)):
            self._watch(pipe, selectors.EVENT_READ, buffer)
        self._watch(process.stdin, selectors.EVENT_WRITE, None)

    def hold(self, timeout_s: float, tick: Callable[[float], None], ending: Ending) -> None:
        """Talk until the process has ended and its pipes are closed.

        Raises:
            TimedOutError: it did not within `timeout_s`; it has been asked to stop and given its moment.
            LimitError: it wrote too much.
        """
        if self._until(timeout_s, tick):
            return
        self.stop(ending)
        said = visible_tail(bytes(self.stderr or self.stdout)) or "it said nothing"
        raise TimedOutError(_name(self._process), f"did not end within {timeout_s:g} s and was stopped: {said}")

    def close(self) -> None:
        """Watch no longer; the pipes are the process's."""
        self._selector.close()

    def stop(self, ending: Ending) -> None:
        """Ask the program to end, read what it says while it does, then kill whatever is left of its group.

        A second interrupt cuts its moment short.
        """
        self._on_line, self._is_stopping = None, True
        try:
            if not _has_ended(self._process):
                _ask_to_end(self._process, ending)
                self._until(ending.grace_s, _untold)
        finally:
            _kill(self._process)

    def _until(self, limit_s: float, tick: Callable[[float], None]) -> bool:
        ended, begun, told_s = False, time.monotonic(), 0.0
        while self._selector.get_map() or not ended:
            elapsed_s = time.monotonic() - begun
            if elapsed_s >= limit_s:
                return False
            if elapsed_s >= told_s + _TICK_S:
                told_s = elapsed_s
                tick(elapsed_s)
            for key, _ in self._selector.select(0.2 if self._selector.get_map() else 0):
                self._write(key.fd) if key.data is None else self._read(key.fd, key.data)
            if not self._selector.get_map() and not ended:
                time.sleep(0.005)
            if not ended and _has_ended(self._process):
                ended = True
                _kill(self._process)  # what it left behind would hold the pipes open
        return True

    def _watch(self, pipe: IO[bytes] | None, event: int, buffer: bytearray | None) -> None:
        if pipe is not None:
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe.fileno(), event, buffer)

    def _write(self, handle: int) -> None:
        with suppress(BlockingIOError):
            try:
                self._feed = self._feed[os.write(handle, self._feed[:_CHUNK_BYTES]) if self._feed else 0 :]
            except BrokenPipeError:
                self._feed = self._feed[:0]
        if not self._feed and self._process.stdin is not None:
            self._selector.unregister(handle)
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def _read(self, handle: int, buffer: bytearray) -> None:
        chunk = os.read(handle, _CHUNK_BYTES)
        if not chunk:
            self._selector.unregister(handle)
        buffer += chunk
        if buffer is self.stdout and self._on_line is not None:
            self._tell(self._on_line)
        if len(buffer) <= self._limit:
            return
        if not self._is_stopping:
            raise LimitError(_name(self._process), f"wrote more than {self._limit} bytes and was stopped")
        del buffer[: self._limit // 2]  # nobody asks for it any more

    def _tell(self, on_line: Callable[[bytes], None]) -> None:
        """Tell the lines that have become whole."""
        while (end := self.stdout.find(b"\n", self._told)) >= 0:
            line = bytes(self.stdout[self._told : end])
            self._told = end + 1
            on_line(line)


def _untold(elapsed_s: float) -> None:
    del elapsed_s


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended; it stays unreaped, so that its group's number cannot be given to anybody else."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _limit_memory(process: subprocess.Popen[bytes], most_bytes: int | None) -> None:
    if most_bytes is not None:
        with suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (most_bytes, most_bytes))


def _ask_to_end(process: subprocess.Popen[bytes], ending: Ending) -> None:
    if ending.leader_only:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    else:
        _signal(process, signal.SIGTERM)


def _kill(process: subprocess.Popen[bytes]) -> None:
    _signal(process, signal.SIGKILL)


def _name(process: subprocess.Popen[bytes]) -> str:
    args = process.args
    return Path(str(args[0] if isinstance(args, list) else args)).name


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
