"""Repositories of a private registry: what the site wants, what is there, what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bundler.domain.plan import Action, Plan

MAX_PREFIX = 100
"""Characters of what a site puts before every repository, so that lock can tell which names will be too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository as the site wants it.

    Attributes:
        kms_key: ARN; None for the registry's own encryption.
    """

    name: str
    immutable: bool = True
    scan_on_push: bool = False
    kms_key: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryState:
    """A repository as it is; `mutability` in ECR's word: MUTABLE, IMMUTABLE, or one with exclusions."""

    name: str
    arn: str
    mutability: str
    scan_on_push: bool
    kms_key: str | None

    @property
    def immutable(self) -> bool:
        """Whether a tag, once given, stays (exclusions count as not)."""
        return self.mutability == "IMMUTABLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryPlan:
    """What to create, and where what exists is not what the site says: reported, never changed.

    Attributes:
        missing: to be created.
        present: those that exist.
        differences: one line each.
    """

    missing: tuple[Repository, ...] = ()
    present: tuple[RepositoryState, ...] = ()
    differences: tuple[str, ...] = ()

    @property
    def plan(self) -> Plan:
        """The same for people and for `--plan`."""
        return Plan(
            actions=tuple(
                Action(
                    phase="push",
                    verb="create",
                    target=f"repository {repository.name}",
                    detail="immutable tags" if repository.immutable else "mutable tags",
                )
                for repository in self.missing
            ),
            unchanged=tuple(f"repository {state.name}" for state in self.present),
        )


def plan_repositories(wanted: Sequence[Repository], *, found: Mapping[str, RepositoryState]) -> RepositoryPlan:
    """Return what is missing and what differs."""
    return RepositoryPlan(
        missing=tuple(repository for repository in wanted if repository.name not in found),
        present=tuple(found[repository.name] for repository in wanted if repository.name in found),
        differences=tuple(
            line
            for repository in wanted
            if repository.name in found
            for line in _differences(repository, found[repository.name])
        ),
    )


def _differences(wanted: Repository, found: RepositoryState) -> list[str]:
    lines = []
    if wanted.immutable != found.immutable:
        asked = "IMMUTABLE" if wanted.immutable else "MUTABLE"
        lines.append(f"repository {found.name} is {found.mutability}, the site says {asked}")
    if wanted.scan_on_push and not found.scan_on_push:
        lines.append(f"repository {found.name} does not scan on push, the site says it should")
    if wanted.kms_key is not None and wanted.kms_key != found.kms_key:
        lines.append(
            f"repository {found.name} is encrypted with {found.kms_key or 'AES256'}, not with {wanted.kms_key}"
        )
    return lines
