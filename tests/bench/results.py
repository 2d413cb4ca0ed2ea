"""results.json: the rows of every scenario, kept from one run of the bench to the next."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.images import INSTALL, find_path
from tests.bench.measure import Row, machine
from tests.bench.musts import MUSTS

LEAST_RUNS = 5
FORGOTTEN = "load"
"""What a machine has another one of every minute."""
Pair = tuple[str, str]
"""A scenario and a peer."""
PAIRS: Sequence[Pair] = [(scenario, peer) for scenario, peers in MUSTS.items() for peer in peers]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What is measured, and where.

    Attributes:
        commit: that of the checkout; empty where git does not know it.
        tree: git's name for the content of bundler/; None where some of it is not committed.
        machine: its processors.
        size: how the corpus differs from that of a whole run; empty where it does not.
    """

    commit: str
    tree: str | None
    machine: Mapping[str, object]
    size: str = ""

    def of(self, row: Row) -> Row:
        """The row, with what it was measured on and when."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return replace(row, commit=self.commit, tree=self.tree, size=self.size, date=now)

    def has(self, row: Row) -> bool:
        """Whether a row was measured on this code and machine, whole, and as often as it takes to be believed.

        Who was missing counts as long as he is: to see that he is not there needs no second run.
        """
        same = row.tree is not None and row.tree == self.tree and _lasting(row.machine) == _lasting(self.machine)
        whole = row.n >= LEAST_RUNS or (row.state == "missing" and not is_installed(row.peer))
        return same and whole and row.size == ""


def origin_of(folder: Path, *, size: str = "") -> Origin:
    """Ask git what is measured: `folder` is the checkout."""
    changed = _git(folder, "status", "--porcelain", "--", "bundler")
    tree = _git(folder, "rev-parse", "HEAD:bundler") if changed == "" else None
    return Origin(commit=_git(folder, "rev-parse", "HEAD") or "", tree=tree, machine=machine(), size=size)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _lasting(of: Mapping[str, object]) -> Mapping[str, object]:
    return {name: value for name, value in of.items() if name != FORGOTTEN}


def is_installed(peer: str) -> bool:
    """Whether who was missing is there by now; who is no program of somebody else always is."""
    program = peer.partition(" ")[0]
    return program not in INSTALL or find_path(program) is not None


def read_rows(path: Path) -> list[Row]:
    """Return what a file holds; nothing where there is none."""
    if not path.is_file():
        return []
    names = {each.name for each in fields(Row)}
    try:
        found = [
            {name: value for name, value in each.items() if name in names} for each in json.loads(path.read_bytes())
        ]
        return [Row(**{**each, "spread": each["spread"] and tuple(each["spread"])}) for each in found]
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise SystemExit(f"bench: {path} holds no rows ({error}): remove it") from error


class Results:
    """The rows of a file: read once, written whenever one is put."""

    def __init__(self, path: Path, origin: Origin) -> None:
        self._path = path
        self.origin = origin
        self.rows = read_rows(path)

    def put(self, row: Row) -> bool:
        """Keep a row instead of the one of its scenario and peer; False where that one counts and this one does not."""
        there = next((each for each in self.rows if (each.scenario, each.peer) == (row.scenario, row.peer)), None)
        if there is not None and self.origin.has(there) and not self.origin.has(row):
            return False
        self.rows = in_order([*self.rows, row])
        content = json.dumps([asdict(each) for each in self.rows], indent=1) + "\n"
        temporary = self._path.with_suffix(".partial")
        temporary.write_text(content)
        temporary.rename(self._path)
        return True

    @property
    def counting(self) -> list[Row]:
        """The rows of this code and machine that are fit to be shown."""
        return [row for row in self.rows if self.origin.has(row)]

    @property
    def missing(self) -> list[Pair]:
        """What is not measured yet; nothing: the page can be written."""
        there = {(row.scenario, row.peer) for row in self.counting}
        return [pair for pair in PAIRS if pair not in there]


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Return the last row of each scenario and peer, as a whole run measures them; what nobody knows comes last."""
    last = {(row.scenario, row.peer): row for row in rows}
    known = [last.pop(pair) for pair in PAIRS if pair in last]
    return [*known, *last.values()]
