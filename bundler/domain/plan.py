"""What an install phase is going to do: shown by `--plan`, empty when the world is as the bundle and the site say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Verb = Literal[
    "create",
    "update",
    "upload",
    "mount",
    "restore",
    "copy",
    "register",
    "install",
    "upgrade",
    "adopt",
    "remove",
    "finish",
]
LAST_PHASE = "add-ons"
"""Where the journal has it, everything of a bundle has been written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One write.

    Attributes:
        phase: the phase of install that does it: push, identity, core, nodes, …
        verb: what happens to `target`.
        target: the object as its owner knows it: a repository, a reference, `launch template c1-main`.
        detail: one line on why or with what; never a secret.
    """

    phase: str
    verb: Verb
    target: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.target}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The writes of one or more phases in the order they will happen.

    Attributes:
        actions: what will be written.
        unchanged: targets that were looked at and are right already.
    """

    actions: tuple[Action, ...] = ()
    unchanged: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        raise TypeError("ask plan.empty: an empty plan is an answer, not a missing one")

    def __iter__(self) -> Iterator[Action]:
        return iter(self.actions)

    def __add__(self, other: Plan) -> Plan:
        return Plan(actions=self.actions + other.actions, unchanged=self.unchanged + other.unchanged)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self.actions
