"""Sides in turn, A B A B: medians, ratios of neighbours, and whether a limit is kept."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run happens: the stub's facts, what was prepared, and a folder of the run's own."""

    stub: Mapping[str, object]
    prepared: Path
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return str(self.stub["url"])


Command = Callable[[Place], Sequence[str]]
Verify = Callable[[Place, str], bool]
"""Whether the result of a run (its folder, what it printed) is right."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Who does the same: `command` is None where it is not installed.

    Attributes:
        must: the least ratio that we hold ourselves to.
        is_limit: it does nothing but what nobody can leave out.
        of_cpu: CPU seconds are compared, not those of the clock.
    """

    name: str
    version: str
    command: Command | None
    verify: Verify
    must: float | None = None
    is_limit: bool = False
    of_cpu: bool = False


Where = Callable[[Command], AbstractContextManager[Place]]
"""Makes the place of one run of a command, and takes it away."""


class Proof:
    """Runs in places where all bytes that come are hashed: one of each side, whatever the number of its peers."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._found: dict[Command, bool] = {}

    def holds(self, command: Command, verify: Verify) -> bool:
        """Whether a side's result is right there."""
        if command not in self._found:
            self._found[command] = _once(self._where, command, verify).verified
        return self._found[command]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One job, ours and the peers that do it.

    Attributes:
        where: makes the place of a run.
        limit_s: seconds of the slowest part that nobody can leave out, measured in this run of the bench when asked.
        moved: bytes that our run moved ÷ bytes of the corpus, from the place of the run.
        proof: where each side runs once before, and nobody's time counts.
    """

    name: str
    ours: Command
    verify: Verify
    peers: Sequence[Peer]
    where: Where
    limit_s: Callable[[], float] | None = None
    moved: Callable[[Place], float] | None = None
    proof: Proof | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """One process, from its start to its end."""

    seconds: float
    peak_mib: float
    verified: bool
    cpu_s: float = 0.0
    moved: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """What results.json says of ours against one peer.

    Attributes:
        ratio: the peer's median ÷ ours; None where the peer is missing.
        limit_ratio: the limit's seconds ÷ ours: 1 is the limit.
        our_peak_rss_mib: the most of all runs (VmHWM).
        verified: every run of both sides gave what it should.
        n: runs of each side.
        spread: lowest and highest ratio of two neighbours.
        must: the least ratio that we hold ourselves to.
        cpu_ratio: the same as `ratio`, of CPU seconds.
        moved: bytes on the wire ÷ bytes of the corpus, of ours.
        commit: that of the checkout.
        tree: git's name for the content of bundler/; None where some of it was not committed.
        date: when the row was done (UTC).
        size: how the corpus differed from that of a whole run; empty where it did not.
    """

    scenario: str
    peer: str
    peer_version: str
    ratio: float | None
    limit_ratio: float | None
    our_peak_rss_mib: float | None
    verified: bool
    n: int
    spread: tuple[float, float] | None
    must: float | None = None
    our_seconds: float | None = None
    peer_seconds: float | None = None
    our_cpu_seconds: float | None = None
    cpu_ratio: float | None = None
    moved: float | None = None
    machine: Mapping[str, object] = field(default_factory=dict)
    commit: str = ""
    tree: str | None = None
    date: str = ""
    size: str = ""

    @property
    def state(self) -> str:
        if self.ratio is None:
            return "missing"
        good = self.verified and (self.must is None or self.ratio >= self.must)
        return "PASS" if good else "FAIL"


def measure(scenario: Scenario, peer: Peer, *, n: int) -> Row:
    """Run ours and the peer in turn, `n` times each."""
    nothing = Row(
        scenario=scenario.name, peer=peer.name, peer_version=peer.version, ratio=None, limit_ratio=None,
        our_peak_rss_mib=None, verified=False, n=0, spread=None, must=peer.must, machine=machine(),
    )  # fmt: skip
    if peer.command is None:
        return nothing
    sides = (scenario.ours, scenario.verify), (peer.command, peer.verify)
    proven = scenario.proof is None or all(scenario.proof.holds(*side) for side in sides)
    ours: list[Run] = []
    theirs: list[Run] = []
    for _ in range(n):
        ours.append(_once(scenario.where, scenario.ours, scenario.verify, scenario.moved))
        theirs.append(_once(scenario.where, peer.command, peer.verify))
    row = summed_up(nothing, ours, theirs, of_cpu=peer.of_cpu)
    limit_s = row.peer_seconds if peer.is_limit else scenario.limit_s and scenario.limit_s()
    if limit_s is not None and row.our_seconds is not None:
        row = replace(row, limit_ratio=round(limit_s / row.our_seconds, 3))
    return replace(row, verified=row.verified and proven)


def _once(where: Where, command: Command, verify: Verify, moved: Callable[[Place], float] | None = None) -> Run:
    with where(command) as place:
        found = run(command(place), place, verify)
        return found if moved is None else replace(found, moved=moved(place))


def summed_up(row: Row, ours: Sequence[Run], theirs: Sequence[Run], *, of_cpu: bool = False) -> Row:
    """Return the row with what was measured."""
    seconds = {side: [each.seconds for each in runs] for side, runs in (("our", ours), ("peer", theirs))}
    cpu = {side: [each.cpu_s for each in runs] for side, runs in (("our", ours), ("peer", theirs))}
    compared = cpu if of_cpu else seconds
    ratios = [their / our for our, their in zip(compared["our"], compared["peer"], strict=True)]
    moved = [each.moved for each in ours if each.moved is not None]
    return replace(
        row,
        ratio=round(median(compared["peer"]) / median(compared["our"]), 3),
        our_peak_rss_mib=round(max(each.peak_mib for each in ours), 1),
        verified=all(each.verified for each in (*ours, *theirs)),
        n=len(ours),
        spread=(round(min(ratios), 3), round(max(ratios), 3)),
        our_seconds=round(median(seconds["our"]), 3),
        peer_seconds=round(median(seconds["peer"]), 3),
        our_cpu_seconds=round(median(cpu["our"]), 3),
        cpu_ratio=round(median(cpu["peer"]) / median(cpu["our"]), 3) if median(cpu["our"]) else None,
        moved=round(max(moved), 4) if moved else None,
        machine=machine(),
    )


def machine() -> dict[str, object]:
    """What a row says of where it was measured."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {"cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "cpu": found[1] if found else ""}


