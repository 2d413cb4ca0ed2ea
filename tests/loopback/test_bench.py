"""The bench itself: everything that `make bench` does, once and with little."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.ami import Size, prepared, snapshot_is_right
from tests.journey import clean_environment

pytestmark = pytest.mark.loopback


def test_each_scenario_runs_ours_and_a_peer_and_verifies_both(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    argv = [sys.executable, "-m", "tests.bench", "-n", "1", "--blocks", "40", "--latency-ms", "0", "--peer", "boto3"]
    done = subprocess.run(
        [*argv, "--results", str(results)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    rows = json.loads(results.read_bytes())
    assert [(row["scenario"], row["peer"], row["n"], row["verified"]) for row in rows] == [
        ("ami-export", "boto3", 1, True),
        ("ami-restore", "boto3", 1, True),
    ]
    for row in rows:
        assert {"peer_version", "ratio", "limit_ratio", "our_peak_rss_mib", "spread"} <= set(row)
    missed = any(row["ratio"] < row["limit_ratio"] for row in rows)
    assert done.returncode == (1 if missed else 0), done.stderr


def test_a_snapshot_that_was_not_put_is_not_right(tmp_path: Path) -> None:
    with prepared(Size(listed=3, distinct=2, latency_ms=0), tmp_path) as place:
        assert not snapshot_is_right(place, "nothing")
