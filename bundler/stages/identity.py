"""Node roles -> access entries, before a single node starts: a kubelet of an unknown role is refused and backs off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from bundler.domain.access import NODE_BY_ID_TYPE, NODE_TYPE, AccessEntry, ClusterFacts
from bundler.domain.digest import Digest
from bundler.domain.names import owner_tags, step_key
from bundler.domain.plan import Action, Plan
from bundler.domain.site import Site
from bundler.errors import ConflictError, TargetError

PHASE = "identity"
LOOKS = 10  # access entries are eventually consistent: several seconds
LOOK_EVERY_S = 1.0


class Access(Protocol):
    """The EKS API of one cluster."""

    def facts(self) -> ClusterFacts | None:
        """Return what EKS says of the cluster."""
        ...

    def entry(self, principal: str) -> AccessEntry | None:
        """Return the access entry of a principal."""
        ...

    def create_entry(self, entry: AccessEntry, *, tags: Mapping[str, str], token: str) -> None:
        """Create an access entry, unless somebody just did."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityPlan:
    """Access entries to create, and those that are right."""

    missing: tuple[AccessEntry, ...] = ()
    present: tuple[AccessEntry, ...] = ()

    @property
    def plan(self) -> Plan:
        """The same for people and for `--plan`."""
        return Plan(
            actions=tuple(
                Action(phase=PHASE, verb="create", target=f"access entry {entry.principal}", detail=entry.type)
                for entry in self.missing
            ),
            unchanged=tuple(f"access entry {entry.principal}" for entry in self.present),
        )


def node_entries(site: Site) -> tuple[AccessEntry, ...]:
    """Return the entries that the roles of the site's node groups need; none where they are made elsewhere."""
    if site.access_entries == "existing":
        return ()
    types = {group.role: NODE_BY_ID_TYPE if group.instance_id_node_name else NODE_TYPE for group in site.node_groups}
    return tuple(AccessEntry(principal=role, type=kind) for role, kind in sorted(types.items()))


def observe_identity(site: Site, *, access: Access) -> IdentityPlan:
    """Return which access entries are missing, looking only.

    Raises:
        ConflictError: no such cluster, one that knows no access entries, or an entry of another type.
        NetworkError: the EKS API does not answer.
    """
    wanted = node_entries(site)
    if not wanted:
        return IdentityPlan()
    facts = access.facts()
    return plan_identity(
        site, facts=facts, entries={entry.principal: access.entry(entry.principal) for entry in wanted}
    )


def plan_identity(site: Site, *, facts: ClusterFacts | None, entries: Mapping[str, AccessEntry | None]) -> IdentityPlan:
    """Return which access entries to create.

    Raises:
        ConflictError: as `observe_identity`.
    """
    _refuse_unable(site, facts)
    wanted = node_entries(site)
    for entry in wanted:
        _refuse_other_type(entry, entries[entry.principal])
    return IdentityPlan(
        missing=tuple(entry for entry in wanted if entries[entry.principal] is None),
        present=tuple(entry for entry in wanted if entries[entry.principal] is not None),
    )


def _refuse_other_type(wanted: AccessEntry, there: AccessEntry | None) -> None:
    if there is None or there.type == wanted.type:
        return
    raise ConflictError(
        f"access entry {there.principal}",
        f"is of type {there.type}; nodes need {wanted.type}, and the type of an entry cannot be changed",
        hint="Use a role of its own for the nodes, or have that entry deleted by whoever made it.",
    )


def identity(plan: IdentityPlan, site: Site, *, bundle: Digest, access: Access, sleep: Callable[[float], None]) -> None:
    """Create what is missing and wait until EKS shows it.

    Raises:
        TargetError: EKS took an entry and does not show it.
    """
    for entry in plan.missing:
        token = step_key("access-entry", {"cluster": site.cluster.name, "principal": entry.principal}, bundle)
        access.create_entry(entry, tags=owner_tags(site.cluster.name), token=token)
    for entry in plan.missing:
        _await_entry(entry, access, sleep)


def _await_entry(entry: AccessEntry, access: Access, sleep: Callable[[float], None]) -> None:
    for _ in range(LOOKS):
        there = access.entry(entry.principal)
        if there == entry:
            return
        if there is not None:
            raise ConflictError(f"access entry {entry.principal}", f"was made by somebody else as {there.type}")
        sleep(LOOK_EVERY_S)
    raise TargetError(f"access entry {entry.principal}", "was created, but EKS does not show it")


def _refuse_unable(site: Site, facts: ClusterFacts | None) -> None:
    name = f"cluster {site.cluster.name}"
    if facts is None:
        cause = f"does not exist in account {site.account}, {site.region}"
        raise ConflictError(name, cause, hint="Correct cluster, account or region in the site file.")
    if facts.authentication_mode == "CONFIG_MAP":
        raise ConflictError(
            name,
            "knows no access entries: its authentication mode is CONFIG_MAP",
            hint=(
                "Switch it once (there is no way back): aws eks update-cluster-config --region "
                f"{site.region} --name {site.cluster.name} --access-config authenticationMode=API_AND_CONFIG_MAP"
            ),
        )
