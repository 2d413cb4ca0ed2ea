"""`bundle nodes user-data`."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from bundler.cli.nodes import nodes
from bundler.domain.site import Site
from bundler.domain.user_data import user_data
from bundler.errors import UsageError
from tests.fakes.sites import group_document, make_site


@pytest.fixture
def site() -> Site:
    return make_site(nodeGroups=[group_document(os=os, name=os) for os in ("al2023", "bottlerocket", "al2")])


def run(site: Site, folder: Path, *arguments: str) -> Result:
    """Run the command on a site file with the site in it."""
    document: dict[str, Any] = site.model_dump(mode="json", by_alias=True, exclude_none=True)
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump(document, width=4096), encoding="utf-8")
    argv = ["user-data", "--site", str(path), *arguments]
    return CliRunner().invoke(nodes, argv, standalone_mode=False)


@pytest.mark.parametrize("number", range(3))
def test_stdout_is_the_document_byte_for_byte(site: Site, tmp_path: Path, number: int) -> None:
    group = site.node_groups[number]
    done = run(site, tmp_path, "--group", group.name)
    assert done.exception is None
    assert done.stdout_bytes == user_data(site, group)


def test_the_document_for_machines_holds_it_as_the_ec2_api_takes_it(site: Site, tmp_path: Path) -> None:
    group = site.node_groups[1]
    shown = json.loads(run(site, tmp_path, "--group", group.name, "-o", "json").stdout)
    raw = user_data(site, group)
    assert shown == {
        "group": "bottlerocket",
        "os": "bottlerocket",
        "bytes": len(raw),
        "userData": base64.b64encode(raw).decode(),
    }


def test_a_warning_stands_on_stderr_and_never_in_the_document(site: Site, tmp_path: Path) -> None:
    done = run(site, tmp_path, "--group", "al2")
    assert "2026-06-30" in " ".join(done.stderr.split())
    assert b"2026" not in done.stdout_bytes
    assert run(site, tmp_path, "--group", "al2023").stderr == ""


def test_an_unknown_group_is_told_with_those_that_there_are(site: Site, tmp_path: Path) -> None:
    error = run(site, tmp_path, "--group", "main").exception
    assert isinstance(error, UsageError)
    assert "has no node group 'main'; it has al2023, bottlerocket, al2" in str(error)
    error = run(make_site(nodeGroups=[]), tmp_path, "--group", "main").exception
    assert "it has none" in str(error)
