"""Helm values that point a chart at the private registry: the first and widest-reaching of the two ways to rewrite.

Charts spell images in many ways; those that the values tell by themselves are handled here. What is left, or was
overridden in a way the chart does not mean, is seen by the verifying render and rewritten after rendering.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from bundler.domain.image_map import ImageMap, PrivateImage
from bundler.domain.reference import Reference
from bundler.errors import FormatError

_LEAF = re.compile(r"image$|^override$|^overrideRepository$", re.IGNORECASE)
_REPOSITORY_KEYS = ("repository", "name")
_TAG_KEYS = ("tag", "imageTag")
Values = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartDefaults:
    """What a chart says by itself: its values, the version of its application, and the same of its subcharts."""

    app_version: str = ""
    values: Values = field(default_factory=dict)
    subcharts: Mapping[str, ChartDefaults] = field(default_factory=dict)


def merge(under: Values, over: Values) -> dict[str, object]:
    """Return `under` with the keys of `over` as Helm coalesces values: maps are merged, null removes, all else wins."""
    merged = {key: value for key, value in under.items() if not (key in over and over[key] is None)}
    for key, value in over.items():
        if value is None:
            continue
        below = under.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def coalesce(defaults: ChartDefaults, values: Values) -> dict[str, object]:
    """Return the values that the chart's templates see; a parent's values win over a subchart's own."""
    merged: dict[str, object] = dict(defaults.values)
    for name, subchart in defaults.subcharts.items():
        given = merged.get(name)
        merged[name] = coalesce(subchart, given if isinstance(given, Mapping) else {})
    return merge(merged, values)


def values_overrides(defaults: ChartDefaults, values: Values, images: ImageMap) -> dict[str, object]:
    """Return `values` with private references where the chart's own or the given values name an image of the map."""
    effective = coalesce(defaults, values)
    return merge(values, _Overrides(images).of_map(effective, defaults, ""))


class _Overrides:
    """Finds the images in values; each method returns only the keys to change."""

    def __init__(self, images: ImageMap) -> None:
        self._images = images

    def of_map(self, values: Values, defaults: ChartDefaults, key: str) -> dict[str, object]:
        changes = self._image_map(values, defaults, key)
        for name, value in values.items():
            if name in changes:
                continue
            within = defaults.subcharts.get(name, ChartDefaults(app_version=defaults.app_version))
            changed = self._changed(name, value, within, values)
            if changed is not None:
                changes.update(changed)
        return changes

    def _changed(self, name: str, value: object, defaults: ChartDefaults, siblings: Values) -> dict[str, object] | None:
        if isinstance(value, Mapping):
            below = self.of_map(value, defaults, name)
            return {name: below} if below else None
        if isinstance(value, list):
            items = [self._item(item, defaults) for item in value]
            return {name: items} if items != value else None
        if isinstance(value, str) and value and _LEAF.search(name):
            return self._leaf(name, value, siblings)
        return None

    def _item(self, item: object, defaults: ChartDefaults) -> object:
        """Lists are replaced whole by Helm, so an item comes back complete."""
        if isinstance(item, Mapping):
            return merge(item, self.of_map(item, defaults, ""))
        return [self._item(one, defaults) for one in item] if isinstance(item, list) else item

    def _leaf(self, name: str, value: str, siblings: Values) -> dict[str, object] | None:
        reference = _parse(value)
        if reference is None:
            return None
        tag_key = next((key for key in (*_TAG_KEYS, f"{name}Tag") if _text(siblings.get(key))), None)
        if ":" in value.rsplit("/", 1)[-1] or tag_key is None:
            target = self._images.target(reference)
            return None if target is None else {name: str(target)}
        found = self._find(reference, _text(siblings[tag_key]), "")
        return None if found is None else {name: found.target.name, tag_key: _tag_and_digest(found, siblings[tag_key])}

    def _image_map(self, values: Values, defaults: ChartDefaults, key: str) -> dict[str, object]:
        """The changes to one map of registry, repository, tag, digest or sha; none where it is no such map."""
        repository_key = next((name for name in _REPOSITORY_KEYS if _text(values.get(name))), None)
        if repository_key is None or not _looks_like_image(values, key, repository_key):
            return {}
        registry = _text(values.get("registry"))
        name = _text(values[repository_key])
        reference = _parse(f"{registry}/{name}" if registry else name)
        if reference is None:
            return {}
        found = self._find(reference, _text(values.get("tag")), defaults.app_version)
        return {} if found is None else _map_changes(found, values, repository_key)

    def _find(self, reference: Reference, tag: str, app_version: str) -> PrivateImage | None:
        """The one image of that name that has this tag, else the application's version, else is the only one."""
        group = self._images.by_name.get(reference.name, ())
        tag = tag.partition("@")[0]
        wanted = (tag, f"v{tag}") if tag else (app_version, f"v{app_version}")
        fitting = [image for image in group if image.source.tag in wanted] or list(group)
        return fitting[0] if len(fitting) == 1 else None


def _looks_like_image(values: Values, key: str, repository_key: str) -> bool:
    if repository_key == "name" and "image" not in key.lower():
        return False
    return "image" in key.lower() or any(name in values for name in ("tag", "digest", "sha", "pullPolicy", "registry"))


def _map_changes(found: PrivateImage, values: Values, repository_key: str) -> dict[str, object]:
    changes: dict[str, object] = {repository_key: found.target.name}
    if _text(values.get("registry")):
        changes = {"registry": found.target.registry, repository_key: found.target.repository}
    if "digest" in values:
        return {**changes, "digest": str(found.target.digest)}
    if "sha" in values:  # means bare hex in one chart and `sha256:…` in the next; a tag with the digest works in all
        changes["sha"] = ""
    return {**changes, "tag": _tag_and_digest(found, values.get("tag"))}


def _tag_and_digest(found: PrivateImage, tag: object) -> str:
    """The private tag, without the `v` that the template adds, with the digest; the values' own where it is another."""
    spelled, private = _text(tag).partition("@")[0], str(found.target.tag)
    if found.source.tag == f"v{spelled}":
        spelled = private.removeprefix("v")
    elif spelled in ("", found.source.tag):
        spelled = private
    return f"{spelled}@{found.target.digest}"


def _parse(text: str) -> Reference | None:
    try:
        return Reference.parse(text)
    except FormatError:
        return None


def _text(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
