"""docs/output is what the commands of the closed side really print; UPDATE_OUTPUT=1 writes it anew.

Nodes and pods are kwok's: status only, no containers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from bundler.lab.lab import LabFacts, LabOptions
from bundler.lab.lab import lab as running_lab
from bundler.lab.tools import Tools
from tests.journey import Workspace
from tests.terminal import Printed, faults, home, keep, normal, on_a_terminal, without_a_terminal

pytestmark = pytest.mark.cluster
INSTALL = ("install", "closed-minimal-1.tar", "--site", "site.yaml")


@pytest.fixture(scope="module")
def closed(assets: Path, tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    """A lab with a cluster, and an archive in front of it; nothing is installed yet."""
    options = LabOptions(kubernetes=True, assets=assets)
    with running_lab(tmp_path_factory.mktemp("lab"), options) as facts, home(facts, tools) as it:
        it.make_trust()
        it.build()
        yield Closed(it, facts)


class Closed:
    """A site and its operator."""

    def __init__(self, place: Workspace, facts: LabFacts) -> None:
        self.facts = facts
        self.place = Workspace(
            folder=place.folder,
            environment={**place.environment, "BUNDLE_INSTALL_TRUST": "trust"},
        )
        self.site()

    def site(self, old: str = "", new: str = "") -> None:
        """Write the site file, `new` for `old`."""
        text = self.facts.site_file.read_text(encoding="utf-8")
        assert old in text
        (self.place.folder / "site.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")

    def run(self, *more: str, expect: int = 0) -> Printed:
        """Install, as a CI job does."""
        return without_a_terminal(self.place, *INSTALL, *more, expect=expect)


def without_plan(printed: Printed) -> str:
    """What was printed without a slow push's progress and, but for its last line, the plan: install-plan.txt has it."""
    shown, count = re.subn(r"^push\n(?:  .*\n|[a-z-]+\n)+(?=\d+ changes; )", "…\n", printed.transcript, flags=re.M)
    assert count == 1, "the plan is shown before anything is written"
    return re.sub(r"^  push +\d+%  .*\n(?:    .*\n)*", "", shown, flags=re.M)


def test_a_plan_is_what_docs_keep(closed: Closed) -> None:
    """In a terminal and in a pipe the same; with --exit-code it ends with 10."""
    closed.site()
    keep("install-plan", on_a_terminal(closed.place, *INSTALL, "--plan"))
    told = closed.run("--plan", "--exit-code", expect=10).transcript.splitlines()
    keep("install-plan-exit-code", "\n".join([told[0], "…", *told[-6:], ""]))


def test_an_install_that_nobody_can_answer_is_what_docs_keep(closed: Closed) -> None:
    closed.site()
    keep("error-no-terminal", closed.run(expect=2))


@pytest.mark.parametrize(
    ("name", "old", "new", "code"),
    [
        ("site-key", "account:", "acount:", 2),
        ("infrastructure", "m6i.large", "m6g.large", 2),
        ("preflight", "autoscaling: http://127.0.0.1:", "autoscaling: http://127.0.0.1:9 # ", 5),
        ("repository-missing", "createRepositories: true", "createRepositories: false", 7),
    ],
)
def test_a_site_that_does_not_fit_is_what_docs_keep(closed: Closed, name: str, old: str, new: str, code: int) -> None:
    closed.site(old, new)
    keep(f"error-{name}", closed.run("--yes", expect=code))


def test_who_may_not_create_a_repository_is_what_docs_keep(closed: Closed) -> None:
    closed.site()
    with faults(closed.facts, service="ecr", operation="CreateRepository", kind="denied", times=1000):
        keep("error-denied", without_plan(closed.run("--yes", expect=4)))


def test_a_second_operator_is_what_docs_keep(closed: Closed) -> None:
    closed.site()
    state = closed.place.folder / "state" / "eks-bundler" / "sites" / "111122223333-eu-central-1-lab"
    with FileLock(state / "lock"):
        keep("error-locked", without_plan(closed.run("--yes", expect=7)))


def test_the_story_of_an_install_is_what_docs_keep(closed: Closed) -> None:
    """Nodes that nobody lets in are not healthy in time; let in, a second run finishes, and a third writes nothing."""
    closed.site("nodeGroups:", "accessEntries: existing\nnodeGroups:")
    keep("error-not-healthy", without_plan(closed.run("--yes", "--timeout", "20s", expect=8)))
    closed.site()
    installed = on_a_terminal(closed.place, *INSTALL, prompt="Go on?", typed="y\n")
    keep("install", installed, closed.run("--yes"))
    place = closed.place
    shown = without_a_terminal(place, "status", "--site", "site.yaml")
    assert normal(shown.transcript) == normal(on_a_terminal(place, "status", "--site", "site.yaml").transcript)
    keep("status", shown)
    keep("kubeconfig", without_a_terminal(place, "kubeconfig", "--site", "site.yaml", "--out", "kubeconfig"))
