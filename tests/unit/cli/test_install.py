"""What `bundle install` shows and asks before it writes."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from bundler.cli.install import confirm
from bundler.cli.progress import Progress
from bundler.domain.plan import Action, Plan
from bundler.errors import UsageError
from tests.journey import Workspace

PLAN = Plan(actions=(Action(phase="push", verb="upload", target="registry.k8s.io/pause:v1"),), unchanged=("a", "b"))
SHOWN = "push\n  upload registry.k8s.io/pause:v1\n1 change; 2 objects are right already.\n"


class Terminal(io.StringIO):
    """Where somebody types."""

    def isatty(self) -> bool:
        return True


def test_the_plan_is_shown_even_where_nobody_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert confirm(PLAN, yes=True, emit=Progress("none"))
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", SHOWN)


def test_for_machines_the_plan_is_told_in_events(capsys: pytest.CaptureFixture[str]) -> None:
    assert confirm(PLAN, yes=True, emit=Progress("json"))
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [event["text"] for event in events] == SHOWN.splitlines()
    assert {event["event"] for event in events} == {"Noted"}


@pytest.mark.parametrize(("typed", "goes_on"), [("y\n", True), ("\n", False)])
def test_who_is_asked_sees_the_plan_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, typed: str, goes_on: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    assert confirm(PLAN, yes=False, emit=Progress("none")) is goes_on
    printed = capsys.readouterr()
    assert printed.err.startswith(f"{SHOWN}Go on? [y/N]: ")
    assert printed.out.strip() == ""


def test_without_a_terminal_and_yes_nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(UsageError, match="no terminal to ask"):
        confirm(PLAN, yes=False, emit=Progress("none"))


def test_exit_code_without_plan_is_a_usage_error(tmp_path: Path) -> None:
    done = Workspace(folder=tmp_path).bundle("install", "x.tar", "--site", "site.yaml", "--exit-code", expect=2)
    assert "--plan was not given" in done.stderr