def run(command: Sequence[str], place: Place, verify: Verify) -> Run:
    """Run a program to its end; starting it, and Python with it, counts on every side. Verifying does not."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        begins = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=None if place.folder == place.prepared else place.folder,
            env=environment(place),
            stdout=said,
            stderr=complained,
            stdin=subprocess.DEVNULL,
        )
        with _watched(process.pid) as peak:
            _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begins
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        complained.seek(0)
        text, complaint = said.read().decode(), complained.read().decode("utf-8", "replace")
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)[:400]} … ended with {process.returncode}\n{complaint[-2000:]}")
    return Run(
        seconds=seconds,
        peak_mib=_peak_mib(text, peak[0] if peak else usage.ru_maxrss),
        verified=verify(place, text),
        cpu_s=usage.ru_utime + usage.ru_stime,
    )


@contextmanager
def _watched(pid: int) -> Iterator[list[int]]:
    """Look at the most memory (VmHWM, KiB) of a process and its children: what wait4 says counts ours in."""
    peak: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            for each in (pid, *_children(pid)):
                with suppress(OSError):
                    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{each}/status").read_text())
                    peak[:] = [max([int(found[1]), *peak])] if found else peak

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def _children(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


def environment(place: Place) -> dict[str, str]:
    """Nothing of the machine's own configuration."""
    aws = {"AWS_ENDPOINT_URL": place.url} if "url" in place.stub else {}
    return {**clean_environment(), **aws, **place.environment}


def clean_environment() -> dict[str, str]:
    """Keys of the stub, and of the machine only what a program needs to run."""
    return {**{name: os.environ[name] for name in _KEPT if name in os.environ}, **ENVIRONMENT}


def _peak_mib(said: str, maxrss_kib: int) -> float:
    try:
        return float(json.loads(said)["peak_kib"]) / 1024
    except (ValueError, KeyError, TypeError):
        return maxrss_kib / 1024


@contextmanager
def stub(*options: str) -> Iterator[Mapping[str, object]]:
    """Run the stub in a process of its own; yield what it says of itself."""
    argv = [sys.executable, "-m", "tests.bench.stub", *options]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.kill()


HEAD = (
    "scenario", "peer", "ours s", "peer s", "ratio", "spread", "must", "limit", "CPU", "moved", "our MiB", "verified",
    "n", "",
)  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text."""
    lines = [HEAD, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def cells(row: Row) -> tuple[str, ...]:
    """A row as people read it, under HEAD."""

    def shown(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    spread = "-" if row.spread is None else f"{row.spread[0]:.2f}…{row.spread[1]:.2f}"
    return (
        row.scenario, f"{row.peer} {row.peer_version}".strip(), shown(row.our_seconds, 2), shown(row.peer_seconds, 2),
        shown(row.ratio, 2), spread, shown(row.must, 2), shown(row.limit_ratio, 2), shown(row.cpu_ratio, 2),
        shown(row.moved, 2), shown(row.our_peak_rss_mib, 0), "-" if row.ratio is None else str(row.verified).lower(),
        str(row.n), row.state,
    )  # fmt: skip
