"""Launch templates and Auto Scaling groups in memory; `writes` keeps every mutating call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bundler.domain.node_template import (
    Activity,
    LaunchTemplate,
    NodeTemplate,
    ScalingGroup,
    TemplateVersion,
)


class KilledError(Exception):
    """The process died here."""


@dataclass
class NodeCloud:
    """Fits the ports Templates, Groups and GroupWatch; `die_at` kills before that write, counted from 1."""

    templates: dict[str, LaunchTemplate] = field(default_factory=dict)
    groups: dict[str, ScalingGroup] = field(default_factory=dict)
    scaling: dict[str, list[Activity]] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    die_at: int = 0

    def _write(self, what: str) -> None:
        self.writes.append(what)
        if len(self.writes) == self.die_at:
            raise KilledError(what)

    def template(self, name: str) -> LaunchTemplate | None:
        return self.templates.get(name)

    def create_template(self, template: NodeTemplate, *, token: str) -> tuple[str, int]:
        self._write(f"CreateLaunchTemplate {template.name}")
        self.tokens.append(token)
        version = TemplateVersion(number=1, digest=template.digest)
        made = LaunchTemplate(id=f"lt-{template.name}", name=template.name, tags=template.tags, versions=(version,))
        self.templates[template.name] = made
        return made.id, 1

    def add_version(self, template_id: str, template: NodeTemplate, *, token: str) -> int:
        self._write(f"CreateLaunchTemplateVersion {template.name}")
        self.tokens.append(token)
        there = self.templates[template.name]
        version = TemplateVersion(number=len(there.versions) + 1, digest=template.digest)
        self.templates[template.name] = replace(there, versions=(*there.versions, version))
        return version.number

    def group(self, name: str) -> ScalingGroup | None:
        return self.groups.get(name)

    def create(self, group: ScalingGroup) -> None:
        self._write(f"CreateAutoScalingGroup {group.name}")
        self.groups[group.name] = group

    def update(self, group: ScalingGroup) -> None:
        self._write(f"UpdateAutoScalingGroup {group.name}")
        there = self.groups[group.name]
        self.groups[group.name] = replace(
            there,
            min_size=group.min_size,
            max_size=group.max_size,
            template_id=group.template_id,
            version=group.version,
        )

    def tag(self, name: str, tags: Mapping[str, str]) -> None:
        self._write(f"CreateOrUpdateTags {name}")
        self.groups[name] = replace(self.groups[name], tags={**self.groups[name].tags, **tags})

    def activities(self, name: str) -> Sequence[Activity]:
        return self.scaling.get(name, [])
