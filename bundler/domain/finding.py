"""What checks find: all of it at once, each with what to do, one exit code for the worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bundler.errors import BundleError, FindingsError

_WORST_FIRST = (3, 4, 7, 2, 6, 8, 5, 1)
"""Exit codes: what no second try and no waiting mends comes before what may pass by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        check: the check that found it, in a few words.
        subject: the object.
        cause: what is wrong with it.
        hint: the one thing to do about it.
        exit_code: of its class (errors.py).
    """

    check: str
    subject: str
    cause: str
    hint: str
    exit_code: int

    @classmethod
    def of(cls, check: str, error: BundleError) -> Finding:
        """Return the finding that an error amounts to."""
        return cls(check=check, subject=error.subject, cause=error.cause, hint=error.hint, exit_code=error.exit_code)

    def __str__(self) -> str:
        return f"- {self.check}: {self.subject}: {self.cause}" + (f"\n  {self.hint}" if self.hint else "")


def raise_findings(subject: str, findings: Sequence[Finding]) -> None:
    """Do nothing where there are none.

    Raises:
        FindingsError: with all of them, and the exit code of the worst.
    """
    if not findings:
        return
    raise FindingsError(
        subject,
        f"{len(findings)} check{'s' if len(findings) > 1 else ''} failed\n"
        + "\n".join(str(finding) for finding in findings),
        exit_code=min((finding.exit_code for finding in findings), key=_rank),
    )


def _rank(exit_code: int) -> int:
    return _WORST_FIRST.index(exit_code) if exit_code in _WORST_FIRST else len(_WORST_FIRST)
