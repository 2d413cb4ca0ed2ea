"""The operator guide's commands, typed in its order, lead from nothing to an installed site.

Only what a reader puts in too is put in: the digest, the bucket, and what stands in bundle.yaml and site.yaml.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from bundler.lab.lab import LabFacts, LabOptions
from bundler.lab.lab import lab as running_lab
from bundler.lab.tools import Tools
from tests.documents import GUIDE
from tests.journey import Workspace
from tests.terminal import home

pytestmark = pytest.mark.cluster


def commands(section: str) -> list[list[str]]:
    """The arguments of every `bundle …` in the first code block of a section."""
    text = GUIDE.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2]
    block = next(part for part in text.split("\n\n") if part.lstrip("\n").startswith("    "))
    words = [shlex.split(line, comments=True) for line in block.splitlines()]
    return [line[1:] for line in words if line and line[0] == "bundle"]


def type_all(place: Workspace, section: str, known: dict[str, str]) -> dict[str, str]:
    """Type the commands of a section; return what each printed."""
    printed = {}
    for arguments in commands(section):
        typed = [re.sub("sha256:…|example-bucket", lambda found: known[found[0]], word) for word in arguments]
        printed[" ".join(arguments[:2])] = output = place.bundle(*typed).stdout
        if arguments[:2] == ["trust", "init"]:
            known["sha256:…"] = re.findall(r"sha256:[0-9a-f]{64}", output)[0]
        if arguments[0] == "init":
            (place.folder / "lab.yaml").rename(place.folder / "bundle.yaml")
    return printed


def test_the_sequence_of_the_guide_installs_a_site(assets: Path, tools: Tools, tmp_path: Path) -> None:
    with running_lab(tmp_path, LabOptions(kubernetes=True, assets=assets)) as facts, home(facts, tools) as outside:
        definition = outside.folder / "bundle.yaml"
        text = definition.read_text(encoding="utf-8").replace("name: closed-minimal", "name: my-bundle")
        (outside.folder / "lab.yaml").write_text(text, encoding="utf-8")
        definition.unlink()
        known = {"example-bucket": facts.bucket}
        printed = type_all(outside, "Outside: build", known)
        assert "my-bundle-1" in printed["inspect my-bundle-1.tar"]
        slip = (outside.folder / "my-bundle-1.slip.json").read_text(encoding="utf-8")
        assert f'"trust": "{known["sha256:…"]}"' in slip
        _inside(facts, tools, outside, known)


def _inside(facts: LabFacts, tools: Tools, outside: Workspace, known: dict[str, str]) -> None:
    with home(facts, tools) as inside:
        (inside.folder / "trust.json").write_bytes((outside.folder / "keys" / "trust.json").read_bytes())
        (inside.folder / "site.yaml").write_bytes(facts.site_file.read_bytes())
        printed = type_all(inside, "Inside: install", known)
        assert "cluster  lab" in printed["status --site"]
        assert (inside.folder / "kubeconfig").stat().st_mode & 0o777 == 0o600
