"""Node groups -> launch templates and Auto Scaling groups; how many nodes run is decided once and then read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from bundler.domain.digest import Digest
from bundler.domain.events import Emit, Noted, silent
from bundler.domain.infrastructure import MachineImage
from bundler.domain.names import CLUSTER_TAG, step_key
from bundler.domain.node_template import (
    LaunchTemplate,
    NodeTemplate,
    ScalingGroup,
    group_name,
    node_template,
    scaling_group_tags,
)
from bundler.domain.plan import Action, Plan
from bundler.domain.site import NodeGroup, Site
from bundler.domain.user_data import user_data_warnings
from bundler.errors import ConflictError

PHASE = "nodes"


class Templates(Protocol):
    """Launch templates."""

    def template(self, name: str) -> LaunchTemplate | None:
        """Return a template with its versions, None where there is none of that name."""
        ...

    def create_template(self, template: NodeTemplate, *, token: str) -> tuple[str, int]:
        """Create a template; return its id and its first version."""
        ...

    def add_version(self, template_id: str, template: NodeTemplate, *, token: str) -> int:
        """Add a version; return its number."""
        ...


class Groups(Protocol):
    """Auto Scaling groups."""

    def group(self, name: str) -> ScalingGroup | None:
        """Return a group with its instances, None where there is none of that name."""
        ...

    def create(self, group: ScalingGroup) -> None:
        """Create a group, the one time that `desired` is written."""
        ...

    def update(self, group: ScalingGroup) -> None:
        """Give a group size limits and template version."""
        ...

    def tag(self, name: str, tags: Mapping[str, str]) -> None:
        """Add or change tags."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What exists for one node group."""

    template: LaunchTemplate | None = None
    group: ScalingGroup | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    """What to do for one node group.

    Attributes:
        template: what instances are launched from.
        template_id: None where the template is to be created.
        version: the version to use; None where it is to be made.
        wanted: the group; its template id and version are filled in when they are known.
        change: what happens to the group.
        tags: tags to add to it.
        notes: what differs and is left alone, and what is legacy.
    """

    template: NodeTemplate
    wanted: ScalingGroup
    template_id: str | None = None
    version: int | None = None
    change: Literal["create", "update"] | None = None
    tags: Mapping[str, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesPlan:
    """All node groups of a site, and for which bundle."""

    groups: tuple[GroupPlan, ...]
    bundle: Digest

    @property
    def plan(self) -> Plan:
        """The same for people and for `--plan`."""
        return sum((_shown(group) for group in self.groups), Plan())


def observe_nodes(site: Site, *, templates: Templates, groups: Groups) -> dict[str, Found]:
    """Return what exists for each node group of the site, by its name there."""
    names = {group.name: group_name(site, group) for group in site.node_groups}
    return {key: Found(template=templates.template(name), group=groups.group(name)) for key, name in names.items()}


def plan_nodes(
    site: Site, *, bundle: Digest, images: Mapping[str, MachineImage], found: Mapping[str, Found]
) -> NodesPlan:
    """Return what to write; nothing for groups that are as the site says.

    Raises:
        ConflictError: a template or group of that name is not ours.
        DefinitionError: the user data cannot be made.
    """
    return NodesPlan(
        groups=tuple(_plan_group(site, group, images[group.name], found[group.name]) for group in site.node_groups),
        bundle=bundle,
    )


def nodes(plan: NodesPlan, *, templates: Templates, groups: Groups, emit: Emit = silent) -> None:
    """Do what the plan says. Killed anywhere, the next run finds what was made by its name and content."""
    for item in plan.groups:
        for note in item.notes:
            emit(Noted(text=note, warning=True))
        template_id, version = _ensure_version(item, plan.bundle, templates)
        wanted = replace(item.wanted, template_id=template_id, version=str(version))
        if item.change == "create":
            groups.create(wanted)
        elif item.change == "update":
            groups.update(wanted)
        if item.tags and item.change != "create":
            groups.tag(wanted.name, item.tags)


def _ensure_version(item: GroupPlan, bundle: Digest, templates: Templates) -> tuple[str, int]:
    if item.template_id is not None and item.version is not None:
        return item.template_id, item.version
    token = step_key("launch-template", {"name": item.template.name, "content": item.template.digest}, bundle)
    if item.template_id is None:
        return templates.create_template(item.template, token=token)
    return item.template_id, templates.add_version(item.template_id, item.template, token=token)


def _plan_group(site: Site, group: NodeGroup, image: MachineImage, found: Found) -> GroupPlan:
    template = node_template(site, group, image)
    there = found.template
    if there is not None:
        _refuse_foreign("launch template", there.name, there.tags, site)
    version = _matching_version(template, found)
    wanted = _wanted(site, group, template, found, version)
    if found.group is None:
        return GroupPlan(
            template=template,
            template_id=there.id if there is not None else None,
            version=version,
            wanted=wanted,
            change="create",
            tags={},
            notes=user_data_warnings(site, group),
        )
    _refuse_foreign("Auto Scaling group", found.group.name, found.group.tags, site)
    return GroupPlan(
        template=template,
        template_id=there.id if there is not None else None,
        version=version,
        wanted=wanted,
        change="update" if _differs(wanted, found.group) else None,
        tags={key: value for key, value in wanted.tags.items() if found.group.tags.get(key) != value},
        notes=(*user_data_warnings(site, group), *_notes(wanted, found.group)),
    )


def _matching_version(template: NodeTemplate, found: Found) -> int | None:
    """Return the version with our content: the one in use before the newest, so that nothing moves without need."""
    if found.template is None:
        return None
    same = [version.number for version in found.template.versions if version.digest == template.digest]
    in_use = found.group.version if found.group is not None else ""
    return next((number for number in same if str(number) == in_use), max(same, default=None))


def _wanted(site: Site, group: NodeGroup, template: NodeTemplate, found: Found, version: int | None) -> ScalingGroup:
    return ScalingGroup(
        name=template.name,
        min_size=group.min_size,
        max_size=group.max_size,
        desired=group.desired_size,
        template_id=found.template.id if found.template is not None else None,
        version=str(version) if version is not None else "",
        subnets=frozenset(group.subnets or site.subnets),
        tags=scaling_group_tags(site, group),
    )


def _differs(wanted: ScalingGroup, there: ScalingGroup) -> bool:
    def followed(group: ScalingGroup) -> tuple[object, ...]:
        return group.min_size, group.max_size, group.template_id, group.version

    return followed(wanted) != followed(there)


def _notes(wanted: ScalingGroup, there: ScalingGroup) -> tuple[str, ...]:
    if wanted.subnets == there.subnets:
        return ()
    text = f"Auto Scaling group {there.name} uses {', '.join(sorted(there.subnets))}; the site says "
    return (text + f"{', '.join(sorted(wanted.subnets))}: subnets of a running group are not moved",)


def _refuse_foreign(kind: str, name: str, tags: Mapping[str, str], site: Site) -> None:
    owner = tags.get(CLUSTER_TAG)
    if owner == site.cluster.name:
        return
    state = f"belongs to {owner}" if owner is not None else f"has no tag {CLUSTER_TAG}: somebody else made it"
    raise ConflictError(
        f"{kind} {name}",
        state,
        hint=f"Give the node group another name, or hand it over with the tag {CLUSTER_TAG}={site.cluster.name}.",
    )


def _shown(item: GroupPlan) -> Plan:
    name = item.template.name
    actions, unchanged = [], []
    if item.template_id is None:
        actions.append(Action(phase=PHASE, verb="create", target=f"launch template {name}"))
    elif item.version is None:
        detail = "new version; instances keep theirs until they are rolled"
        actions.append(Action(phase=PHASE, verb="update", target=f"launch template {name}", detail=detail))
    else:
        unchanged.append(f"launch template {name} version {item.version}")
    sizes = f"min {item.wanted.min_size}, max {item.wanted.max_size}"
    target = f"Auto Scaling group {name}"
    if item.change == "create":
        detail = f"{sizes}, desired {item.wanted.desired}"
        actions.append(Action(phase=PHASE, verb="create", target=target, detail=detail))
    elif item.change == "update":
        detail = f"{sizes}, template version {item.version or 'as just made'}"
        actions.append(Action(phase=PHASE, verb="update", target=target, detail=detail))
    elif item.tags:
        actions.append(Action(phase=PHASE, verb="update", target=target, detail=f"tags {', '.join(sorted(item.tags))}"))
    else:
        unchanged.append(target)
    return Plan(actions=tuple(actions), unchanged=tuple(unchanged))
