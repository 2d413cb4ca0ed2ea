"""Sides in turn, A B A B: medians, ratios of neighbours, and whether a limit is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
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

    @property
    def url(self) -> str:
        return str(self.stub["url"])


Command = Callable[[Place], list[str]]
Verify = Callable[[Place, str], bool]
"""Whether the result of a run (its folder, what it printed) is right."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Who does the same: `command` is None where nobody has built it."""

    name: str
    version: str
    command: Command | None
    verify: Verify
    limit_ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One job, ours and the peers that do it."""

    name: str
    ours: Command
    verify: Verify
    peers: Sequence[Peer]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One process, from its start to its end."""

    seconds: float
    peak_mib: float
    verified: bool


@dataclass(frozen=True, kw_only=True)
class Row:
    """What results.json says of ours against one peer.

    Attributes:
        ratio: the peer's median ÷ ours; None where the peer is missing.
        our_peak_rss_mib: the most of all runs (VmHWM).
        verified: every run of both sides gave what it should.
        n: runs of each side.
        spread: lowest and highest ratio of two neighbours.
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
    our_seconds: float | None = None
    peer_seconds: float | None = None
    machine: Mapping[str, object] = field(default_factory=dict)

    @property
    def state(self) -> str:
        if self.ratio is None:
            return "missing"
        good = self.verified and (self.limit_ratio is None or self.ratio >= self.limit_ratio)
        return "PASS" if good else "FAIL"


def measure(scenario: Scenario, peer: Peer, place: Callable[[], Iterator[Place]], *, n: int) -> Row:
    """Run ours and the peer in turn, `n` times each."""
    nothing = Row(
        scenario=scenario.name, peer=peer.name, peer_version=peer.version, ratio=None, limit_ratio=peer.limit_ratio,
        our_peak_rss_mib=None, verified=False, n=0, spread=None,
    )  # fmt: skip
    if peer.command is None:
        return nothing
    sides = (scenario.ours, scenario.verify), (peer.command, peer.verify)
    ours, theirs = [], []
    for _ in range(n):
        for (command, verify), found in zip(sides, (ours, theirs), strict=True):
            with contextmanager(place)() as where:
                found.append(run(command(where), where, verify))
    return summed_up(nothing, ours, theirs)


def summed_up(row: Row, ours: Sequence[Run], theirs: Sequence[Run]) -> Row:
    """Return the row with what was measured."""
    ratios = [their.seconds / our.seconds for our, their in zip(ours, theirs, strict=True)]
    our_seconds, peer_seconds = (median(each.seconds for each in runs) for runs in (ours, theirs))
    values = asdict(row) | {
        "ratio": round(peer_seconds / our_seconds, 3),
        "our_peak_rss_mib": round(max(each.peak_mib for each in ours), 1),
        "verified": all(each.verified for each in (*ours, *theirs)),
        "n": len(ours),
        "spread": (round(min(ratios), 3), round(max(ratios), 3)),
        "our_seconds": round(our_seconds, 3),
        "peer_seconds": round(peer_seconds, 3),
        "machine": {"cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
    }
    return Row(**values)


def run(command: Sequence[str], place: Place, verify: Verify) -> Run:
    """Run a program to its end; starting it, and Python with it, counts on every side. Verifying does not."""
    with tempfile.TemporaryFile() as said:
        begins = time.monotonic()
        process = subprocess.Popen(command, env=environment(place), stdout=said, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begins
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().decode()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Run(seconds=seconds, peak_mib=_peak_mib(text, usage.ru_maxrss), verified=verify(place, text))


def environment(place: Place) -> dict[str, str]:
    """Nothing of the machine's own configuration."""
    return {**clean_environment(), "AWS_ENDPOINT_URL": place.url}


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


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text."""
    head = ("scenario", "peer", "ours s", "peer s", "ratio", "spread", "limit", "our MiB", "verified", "n", "")
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    def shown(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    spread = "-" if row.spread is None else f"{row.spread[0]:.2f}…{row.spread[1]:.2f}"
    return (
        row.scenario, f"{row.peer} {row.peer_version}".strip(), shown(row.our_seconds, 2), shown(row.peer_seconds, 2),
        shown(row.ratio, 2), spread, shown(row.limit_ratio, 2), shown(row.our_peak_rss_mib, 0),
        "-" if row.ratio is None else str(row.verified).lower(), str(row.n), row.state,
    )  # fmt: skip
