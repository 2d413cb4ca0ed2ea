"""The real nodeadm reads what we tell AL2023 nodes. It decodes only: the table of fields is tests/unit's work."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler.domain.site import Site
from bundler.domain.user_data import user_data
from tests.fakes.node_groups import variants
from tests.user_data_oracle import parts

pytestmark = pytest.mark.loopback
VARIANTS = [site for site in variants() if site.node_groups[0].os == "al2023"]
Check = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Runs `nodeadm config check` on a NodeConfig."""
    program = os.environ.get("NODEADM")
    if not program:
        pytest.skip("NODEADM is not set: tests/kube/nodeadm.py builds the real nodeadm and prints it")

    def run(text: str) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "node-config"
        path.write_text(text, encoding="utf-8")
        argv = [program, "config", "check", "--config-source", f"file://{path}"]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    return run


def part_of(site: Site) -> str:
    """The NodeConfig part of the user data of a site's one group."""
    [text] = [text for kind, text in parts(user_data(site, site.node_groups[0])) if kind == "application/node.eks.aws"]
    return text


@pytest.mark.parametrize("site", VARIANTS, ids=[str(number) for number in range(len(VARIANTS))])
def test_the_real_nodeadm_takes_every_variant(check: Check, site: Site) -> None:
    done = check(part_of(site))
    assert done.returncode == 0, done.stderr
    assert "Configuration is valid" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("kind",), "Node"),
        (("apiVersion",), "node.eks.aws/v9"),
        (("spec", "cluster", "certificateAuthority"), "*"),
        (("spec", "cluster", "cidr"), 7),
        (("spec", "kubelet", "flags"), "--v=2"),
    ],
)
def test_the_real_nodeadm_refuses_what_is_of_the_wrong_kind(check: Check, path: tuple[str, ...], value: object) -> None:
    """So that its yes above is worth something."""
    document: dict[str, Any] = json.loads(part_of(VARIANTS[0]))
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert check(json.dumps(document)).returncode != 0
