"""The rows that runs of the bench add up to, and when they are fit to be shown."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.__main__ import make_parser, pairs_of
from tests.bench.data_plane import SCENARIOS
from tests.bench.measure import Row
from tests.bench.musts import MUSTS
from tests.bench.results import PAIRS, Origin, Results, in_order, origin_of, read_rows

HERE = Origin(commit="c1", tree="t1", machine={"cpus": 2, "cpu": "made", "load": 9.9})
ROW = Row(
    scenario="push-tls", peer="crane", peer_version="1", ratio=2.5, limit_ratio=0.5, our_peak_rss_mib=80.0,
    verified=True, n=5, spread=(2.0, 3.0), machine={"cpus": 2, "cpu": "made", "load": 0.1}, tree="t1",
)  # fmt: skip
MISSING = replace(ROW, peer="zarf", ratio=None, spread=None, n=0)


def whole() -> list[Row]:
    return [replace(ROW, scenario=scenario, peer=peer) for scenario, peer in PAIRS]


def results(path: Path, *rows: Row, origin: Origin = HERE) -> Results:
    made = Results(path / "results.json", origin)
    for row in rows:
        made.put(row)
    return made


def test_there_is_a_scenario_for_each_that_must_reach_something() -> None:
    assert set(MUSTS) == {*SCENARIOS, "ami-export", "ami-restore"}


def test_rows_of_several_runs_add_up_to_a_whole_one(tmp_path: Path) -> None:
    rows = whole()
    for part in (rows[20:], rows[:20]):
        results(tmp_path, *part)
    last = results(tmp_path)
    assert last.rows == rows
    assert last.missing == []
    assert last.counting == rows


def test_a_scenario_that_is_measured_again_replaces_its_rows_and_no_others(tmp_path: Path) -> None:
    again = replace(ROW, ratio=1.0, tree="t2")
    made = results(tmp_path, *whole(), origin=replace(HERE, tree="t2"))
    assert made.put(again)
    assert [row for row in made.rows if row.ratio == 1.0] == [again]
    assert len(read_rows(tmp_path / "results.json")) == len(PAIRS)


@pytest.mark.parametrize(
    "other",
    [
        replace(ROW, n=4),
        replace(ROW, tree="t2"),
        replace(ROW, tree=None),
        replace(ROW, size="scale 0.02"),
        replace(ROW, machine={"cpus": 4, "cpu": "made", "load": 0.1}),
    ],
)
def test_a_row_counts_that_is_whole_and_of_this_code_and_machine(tmp_path: Path, other: Row) -> None:
    made = results(tmp_path, *[row for row in whole() if (row.scenario, row.peer) != ("push-tls", "crane")], other)
    assert made.missing == [("push-tls", "crane")]
    assert other in made.rows
    assert made.put(ROW)
    assert made.missing == []
    assert not made.put(other)
    assert ROW in made.rows


def test_nothing_counts_of_code_that_is_not_committed(tmp_path: Path) -> None:
    dirty = replace(HERE, tree=None)
    assert results(tmp_path, *[replace(row, tree=None) for row in whole()], origin=dirty).missing == PAIRS


def test_who_is_missing_counts_until_he_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("ZARF", raising=False)
    made = results(tmp_path, replace(MISSING, scenario="round-trip"))
    assert ("round-trip", "zarf") not in made.missing
    monkeypatch.setenv("ZARF", "/opt/zarf")
    assert ("round-trip", "zarf") in made.missing


def test_the_file_is_a_list_of_rows_in_the_order_of_a_whole_run(tmp_path: Path) -> None:
    unknown = replace(ROW, scenario="of old")
    results(tmp_path, unknown, *reversed(whole()))
    listed = json.loads((tmp_path / "results.json").read_bytes())
    assert [(each["scenario"], each["peer"]) for each in listed] == [*PAIRS, ("of old", "crane")]
    assert list(tmp_path.iterdir()) == [tmp_path / "results.json"]
    assert in_order([ROW, replace(ROW, ratio=1.0)]) == [replace(ROW, ratio=1.0)]


@pytest.mark.parametrize("content", ["{", "[3]", "{}x", '[{"scenario": "push-tls"}]'])
def test_what_is_no_list_of_rows_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(SystemExit, match="remove it"):
        read_rows(path)


def test_keys_that_nobody_knows_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results(tmp_path, ROW)
    path.write_text(json.dumps([{**each, "mood": "good"} for each in json.loads(path.read_bytes())]))
    assert read_rows(path) == [ROW]


@pytest.mark.parametrize(
    ("options", "measured"),
    [
        ("", [("push-tls", "crane")]),
        ("--only build-tls", [("build-tls", "skopeo"), ("build-tls", "sha256")]),
        ("--only push-tls --peer skopeo", [("push-tls", "skopeo")]),
        ("--peer boto3", [("ami-export", "boto3"), ("ami-restore", "boto3")]),
        ("-n 4", PAIRS),
        ("--scale 0.02", PAIRS),
        ("--peer nobody", []),
    ],
)
def test_a_run_goes_on_with_what_is_missing_or_does_what_it_is_asked(
    tmp_path: Path, options: str, measured: list[tuple[str, str]]
) -> None:
    rows = [row for row in whole() if (row.scenario, row.peer) != ("push-tls", "crane")]
    assert pairs_of(make_parser().parse_args(options.split()), results(tmp_path, *rows)) == measured


def test_when_nothing_is_missing_all_is_measured_again(tmp_path: Path) -> None:
    assert pairs_of(make_parser().parse_args([]), results(tmp_path, *whole())) == PAIRS


def test_the_content_of_bundler_is_what_git_calls_it_and_nothing_where_it_was_changed(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        named = ["-c", "user.name=x", "-c", "user.email=x@example.com", *arguments]
        return subprocess.run(["git", *named], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    assert origin_of(tmp_path).tree is None
    git("init", "-q")
    (tmp_path / "bundler").mkdir()
    (tmp_path / "bundler" / "a.py").write_text("1\n")
    (tmp_path / "other").write_text("1\n")
    git("add", ".")
    git("commit", "-qm", "one")
    first = origin_of(tmp_path)
    assert first.tree == git("rev-parse", "HEAD:bundler")
    (tmp_path / "other").write_text("2\n")
    git("commit", "-qam", "two")
    assert origin_of(tmp_path).tree == first.tree
    assert origin_of(tmp_path).commit != first.commit
    (tmp_path / "bundler" / "b.py").write_text("2\n")
    assert origin_of(tmp_path).tree is None
