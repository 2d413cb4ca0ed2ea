"""Plans of repositories."""

from __future__ import annotations

from bundler.domain.repository import Repository, RepositoryState, plan_repositories


def state(name: str, *, mutability: str = "IMMUTABLE", scan: bool = False, key: str | None = None) -> RepositoryState:
    return RepositoryState(name=name, arn=f"arn:{name}", mutability=mutability, scan_on_push=scan, kms_key=key)


def test_only_missing_repositories_are_created() -> None:
    plan = plan_repositories([Repository(name="a"), Repository(name="b")], found={"a": state("a")})
    assert [repository.name for repository in plan.missing] == ["b"]
    assert [str(action) for action in plan.plan] == ["create repository b (immutable tags)"]
    assert plan.plan.unchanged == ("repository a",)
    assert not plan.differences


def test_a_repository_that_differs_is_reported_and_left_alone() -> None:
    wanted = [Repository(name="a", scan_on_push=True, kms_key="arn:key")]
    plan = plan_repositories(wanted, found={"a": state("a", mutability="MUTABLE")})
    assert plan.plan.empty
    assert len(plan.differences) == 3
    assert "MUTABLE, the site says IMMUTABLE" in plan.differences[0]


def test_immutability_with_exclusions_is_not_immutability() -> None:
    found = {"a": state("a", mutability="IMMUTABLE_WITH_EXCLUSION")}
    assert plan_repositories([Repository(name="a")], found=found).differences
