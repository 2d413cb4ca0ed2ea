"""`make bench`: how fast we are, beside others who do the same, in the same minutes on the same machine.

Ratios count, never seconds. Every run is a process of its own, its start included on both sides; verifying is not.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bundler.domain.blocks import BLOCKS_PER_GIB
from tests.bench import ami, data_plane
from tests.bench.images import INSTALL, REQUIRED, find_path
from tests.bench.measure import Command, Place, Row, Scenario, measure, table
from tests.bench.musts import MUSTS
from tests.bench.report import write_report
from tests.bench.results import LEAST_RUNS, PAIRS, Pair, Results, in_order, origin_of
from tests.bench.rig import Rig

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
AMIS = ("ami-export", "ami-restore")
NAMES = tuple(MUSTS)
BLOBS, BLOCKS, LATENCY_MS = 10_000, 2048, 100.0
_ABOUT = """
Rows are kept, so the whole may be taken in pieces, and a run that was interrupted goes on: without --only and --peer it
measures the rows that are missing for this content of bundler/ (git's, with nothing uncommitted), and all of them again
when none is. With --only or --peer it measures those again, and replaces their rows. When every scenario has all its
rows, of at least 5 runs and the whole corpus, measured on the same content of bundler/, the page of --docs is written.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser()
    asked = parser.parse_args(arguments)
    wanted = asked.only or NAMES
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        parser.error(f"there is no scenario {unknown[0]}; there are {', '.join(NAMES)}")
    missing = [] if set(wanted) <= set(AMIS) else [name for name in REQUIRED if find_path(name) is None]
    if missing:
        parser.error(f"{missing[0]} must be there: make bench-peers, or {INSTALL[missing[0]]}")
    for number in (signal.SIGTERM, signal.SIGINT):  # folders of gigabytes go with us
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    results = Results(asked.results, origin_of(HERE, size=_size(asked)))
    pairs = pairs_of(asked, results)
    if not pairs:
        parser.error(f"there is no peer {', '.join(asked.peer)}")
    rows = _measured(asked, pairs, results)
    shown = in_order([*(results.counting if _goes_on(asked) else ()), *rows])
    print(table(shown))
    if asked.docs is not None and not results.missing and not _is_trial(asked):
        write_report(results.counting, asked.docs)
        _say(f"{asked.docs} is written anew")
    return 1 if any(row.state == "FAIL" for row in shown) else 0


def pairs_of(asked: argparse.Namespace, results: Results) -> list[Pair]:
    """What is measured: what is asked for; in a run that goes on what has no row yet, or all where nothing has none."""
    if _goes_on(asked):
        left, tree = results.missing, results.origin.tree
        of = "with changes that are not committed" if tree is None else tree[:12]
        _say(f"{len(PAIRS) - len(left)} of {len(PAIRS)} rows of bundler/ ({of}) are in {asked.results}")
        return left or list(PAIRS)
    return [
        (scenario, peer)
        for scenario, peer in PAIRS
        if (asked.only is None or scenario in asked.only) and (asked.peer is None or peer in asked.peer)
    ]


def _goes_on(asked: argparse.Namespace) -> bool:
    """Whether rows that are there are not measured again."""
    return asked.only is None and asked.peer is None and not _is_trial(asked)


def _is_trial(asked: argparse.Namespace) -> bool:
    """Whether its rows are not fit to be shown."""
    return asked.n < LEAST_RUNS or _size(asked) != ""


def _measured(asked: argparse.Namespace, pairs: Sequence[Pair], results: Results) -> list[Row]:
    """Measure pair by pair, and keep each row as soon as it is there."""
    rows: list[Row] = []
    scenarios = list(dict.fromkeys(scenario for scenario, _ in pairs))
    _say(f"{len(pairs)} rows to measure, n={asked.n}: {', '.join(scenarios)}")
    try:
        with ExitStack() as stack:
            for scenario in _scenarios(asked, scenarios, stack):
                for peer in scenario.peers:
                    if (scenario.name, peer.name) in pairs:
                        row = results.origin.of(measure(scenario, peer, n=asked.n))
                        rows.append(row)
                        kept = (
                            "" if results.put(row) else " (not kept: the row that is there counts, this one does not)"
                        )
                        _say(
                            f"{len(rows)}/{len(pairs)} {row.scenario} against {row.peer}: {row.ratio} {row.state}{kept}"
                        )
    finally:
        if len(rows) < len(pairs):
            _say(f"{len(rows)} of {len(pairs)} rows were measured; make bench goes on with what is missing")
    return rows


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _size(asked: argparse.Namespace) -> str:
    """What is smaller than in a whole run, or otherwise not the same."""
    given = {
        "scale": (asked.scale, 1.0), "small blobs": (asked.small_blobs, BLOBS), "blocks": (asked.blocks, BLOCKS),
        "latency ms": (asked.latency_ms, LATENCY_MS),
    }  # fmt: skip
    return ", ".join(f"{name} {value:g}" for name, (value, usual) in given.items() if value != usual)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=f"{__doc__}\n{_ABOUT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-n", type=int, default=LEAST_RUNS, help="runs of each side (at least 5 to be believed)")
    parser.add_argument("--only", metavar="SCENARIO", action="append", help="this one, again; may be given again")
    parser.add_argument("--peer", metavar="NAME", action="append", help="only this peer, again; may be given again")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the corpus of images, 1 is 1.8 GB")
    parser.add_argument("--small-blobs", type=int, default=BLOBS, help="number of small blobs")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help="AMIs: different blocks of 512 KiB")
    parser.add_argument("--latency-ms", type=float, default=LATENCY_MS, help="AMIs: how late the stub answers")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"where rows are kept ({RESULTS.name})")
    parser.add_argument("--docs", type=Path, help="the page that is written when every row is there")
    return parser


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
