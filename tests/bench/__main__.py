"""`make bench`: how fast we are, beside others who do the same, in the same minutes on the same machine.

Ratios count, never seconds. Every run is a process of its own, its start included on both sides; verifying is not.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from bundler.domain.blocks import BLOCKS_PER_GIB
from tests.bench import ami, data_plane
from tests.bench.images import INSTALL, REQUIRED, find_program
from tests.bench.measure import Command, Peer, Place, Row, Scenario, measure, table
from tests.bench.report import write_report
from tests.bench.rig import Rig

RESULTS = Path(__file__).parent / "results.json"
AMIS = ("ami-export", "ami-restore")
NAMES = (*data_plane.SCENARIOS, *AMIS)
LEAST_RUNS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    asked = parser.parse_args(arguments)
    wanted = asked.only or NAMES
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        parser.error(f"there is no scenario {unknown[0]}; there are {', '.join(NAMES)}")
    missing = [] if set(wanted) <= set(AMIS) else [name for name in REQUIRED if find_program(name).path is None]
    if missing:
        parser.error(f"{missing[0]} must be there: make bench-peers, or {INSTALL[missing[0]]}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # folders of gigabytes go with us
    rows: list[Row] = []
    with ExitStack() as stack:
        for scenario in _scenarios(asked, wanted, stack):
            for peer in scenario.peers:
                if asked.peer is None or peer.name in asked.peer:
                    rows.append(_measured(scenario, peer, asked.n))
                    asked.results.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if not rows:
        parser.error(f"there is no peer {', '.join(asked.peer)}")
    print(table(rows))
    if asked.docs is not None and _is_whole(asked):
        write_report(rows, asked.docs)
    return 1 if any(row.state == "FAIL" for row in rows) else 0


def _is_whole(asked: argparse.Namespace) -> bool:
    """Whether figures are fit to be shown: nothing left out, nothing made smaller."""
    parts = asked.only, asked.peer, asked.scale, asked.small_blobs, asked.blocks
    return asked.n >= LEAST_RUNS and parts == (None, None, 1.0, 10_000, 2048)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("-n", type=int, default=LEAST_RUNS, help="runs of each side (at least 5 to be believed)")
    parser.add_argument("--only", metavar="SCENARIO", action="append", help="this one alone; may be given again")
    parser.add_argument("--peer", metavar="NAME", action="append", help="only this peer; may be given again")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the corpus of images, 1 is 1.8 GB")
    parser.add_argument("--small-blobs", type=int, default=10_000, help="number of small blobs")
    parser.add_argument("--blocks", type=int, default=2048, help="AMIs: different blocks of 512 KiB")
    parser.add_argument("--latency-ms", type=float, default=100, help="AMIs: how late the stub answers")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, help="the page that a whole run writes anew")
    return parser


def _measured(scenario: Scenario, peer: Peer, n: int) -> Row:
    row = measure(scenario, peer, n=n)
    print(f"{scenario.name} against {peer.name}: {row.ratio} {row.state}", file=sys.stderr, flush=True)
    return row


def _scenarios(asked: argparse.Namespace, wanted: Sequence[str], stack: ExitStack) -> Iterator[Scenario]:
    """Yield each scenario when its turn has come: what it needs is made then."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
    rig = Rig(folder=folder, stack=stack, scale=asked.scale, small_blobs=asked.small_blobs)
    for name, make in data_plane.SCENARIOS.items():
        if name in wanted:
            yield make(rig)
    if set(wanted) & set(AMIS):
        yield from (each for each in _amis(asked, stack) if each.name in wanted)


def _amis(asked: argparse.Namespace, stack: ExitStack) -> Sequence[Scenario]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
    gib = -(-asked.blocks // BLOCKS_PER_GIB)
    size = ami.Size(listed=asked.blocks, distinct=asked.blocks, gib=gib, latency_ms=asked.latency_ms)
    begun = stack.enter_context(ami.prepared(size, folder))

    @contextmanager
    def where(command: Command) -> Iterator[Place]:
        with ami.export_place(begun) as place:
            yield place

    return ami.scenarios(where)


if __name__ == "__main__":
    sys.exit(main())
