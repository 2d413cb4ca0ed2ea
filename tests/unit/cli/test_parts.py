"""Commands that are given an archive in parts: they find them, and name what they read."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bundler.cli.build import build, lock
from bundler.cli.diff import diff
from bundler.cli.verify import verify
from bundler.errors import FormatError
from tests.fakes.archives import sample
from tests.fakes.sliced import sliced

SAMPLE = sample()


@pytest.mark.parametrize("name", ["sample-7.parts.json", "sample-7.tar.001", "sample-7.tar.999"])
def test_a_part_leads_to_the_table_and_the_table_is_what_is_said_to_be_right(tmp_path: Path, name: str) -> None:
    table = sliced(SAMPLE, tmp_path).table_path
    (tmp_path / "trust").mkdir()
    (tmp_path / "trust" / "trust.json").write_bytes(SAMPLE.trust_json)
    argv = [str(tmp_path / name), "--trust", str(tmp_path / "trust")]
    assert f"{table} is complete and signed." in CliRunner().invoke(verify, argv).stdout
    assert json.loads(CliRunner().invoke(verify, [*argv, "-o", "json"]).stdout)["archive"] == str(table)


def test_diff_reads_parts_in_further_folders_as_every_command_does(tmp_path: Path) -> None:
    cut = sliced(SAMPLE, tmp_path)
    (tmp_path / "disk").mkdir()
    cut.path(1).rename(tmp_path / "disk" / cut.parts[1].name)
    argv = [str(cut.table_path), str(cut.table_path), "-o", "json"]
    assert isinstance(CliRunner().invoke(diff, argv).exception, FormatError)
    done = CliRunner().invoke(diff, [*argv, "--parts", str(tmp_path / "disk")])
    assert json.loads(done.stdout)["needed"] == {"blobs": 0, "bytes": 0}


@pytest.mark.parametrize("command", [lock, build])
def test_what_names_an_earlier_archive_takes_its_parts(command: click.Command) -> None:
    assert "parts" in {option.name for option in command.params}
