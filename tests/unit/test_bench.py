"""What `make bench` makes of its runs, and the blocks that it moves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bundler.archive.packs import compress
from bundler.domain.blocks import BLOCK_BYTES
from tests.bench.content import blocks
from tests.bench.measure import Command, Peer, Place, Proof, Row, Run, Scenario, Where, measure, summed_up, table

ROW = Row(
    scenario="ami-export", peer="boto3", peer_version="1", ratio=None, limit_ratio=None, our_peak_rss_mib=None,
    verified=False, n=0, spread=None, must=0.8,
)  # fmt: skip

PLACE = Place(stub={}, prepared=Path(), folder=Path())


def runs(*seconds: float, verified: bool = True) -> list[Run]:
    return [Run(seconds=each, peak_mib=each, verified=verified) for each in seconds]


def test_a_ratio_is_that_of_medians_and_its_spread_that_of_neighbours() -> None:
    row = summed_up(ROW, runs(1, 2, 9), runs(2, 2, 9))
    assert (row.ratio, row.spread, row.n, row.our_peak_rss_mib) == (1.0, (1.0, 2.0), 3, 9)
    assert row.state == "PASS"
    assert "PASS" in table([row])


@pytest.mark.parametrize(
    ("row", "state"),
    [
        (summed_up(ROW, runs(1.0), runs(0.79)), "FAIL"),
        (summed_up(ROW, runs(1.0), runs(0.8)), "PASS"),
        (summed_up(replace(ROW, must=None), runs(1.0), runs(0.1)), "PASS"),
        (summed_up(ROW, runs(1.0, verified=False), runs(2.0)), "FAIL"),
        (summed_up(ROW, runs(1.0), runs(2.0, verified=False)), "FAIL"),
        (ROW, "missing"),
    ],
)
def test_too_slow_fails_and_so_does_a_result_that_is_wrong(row: Row, state: str) -> None:
    assert row.state == state


def test_blocks_differ_come_again_and_compress_three_to_one() -> None:
    made = list(blocks(40))
    assert len(set(made)) == 40
    assert {len(block) for block in made} == {BLOCK_BYTES}
    assert made == list(blocks(40))
    packed = compress(made[8:], (b"",) * 32)
    assert 2.7 < 32 * BLOCK_BYTES / len(packed.content) < 3.3


def test_a_limit_is_told_from_what_must_be_reached_and_cpu_from_the_clock() -> None:
    ours = [Run(seconds=2, peak_mib=1, verified=True, cpu_s=4, moved=1.0)]
    row = summed_up(ROW, ours, [Run(seconds=8, peak_mib=1, verified=True, cpu_s=2)])
    assert (row.ratio, row.cpu_ratio, row.moved) == (4.0, 0.5, 1.0)
    assert summed_up(ROW, ours, [Run(seconds=8, peak_mib=1, verified=True, cpu_s=2)], of_cpu=True).ratio == 0.5


def test_sides_run_in_turn_each_in_a_place_of_its_own_and_a_proof_counts_for_no_time(tmp_path: Path) -> None:
    made: list[str] = []

    def noted(name: str) -> Where:
        @contextmanager
        def where(command: Command) -> Iterator[Place]:
            made.append(f"{name} {' '.join(command(PLACE))}")
            folder = tmp_path / str(len(made))
            folder.mkdir()
            yield Place(stub={}, prepared=tmp_path, folder=folder, environment={"WORD": name})

        return where

    def verify(place: Place, said: str) -> bool:
        return said == f"{place.environment['WORD']}\n"

    peer = Peer(name="peer", version="1", command=lambda place: ["/bin/sh", "-c", "echo $WORD #"], verify=verify)
    scenario = Scenario(
        name="x", ours=lambda place: ["/bin/sh", "-c", "echo $WORD"], verify=verify, peers=[peer],
        where=noted("run"), proof=Proof(noted("proof")), limit_s=lambda: 0.0, moved=lambda place: 1.0,
    )  # fmt: skip
    row = measure(scenario, peer, n=2)
    assert [each.endswith("#") for each in made] == [False, True] * 3
    assert [each.split()[0] for each in made] == ["proof"] * 2 + ["run"] * 4
    assert (row.verified, row.n, row.moved, row.limit_ratio) == (True, 2, 1.0, 0.0)
    measure(scenario, replace(peer, command=lambda place: ["/bin/sh", "-c", "echo $WORD ##"]), n=1)
    assert [each.split()[0] for each in made[6:]] == ["proof", "run", "run"]
    assert made[6].endswith("##")


def test_a_side_whose_proof_fails_is_not_verified(tmp_path: Path) -> None:
    @contextmanager
    def where(command: Command) -> Iterator[Place]:
        yield Place(stub={}, prepared=tmp_path, folder=tmp_path)

    scenario = Scenario(
        name="x", ours=lambda place: ["true"], verify=lambda place, said: True, peers=[], where=where,
        proof=Proof(where),
    )  # fmt: skip
    verdicts = iter([False, True])
    peer = Peer(name="peer", version="1", command=lambda place: ["true"], verify=lambda place, said: next(verdicts))
    assert not measure(scenario, peer, n=1).verified


def test_a_peer_that_is_missing_is_a_row_without_figures() -> None:
    peer = Peer(name="peer", version="missing: make it", command=None, verify=lambda place, said: True, must=2.0)
    scenario = Scenario(name="x", ours=lambda place: [], verify=lambda place, said: True, peers=[peer], where=nowhere)
    row = measure(scenario, peer, n=2)
    assert (row.state, row.ratio, row.must, row.peer_version) == ("missing", None, 2.0, "missing: make it")


def nowhere(command: Command) -> AbstractContextManager[Place]:
    raise AssertionError("nothing runs")
