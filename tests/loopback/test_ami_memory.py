"""Peak memory of export and restore: as much for 32,768 written blocks as for 2,048, where the blocks are the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.ami import Size, ours_and_peaks

pytestmark = [pytest.mark.loopback, pytest.mark.slow]
MOST_GROWTH_MIB = 20
SMALL, LARGE = (Size(listed=listed, distinct=64, gib=64, latency_ms=0) for listed in (2_048, 32_768))


def test_memory_does_not_grow_with_the_number_of_blocks(tmp_path: Path) -> None:
    small, large = ours_and_peaks(SMALL, tmp_path / "small"), ours_and_peaks(LARGE, tmp_path / "large")
    grown = [step for step in small if large[step] - small[step] >= MOST_GROWTH_MIB]
    assert not grown, f"peak MiB: {small} -> {large}"
