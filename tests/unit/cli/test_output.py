"""The progress display, played by a clock that this test turns: docs/output/progress-*.txt."""

from __future__ import annotations

import io
import os

import pytest

from bundler.cli.progress import Progress
from bundler.cli.render import render_error
from bundler.domain.events import (
    BytesMoved,
    ItemDone,
    Noted,
    PhaseDone,
    PhaseStarted,
    Retrying,
    TransferPlanned,
    Waiting,
)
from bundler.domain.finding import Finding, raise_findings
from bundler.errors import FindingsError
from tests.terminal import Printed, keep


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def play(style: str) -> Printed:
    """An install as its audience sees it, four seconds between two looks."""
    stream, clock = io.StringIO(), Clock()
    show = Progress(style, stream, clock)
    show(PhaseStarted(phase="verify", detail="s3://carry/big-7.tar"))
    show(PhaseDone(phase="verify", detail="big-7, root 9b47ed308f12"))
    show(PhaseStarted(phase="push"))
    show(TransferPlanned(phase="push", total_bytes=17_500_000_000, items=3))
    show(BytesMoved(phase="push", item="5a78d5291863", count=40_000_000))
    for _ in range(4):
        clock.now += 4
        show(BytesMoved(phase="push", item="94f030c299fa", count=2_000_000_000))
    show(Retrying(subject="111122223333.dkr.ecr.eu-central-1.amazonaws.com/closed/pause", cause="503 busy", wait_s=1.5))
    clock.now += 4
    show(BytesMoved(phase="push", item="94f030c299fa", count=9_460_000_000))
    for item in ("94f030c299fa", "5a78d5291863", "0cea341d5d92"):
        clock.now += 4
        show(ItemDone(phase="push", item=item))
    show(PhaseDone(phase="push", detail="11 pushed, 0 were there; all digests read back (32.0 s)"))
    show(Noted(text="Auto Scaling group main uses subnet-0a; the site says subnet-0b: not moved", warning=True))
    show(PhaseStarted(phase="check-nodes"))
    for elapsed in range(0, 40, 4):
        clock.now += 4
        state = "1 to go: i-0abc: runs, but no node has joined"
        show(Waiting(subject="nodes", state=state, elapsed_s=elapsed, limit_s=900))
    show(PhaseDone(phase="check-nodes", detail="2 nodes Ready (40.0 s)"))
    show.close()
    return Printed(arguments=("install", "…"), code=0, raw=stream.getvalue())


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_progress_on_a_terminal_is_what_docs_keep() -> None:
    """Every state of the living line first, then what stays."""
    printed = play("tty")
    assert max(map(len, printed.frames)) < 160
    rows = [frame[at : at + 80].rstrip() for frame in printed.frames for at in range(0, len(frame.rstrip()), 80)]
    film = "All that was drawn, in order:\n" + "".join(f"{row}\n" for row in rows)
    keep("progress-tty", film, "What stays on the screen:\n" + "\n".join(printed.lines))


def test_progress_without_a_terminal_is_what_docs_keep() -> None:
    printed = play("plain")
    assert "\x1b" not in printed.raw
    assert "\r" not in printed.raw
    keep("progress-plain", printed.raw)


def test_progress_for_machines_is_what_docs_keep() -> None:
    keep("progress-json", play("json").raw)


def test_several_findings_each_stand_on_lines_of_their_own() -> None:
    def finding(check: str, subject: str, cause: str, hint: str) -> Finding:
        return Finding(check=check, subject=subject, cause=cause, hint=hint, exit_code=5)

    with pytest.raises(FindingsError) as caught:
        raise_findings(
            "site of cluster c1",
            [
                finding("EC2", "ec2", "no answer from https://ec2.eu-central-1.amazonaws.com: timeout", "Make it."),
                finding("EKS", "cluster c1", "differs", "Take it from: aws eks describe-cluster --name c1"),
            ],
        )
    assert render_error(caught.value, width=80).splitlines() == [
        "Checks failed: site of cluster c1",
        "  cause: 2 checks failed",
        "         - EC2: ec2: no answer from https://ec2.eu-central-1.amazonaws.com:",
        "           timeout",
        "           Make it.",
        "         - EKS: cluster c1: differs",
        "           Take it from: aws eks describe-cluster --name c1",
        "  safe:  Nothing was written.",
        "  next:  Mend these, then run the same command again.",
    ]
