"""What `make bench` makes of its runs, and the blocks that it moves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bundler.archive.packs import compress
from bundler.domain.blocks import BLOCK_BYTES
from tests.bench.content import blocks
from tests.bench.measure import Row, Run, summed_up, table

ROW = Row(
    scenario="ami-export", peer="boto3", peer_version="1", ratio=None, limit_ratio=0.8, our_peak_rss_mib=None,
    verified=False, n=0, spread=None,
)  # fmt: skip


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
        (summed_up(replace(ROW, limit_ratio=None), runs(1.0), runs(0.1)), "PASS"),
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
