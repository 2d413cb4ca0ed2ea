from __future__ import annotations

from bundler.cli.render import render_error
from bundler.errors import DigestError


def test_an_error_shows_object_cause_what_is_safe_and_the_next_command() -> None:
    error = DigestError("blob abc", "is damaged", safe="Nothing was pushed.", hint="Copy the archive again.")
    text = render_error(error)
    assert text.splitlines() == [
        "Digest error: blob abc",
        "  cause: is damaged",
        "  safe:  Nothing was pushed.",
        "  next:  Copy the archive again.",
    ]


def test_foreign_text_in_an_error_cannot_drive_the_terminal() -> None:
    assert "\x1b" not in render_error(DigestError("evil\x1b[2J", "x\x07y"))
