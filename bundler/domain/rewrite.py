"""Kubernetes manifests -> the same with private image references, by editing only the scalars that hold one.

Nothing is loaded and dumped again: YAML 1.1 and 1.2 disagree about what plain words mean, so every other character
stays as it is.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from bundler.domain.image_map import ImageMap
from bundler.domain.kubernetes_images import FoundImage, find_images, objects, pod_images
from bundler.domain.kubernetes_yaml import Node, Sequence, Text, compose
from bundler.domain.reference import Reference
from bundler.errors import ClosureError, FormatError

_REST = (
    r"/[a-z0-9][a-z0-9._/-]*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}(?:@sha256:[0-9a-f]{64})?|@sha256:[0-9a-f]{64})"
    r"(?![A-Za-z0-9_./:@-])"
)
_WORD = r"(?<![A-Za-z0-9_./:@-])"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """What became of the manifests.

    Attributes:
        text: the manifests with private references.
        changed: each place that was edited, with the reference that stood there.
        missing: each place where a pod runs an image that the bundle does not hold; it stands unchanged.
    """

    text: str
    changed: tuple[FoundImage, ...]
    missing: tuple[FoundImage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edit:
    start: int
    end: int
    replacement: str


def rewrite_manifests(text: str, images: ImageMap, *, subject: str) -> Rewritten:
    """Return the manifests with every image of the bundle by its private reference.

    What pods run is rewritten wherever it stands in one; in all other text (arguments, ConfigMaps, custom resources)
    a complete reference of a known image is, registry and tag or digest included.

    Raises:
        FormatError: not YAML, or an image in a form that cannot be edited in place.
        LimitError: larger than Kubernetes takes.
    """
    changed: list[FoundImage] = []
    missing: list[FoundImage] = []
    edits: dict[int, _Edit] = {}
    scalars: dict[int, Text] = {}
    for root in compose(text, subject=subject):
        scalars.update((scalar.start, scalar) for scalar in _other_scalars(root))
        for scalar, where in pod_images(root):
            scalars.pop(scalar.start, None)
            found = FoundImage(text=scalar.value, where=where)
            target = _target(scalar.value, images)
            if target is None:
                missing.append(found)
            elif target != scalar.value:
                edits[scalar.start] = _edit(text, scalar, target, found)
                changed.append(found)
    for edit, reference in _mentions(text, list(scalars.values()), images):
        edits[edit.start] = edit
        changed.append(FoundImage(text=reference, where=f"text in line {text.count(chr(10), 0, edit.start) + 1}"))
    return Rewritten(text=_apply(text, edits), changed=tuple(changed), missing=tuple(missing))


def outside_images(text: str, images: ImageMap, *, subject: str) -> list[FoundImage]:
    """Return what pods would run that is not a private image of this bundle, pinned by its digest."""
    return [found for found in find_images(text, subject=subject) if not images.has(found.text)]


def refuse_outside(text: str, images: ImageMap, *, subject: str) -> None:
    """Check that pods run nothing but private images of this bundle, pinned by digest: the verifying render.

    Raises:
        ClosureError: naming each image that is left, and its object.
    """
    left = outside_images(text, images, subject=subject)
    if left:
        raise closure_error(left, subject=subject)


def closure_error(left: list[FoundImage] | tuple[FoundImage, ...], *, subject: str) -> ClosureError:
    """Return the error that names images which the bundle does not hold, or which stayed on a public name."""
    shown = "; ".join(f"{found.text[:300]!r} ({found.where})" for found in left[:5])
    more = f"; and {len(left) - 5} more" if len(left) > 5 else ""
    return ClosureError(
        subject,
        f"would run images from outside the private registry: {shown}{more}",
        hint="Name the image under `images:` of the add-on or in its values, then make the bundle again: bundle build",
    )


def _target(text: str, images: ImageMap) -> str | None:
    try:
        reference = Reference.parse(text)
    except FormatError:
        return None
    if images.holds(reference):
        return text
    target = images.target(reference)
    return None if target is None else str(target)


def _edit(text: str, scalar: Text, target: str, found: FoundImage) -> _Edit:
    """Replace the value inside its scalar, so that quotes, anchors and tags stay."""
    at = text.rfind(scalar.value, scalar.start, scalar.end)
    if at < 0:
        raise FormatError(found.where, f"names the image {found.text[:300]!r} in a form that cannot be edited in place")
    return _Edit(start=at, end=at + len(scalar.value), replacement=target)


def _other_scalars(root: Node) -> Iterator[Text]:
    for item in objects(root):
        if item.text("kind") != "CustomResourceDefinition":
            yield from _values(item)


def _values(node: Node) -> Iterator[Text]:
    if isinstance(node, Text):
        yield node
    elif isinstance(node, Sequence):
        for item in node.items:
            yield from _values(item)
    else:
        for _, value in node.entries:
            yield from _values(value)


def _mentions(text: str, scalars: list[Text], images: ImageMap) -> Iterator[tuple[_Edit, str]]:
    """Yield an edit for each complete reference of a known image in other text than what pods run."""
    hosts = sorted({image.source.registry for image in images.images})
    if not hosts:
        return
    pattern = re.compile(_WORD + "(?:" + "|".join(map(re.escape, hosts)) + ")" + _REST)
    ordered = sorted(scalars, key=lambda scalar: scalar.start)
    starts = [scalar.start for scalar in ordered]
    for match in pattern.finditer(text):
        index = bisect_right(starts, match.start()) - 1
        if index < 0 or match.end() > ordered[index].end:
            continue
        target = _target(match[0], images)
        if target is not None and target != match[0]:
            yield _Edit(start=match.start(), end=match.end(), replacement=target), match[0]


def _apply(text: str, edits: dict[int, _Edit]) -> str:
    parts, at = [], 0
    for edit in sorted(edits.values(), key=lambda edit: edit.start):
        parts += [text[at : edit.start], edit.replacement]
        at = edit.end
    return "".join([*parts, text[at:]])
