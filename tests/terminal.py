"""What people see: `bundle` in a terminal of 80 columns, and its output as docs/output keeps it.

`UPDATE_OUTPUT=1 pytest tests/…/test_output.py` writes docs/output anew; without it, every run is compared. What differs
from run to run (digests, folders, ports, times, rates) does not count; words, lines and columns do.
"""

from __future__ import annotations

import difflib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bundler.lab.lab import LabFacts
from bundler.lab.tools import Tools
from tests.journey import BUNDLE, Workspace, clean_environment

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs" / "output"
COLUMNS = 80
_ATTACH = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
_STYLE = re.compile(r"\x1b\[[0-9;]*m|\x1b\[1A\x1b\[2K")  # a living line of two rows is one frame
_ERASE = "\r\x1b[2K"
Variable = tuple[re.Pattern[str], str]
_VARIABLE: tuple[Variable, ...] = (
    (re.compile(r"(?:  waiting for .*\n(?:    .*\n)*)+"), ""),
    (re.compile(r"(?:  again in .*\n(?:    .*\n)*)+"), "  again in …\n"),  # how often is a matter of chance
    (re.compile(r"  verify  .* in .*\n(?=Digest error)"), ""),  # whether anything was right before it
    (re.compile(r"sha256:[0-9a-f]{64}"), "sha256:…"),
    (re.compile(r"\b(?=[a-f]*[0-9])[0-9a-f]{12}\b"), "…12…"),
    (re.compile(r"/tmp/eks-[a-z0-9_]{8}"), "/tmp/eks-…"),
    (
        re.compile(r"\b\d+\.\d s\b|(?<= after )\d+ s\b|\b\d+ s\b(?= of at most| ago| \()|\b\d+:\d\d\b(?= of at most)"),
        "… s",
    ),
    (re.compile(r"\b[0-9.]+ [kMG]?B/s"), "… B/s"),
    (re.compile(r"\b[0-9.]+ [kMG]?B(?= in … s)"), "… B"),  # how far it came before it failed
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:…"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "…T…Z"),
    (re.compile(r"\b(i|ami)-[0-9a-f]{17}\b"), r"\1-…"),
    (re.compile(r"(?<=aws:///eu-central-1)[ab]\b"), "…"),  # which node is named first
    (re.compile(r"\bip(?:-\d+){4}\b"), "ip-…"),
    (re.compile(r"(?<=\S) {2,}"), "  "),  # columns follow the longest cell; indentation counts
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


@contextmanager
def home(facts: LabFacts, tools: Tools) -> Iterator[Workspace]:
    """The folder of somebody who builds closed-minimal in the lab; its name always has the same length."""
    with tempfile.TemporaryDirectory(prefix="eks-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "tools").mkdir()
        (folder / "tools" / "helm").symlink_to(tools.helm4.path)
        (folder / "tools" / "kubectl").symlink_to(tools.kubectl.path)
        text = (ROOT / "bundles" / "closed-minimal" / "bundle.lab.yaml").read_text(encoding="utf-8")
        (folder / "bundle.yaml").write_text(text.replace("../../.cache/tools/", "tools/"), encoding="utf-8")
        own = {
            "HOME": name,
            "XDG_STATE_HOME": f"{name}/state",
            "BUNDLE_CACHE_DIR": f"{name}/cache",
            "AWS_ENDPOINT_URL": facts.aws_url,
            "SOURCE_DATE_EPOCH": "1700000000",
        }
        yield Workspace(folder=folder, environment={**facts.environment(), **own})


def on_a_terminal(
    place: Workspace,
    *arguments: str,
    prompt: str = "",
    typed: str | Callable[[], str] = "",
    expect: int = 0,
    **more: str,
) -> Printed:
    """Run `bundle` in a terminal of 80 by 24; at each `prompt`, `typed` (or what it gives) is typed."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", _ATTACH, *BUNDLE, *arguments],
        cwd=place.folder,
        env={**clean_environment(), **place.environment, "TERM": "xterm", **more},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    answer = (lambda: typed) if isinstance(typed, str) else typed
    raw = _converse(master, prompt.encode(), answer)
    os.close(master)
    printed = Printed(arguments=arguments, code=process.wait(60), raw=raw)
    assert printed.code == expect, printed.transcript
    return printed


def without_a_terminal(place: Workspace, *arguments: str, expect: int = 0, **more: str) -> Printed:
    """Run `bundle` as a CI job does: both streams into one pipe."""
    done = subprocess.run(
        [*BUNDLE, *arguments],
        cwd=place.folder,
        env={**clean_environment(), **place.environment, **more},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    printed = Printed(arguments=arguments, code=done.returncode, raw=done.stdout)
    assert printed.code == expect, printed.transcript
    return printed


def _converse(master: int, prompt: bytes, answer: Callable[[], str]) -> str:
    content, answered = b"", 0
    with suppress(OSError):  # how a terminal ends on Linux: nobody holds its other side any more
        while chunk := os.read(master, 1 << 16):
            content += chunk
            if prompt and content.count(prompt) > answered:
                answered += 1
                os.write(master, answer().encode())
    return content.decode()


def normal(text: str, more: Sequence[Variable] = ()) -> str:
    """Return `text` without what differs from run to run, and without what differs by `more`."""
    for pattern, same in (*_VARIABLE, *more):
        text = pattern.sub(same, text)
    return text


def keep(name: str, *parts: Printed | str, variable: Sequence[Variable] = (), ordered: bool = True) -> None:
    """Compare with docs/output/NAME.txt; with UPDATE_OUTPUT write it where it says something else.

    Args:
        name: of the file, without its ending.
        parts: what was printed.
        variable: what else differs from run to run or from machine to machine.
        ordered: whether the order of the lines counts; it does not where two things go on side by side.
    """
    text = "\n".join(part if isinstance(part, str) else part.transcript for part in parts)
    path = KEPT / f"{name}.txt"
    known = path.read_text(encoding="utf-8") if path.exists() else ""
    if name.startswith("error-"):
        assert re.search(r"^  cause: .*^  safe:  .*^  next:  ", text, re.MULTILINE | re.DOTALL), text
    if os.environ.get("UPDATE_OUTPUT") and normal(known, variable) != normal(text, variable):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        known = text
    before, now = (normal(one, variable).splitlines() for one in (known, text))
    if not ordered:
        before, now = sorted(before), sorted(now)
    changes = "\n".join(difflib.unified_diff(before, now, lineterm=""))
    assert not changes, f"{path} tells something else: look at it, then UPDATE_OUTPUT=1\n{changes}"


@contextmanager
def faults(lab: LabFacts, **fault: object) -> Iterator[None]:
    """Hold around what shall meet a fault of the lab."""
    url = f"{lab.aws_url}/_lab/faults"
    urllib.request.urlopen(urllib.request.Request(url, data=json.dumps(fault).encode()), timeout=10).close()
    try:
        yield
    finally:
        urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=10).close()
