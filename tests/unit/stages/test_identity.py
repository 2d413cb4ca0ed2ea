"""Access entries of node roles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from bundler.domain.access import AccessEntry, ClusterFacts
from bundler.domain.digest import Digest
from bundler.errors import ConflictError, TargetError
from bundler.stages.identity import identity, observe_identity
from tests.fakes.sites import ROLE, group_document, make_site

BUNDLE = Digest.of(b"bundle")


@dataclass
class Access:
    """EKS in memory; an entry shows after `delay` looks."""

    mode: str = "API_AND_CONFIG_MAP"
    exists: bool = True
    entries: dict[str, AccessEntry] = field(default_factory=dict)
    delay: int = 0
    made: list[tuple[AccessEntry, Mapping[str, str], str]] = field(default_factory=list)

    def facts(self) -> ClusterFacts | None:
        if not self.exists:
            return None
        return ClusterFacts(
            status="ACTIVE", endpoint="", certificate_authority="", service_cidr="", authentication_mode=self.mode
        )

    def entry(self, principal: str) -> AccessEntry | None:
        if self.made and self.delay:
            self.delay -= 1
            return None
        return self.entries.get(principal)

    def create_entry(self, entry: AccessEntry, *, tags: Mapping[str, str], token: str) -> None:
        self.made.append((entry, tags, token))
        self.entries.setdefault(entry.principal, entry)


def test_a_missing_entry_is_created_and_the_next_plan_is_empty() -> None:
    access, slept = Access(delay=2), list[float]()
    plan = observe_identity(make_site(), access=access)
    assert [str(action) for action in plan.plan] == [f"create access entry {ROLE} (EC2_LINUX)"]
    identity(plan, make_site(), bundle=BUNDLE, access=access, sleep=slept.append)
    assert len(slept) == 2
    again = observe_identity(make_site(), access=access)
    assert again.plan.empty
    assert again.plan.unchanged == (f"access entry {ROLE}",)


def test_groups_that_share_a_role_need_one_entry() -> None:
    site = make_site(nodeGroups=[group_document(), group_document(name="other")])
    assert len(observe_identity(site, access=Access()).missing) == 1


def test_an_entry_of_another_type_is_a_conflict() -> None:
    access = Access(entries={ROLE: AccessEntry(principal=ROLE, type="STANDARD")})
    with pytest.raises(ConflictError, match="STANDARD"):
        observe_identity(make_site(), access=access)


def test_a_cluster_with_a_config_map_only_is_a_conflict_with_the_command_that_switches_it() -> None:
    with pytest.raises(ConflictError) as caught:
        observe_identity(make_site(), access=Access(mode="CONFIG_MAP"))
    assert "authenticationMode=API_AND_CONFIG_MAP" in caught.value.hint


def test_a_cluster_that_does_not_exist_is_a_conflict() -> None:
    with pytest.raises(ConflictError, match="does not exist"):
        observe_identity(make_site(), access=Access(exists=False))


def test_entries_that_are_made_elsewhere_are_not_asked_for() -> None:
    access = Access(exists=False)
    assert observe_identity(make_site(accessEntries="existing"), access=access).plan.empty


def test_a_site_without_nodes_needs_no_entry() -> None:
    assert observe_identity(make_site(nodeGroups=[]), access=Access(exists=False)).plan.empty


def test_an_entry_that_never_shows_is_an_error_and_not_success() -> None:
    access = Access(delay=1000)
    plan = observe_identity(make_site(), access=access)
    with pytest.raises(TargetError):
        identity(plan, make_site(), bundle=BUNDLE, access=access, sleep=lambda _: None)


def test_somebody_elses_entry_made_meanwhile_is_a_conflict() -> None:
    access = Access()
    plan = observe_identity(make_site(), access=access)
    access.entries[ROLE] = AccessEntry(principal=ROLE, type="EC2")
    with pytest.raises(ConflictError, match="somebody else as EC2"):
        identity(plan, make_site(), bundle=BUNDLE, access=access, sleep=lambda _: None)


def test_a_second_call_carries_the_token_of_the_first() -> None:
    tokens = set()
    for _ in range(2):
        access = Access()
        plan = observe_identity(make_site(), access=access)
        identity(plan, make_site(), bundle=BUNDLE, access=access, sleep=lambda _: None)
        tokens.add(access.made[0][2])
    assert len(tokens) == 1


def test_a_role_whose_nodes_are_called_by_their_id_gets_an_entry_that_names_them_so() -> None:
    site = make_site(nodeGroups=[group_document(instanceIdNodeName="true"), group_document(name="b", role=f"{ROLE}-b")])
    assert observe_identity(site, access=Access()).missing == (
        AccessEntry(principal=ROLE, type="EC2"),
        AccessEntry(principal=f"{ROLE}-b", type="EC2_LINUX"),
    )


def test_an_entry_for_names_of_the_other_kind_is_a_conflict() -> None:
    site = make_site(nodeGroups=[group_document(instanceIdNodeName="true")])
    with pytest.raises(ConflictError, match="is of type EC2_LINUX; nodes need EC2,"):
        observe_identity(site, access=Access(entries={ROLE: AccessEntry(principal=ROLE, type="EC2_LINUX")}))
