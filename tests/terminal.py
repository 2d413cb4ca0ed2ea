"""What people see: `bundle` in a terminal of 80 columns, and its output as docs/output keeps it.

`UPDATE_OUTPUT=1 pytest tests/…/test_output.py` writes docs/output anew; without it, every run is compared. What differs
from run to run (digests, folders, ports, times, rates) does not count; words, lines and columns do.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.journey import BUNDLE, Workspace, clean_environment

KEPT = Path(__file__).parents[1] / "docs" / "output"
COLUMNS = 80
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_ERASE = "\r\x1b[2K"
_VARIABLE = (
    (re.compile(r"sha256:[0-9a-f]{64}"), "sha256:…"),
    (re.compile(r"\b(?=[a-f]*[0-9])[0-9a-f]{12}\b"), "…12…"),
    (re.compile(r"/tmp/eks-[a-z0-9_]{8}"), "/tmp/eks-…"),
    (re.compile(r"\b\d+\.\d s\b|\b\d+ s\b(?= of at most| ago| \()|\b\d+:\d\d\b(?= of at most)"), "… s"),
    (re.compile(r"\b[0-9.]+ [kMG]?B/s"), "… B/s"),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:…"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "…T…Z"),
    (re.compile(r"\bi-[0-9a-f]{17}\b"), "i-…"),
    (re.compile(r"\bip(?:-\d+){4}\b"), "ip-…"),
    (re.compile(r" {2,}"), "  "),
)


@dataclass(frozen=True, kw_only=True)
class Printed:
    """What a command printed.

    Attributes:
        raw: as it came, with the terminal's control characters.
    """

    arguments: Sequence[str]
    code: int
    raw: str

    @property
    def lines(self) -> list[str]:
        """What stays on the screen, colours taken away."""
        text = _STYLE.sub("", self.raw).replace("\r\n", "\n")
        return [line.rpartition(_ERASE)[2].rstrip() for line in text.split("\n")]

    @property
    def frames(self) -> list[str]:
        """Every state that a living line had."""
        text = _STYLE.sub("", self.raw).replace("\r\n", "\n")
        return [frame for line in text.split("\n") for frame in line.split(_ERASE)[1:] if frame]

    @property
    def transcript(self) -> str:
        """Command, what stays on the screen, exit code."""
        shown = "\n".join([f"$ bundle {' '.join(self.arguments)}", *self.lines]).rstrip()
        return shown + "\n" + (f"[exit {self.code}]\n" if self.code else "")


def on_a_terminal(place: Workspace, *arguments: str, typed: str = "", **more: str) -> Printed:
    """Run `bundle` in a terminal of 80 by 24, which types `typed`."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [*BUNDLE, *arguments],
        cwd=place.folder,
        env=_environment(place, {"TERM": "xterm", **more}),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    if typed:
        os.write(master, typed.encode())
    raw = _read_all(master)
    return Printed(arguments=arguments, code=process.wait(60), raw=raw)


def without_a_terminal(place: Workspace, *arguments: str, **more: str) -> Printed:
    """Run `bundle` as a CI job does: both streams into one pipe."""
    done = subprocess.run(
        [*BUNDLE, *arguments],
        cwd=place.folder,
        env=_environment(place, more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    return Printed(arguments=arguments, code=done.returncode, raw=done.stdout)


def _environment(place: Workspace, more: Mapping[str, str]) -> dict[str, str]:
    """A home of its own, so that nothing of this machine's user is read or shown."""
    home = {"HOME": str(place.folder), "XDG_STATE_HOME": str(place.folder / "state")}
    return {**clean_environment(), **home, **place.environment, **more}


def _read_all(master: int) -> str:
    content = b""
    try:
        while chunk := os.read(master, 1 << 16):
            content += chunk
    except OSError:  # how a terminal ends on Linux: nobody holds its other side any more
        pass
    os.close(master)
    return content.decode()


def normal(text: str) -> str:
    """Return `text` without what differs from run to run."""
    for pattern, same in _VARIABLE:
        text = pattern.sub(same, text)
    return text


def keep(name: str, text: str) -> None:
    """Compare with docs/output/NAME.txt; with UPDATE_OUTPUT write it where it says something else."""
    path = KEPT / f"{name}.txt"
    known = path.read_text(encoding="utf-8") if path.exists() else ""
    if os.environ.get("UPDATE_OUTPUT") and normal(known) != normal(text):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        known = text
    assert normal(text) == normal(known), f"{path} tells something else: look at it, then UPDATE_OUTPUT=1"
