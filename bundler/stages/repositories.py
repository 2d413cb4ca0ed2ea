"""Repositories of the private registry: created where the site allows it, named where it does not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from bundler.domain.events import Emit, Noted, counted, silent
from bundler.domain.names import owner_tags
from bundler.domain.repository import Repository, RepositoryPlan, RepositoryState, plan_repositories
from bundler.domain.site import Site
from bundler.errors import MissingRepositoryError


class RepositoryRegistry(Protocol):
    """A registry whose repositories must exist before anything is pushed."""

    def describe(self, names: Sequence[str]) -> dict[str, RepositoryState]:
        """Return those of `names` that exist."""
        ...

    def create(self, repository: Repository) -> None:
        """Create a repository, unless somebody just did."""
        ...


def wanted_repositories(site: Site, names: Iterable[str]) -> tuple[Repository, ...]:
    """Return the repositories of these names as the site wants them, sorted."""
    settings = site.registry
    return tuple(
        Repository(
            name=name,
            immutable=settings.immutable,
            scan_on_push=settings.scan_on_push,
            kms_key=settings.kms_key,
            tags=owner_tags(site.cluster.name),
        )
        for name in sorted(set(names))
    )


def observe_repositories(site: Site, names: Iterable[str], *, registry: RepositoryRegistry) -> RepositoryPlan:
    """Return what is missing, looking only.

    Raises:
        MissingRepositoryError: some are, and the site forbids creating them; all of them are named.
    """
    wanted = wanted_repositories(site, names)
    plan = plan_repositories(wanted, found=registry.describe([repository.name for repository in wanted]))
    if plan.missing and not site.registry.create_repositories:
        raise _forbidden(plan.missing, site)
    return plan


def repositories(plan: RepositoryPlan, *, registry: RepositoryRegistry, emit: Emit = silent) -> None:
    """Create what is missing; report what is not as the site says."""
    for line in plan.differences:
        emit(Noted(text=line, warning=True))
    for repository in plan.missing:
        registry.create(repository)


def _forbidden(missing: Sequence[Repository], site: Site) -> MissingRepositoryError:
    commands = "\n".join(_command(repository, site.region) for repository in missing)
    return MissingRepositoryError(
        site.registry_host,
        f"lacks {counted(len(missing), 'repository', 'repositories')}, and the site says createRepositories: false",
        hint=f"Have them made, then run the same command again:\n{commands}",
    )


def _command(repository: Repository, region: str) -> str:
    words = [
        f"aws ecr create-repository --region {region} --repository-name {repository.name}",
        f"--image-tag-mutability {'IMMUTABLE' if repository.immutable else 'MUTABLE'}",
    ]
    if repository.scan_on_push:
        words.append("--image-scanning-configuration scanOnPush=true")
    if repository.kms_key is not None:
        words.append(f"--encryption-configuration encryptionType=KMS,kmsKey={repository.kms_key}")
    return " ".join(words)
