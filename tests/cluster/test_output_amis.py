"""docs/output of a bundle with an AMI: baked by the real Packer in one account, installed in another.

As in `make demo`: only `bundle` works; nodes and pods are kwok's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.lab.lab import LabOptions
from bundler.lab.lab import lab as running_lab
from bundler.lab.tools import Tools
from bundler.trust import parse_trust_chain, trust_digest
from tests.demo.demo import AMI, OUTSIDE
from tests.journey import Workspace
from tests.needs import need_machines, need_packer
from tests.terminal import Printed, home, keep, without_a_terminal

pytestmark = [pytest.mark.sandbox, pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]
ARCHIVE = "closed-minimal-1.tar"
SITE = ("--site", "site.yaml")
VARIABLE = (
    (re.compile(r"(?<=amd64-)[0-9a-f]{12,16}\b"), "…"),
    (re.compile(r"\b[0-9.]+ MB\b"), "… MB"),  # the disk holds this machine's containerd and libraries
    (re.compile(r"\b\d+ (?=blocks\b)"), "… "),
    (re.compile(r"(?<=kernel )\S+|(?<=containerd )[0-9][^,]*|(?<=runc )[0-9][^,]*"), "…"),
    (re.compile(r"(?<=certificateAuthority\": )\S+"), "…"),
)
"""What differs from machine to machine, or by the moment at which somebody looks."""


@pytest.fixture(scope="module")
def story(assets: Path, tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Printed]]:
    """What is printed from lock to `verify --installed`, by name."""
    need_machines()
    need_packer()
    folder = tmp_path_factory.mktemp("labs")
    with (
        running_lab(folder / "outside", LabOptions(machines=True, **OUTSIDE)) as outside,
        running_lab(folder / "inside", LabOptions(kubernetes=True, source=False, assets=assets)) as inside,
        home(outside, tools) as place,
    ):
        definition = place.folder / "bundle.yaml"
        definition.write_text(definition.read_text(encoding="utf-8") + AMI, encoding="utf-8")
        told = {name: without_a_terminal(place, *words) for name, words in CONNECTED.items()}
        site = inside.site_file.read_text(encoding="utf-8")
        (place.folder / "site.yaml").write_text(re.sub(r"ami: ami-\w+", "ami: al2023", site), encoding="utf-8")
        trusted = parse_trust_chain((place.folder / "keys" / "trust.json").read_bytes(), source="trust.json")
        without_a_terminal(place, "trust", "accept", "keys/trust.json", "--expect", str(trust_digest(trusted)))
        closed = Workspace(folder=place.folder, environment={**place.environment, **inside.environment()})
        closed.environment.pop("AWS_ENDPOINT_URL")
        told |= {name: without_a_terminal(closed, *words) for name, words in CLOSED.items()}
        yield told


CONNECTED = {
    "trust init": ("trust", "init", "--out", "keys"),
    "lock": ("lock",),
    "build": ("build", "--locked", "--key", "keys/bundle.key"),
    "build again": ("build", "--locked", "--key", "keys/bundle.key"),
}
CLOSED = {
    "inspect": ("inspect", ARCHIVE),
    "user data": ("nodes", "user-data", *SITE, "--group", "main"),
    "install": ("install", ARCHIVE, *SITE, "--yes"),
    "install again": ("install", ARCHIVE, *SITE, "--yes"),
    "verify": ("verify", ARCHIVE, "--installed", *SITE),
}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("ami-build", ("lock", "build", "build again")),
        ("ami-inspect", ("inspect",)),
        ("ami-user-data", ("user data",)),
        ("ami-install", ("install", "install again")),
        ("ami-verify", ("verify",)),
    ],
)
def test_it_is_what_docs_keep(story: dict[str, Printed], name: str, parts: tuple[str, ...]) -> None:
    keep(name, *(story[part] for part in parts), variable=VARIABLE, ordered=False)
