"""`make bench`: how fast we are, beside others who do the same, in the same minutes on the same machine.

Ratios count, never seconds. Every run is a process of its own, its start included on both sides; verifying is not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from bundler.domain.blocks import BLOCKS_PER_GIB
from tests.bench.ami import Size, export_place, prepared, scenarios
from tests.bench.measure import Place, Row, measure, table

RESULTS = Path(__file__).parent / "results.json"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("-n", type=int, default=5, help="runs of each side (at least 5 to be believed)")
    parser.add_argument("--only", metavar="SCENARIO", help="ami-export or ami-restore")
    parser.add_argument("--peer", help="only this peer")
    parser.add_argument("--blocks", type=int, default=2048, help="different blocks of 512 KiB")
    parser.add_argument("--latency-ms", type=float, default=100, help="how late the stub answers")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args(arguments)
    wanted = [each for each in scenarios() if asked.only in (None, each.name)]
    if not wanted:
        parser.error(f"there is no scenario {asked.only}")
    if not any(asked.peer in (None, peer.name) for each in wanted for peer in each.peers):
        parser.error(f"there is no peer {asked.peer}")
    rows: list[Row] = []
    gib = -(-asked.blocks // BLOCKS_PER_GIB)
    size = Size(listed=asked.blocks, distinct=asked.blocks, gib=gib, latency_ms=asked.latency_ms)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, prepared(size, Path(folder)) as begun:

        def place() -> Iterator[Place]:
            with export_place(begun) as one:
                yield one

        for scenario in wanted:
            for peer in scenario.peers:
                if asked.peer in (None, peer.name):
                    rows.append(measure(scenario, peer, place, n=asked.n))
                    print(f"{scenario.name} against {peer.name}: {rows[-1].state}", file=sys.stderr)
    asked.results.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(table(rows))
    return 1 if any(row.state == "FAIL" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
