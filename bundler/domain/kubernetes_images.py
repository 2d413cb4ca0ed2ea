"""The images that Kubernetes objects run, found by structure: containers of every kind, and image volumes.

Any map with a list `containers`, `initContainers` or `ephemeralContainers` is read as a pod spec, wherever it stands:
so pod templates, hooks, Lists and custom resources that embed containers are seen. CustomResourceDefinitions are
not: their schemas only describe containers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bundler.domain.kubernetes_yaml import Mapping, Node, Sequence, Text, compose

_CONTAINERS = {
    "containers": "container",
    "initContainers": "init container",
    "ephemeralContainers": "ephemeral container",
}
_MAX_NAME = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundImage:
    """An image as an object names it.

    Attributes:
        text: what the object says; not necessarily a reference.
        where: object and container, on one line: `Deployment/web: container app`.
    """

    text: str
    where: str


def find_images(manifests: str, *, subject: str) -> list[FoundImage]:
    """Return every image that the Kubernetes manifests run, in the order they stand, each place once.

    Raises:
        FormatError: not YAML.
        LimitError: larger than Kubernetes takes.
    """
    return [
        FoundImage(text=image.value, where=where)
        for root in compose(manifests, subject=subject)
        for image, where in pod_images(root)
    ]


def pod_images(root: Node) -> Iterator[tuple[Text, str]]:
    """Yield the scalars of one document that name an image a pod runs, and where each stands."""
    for item in objects(root):
        if item.text("kind") != "CustomResourceDefinition":
            yield from _walk(item, object_name(item))


def objects(root: Node) -> Iterator[Mapping]:
    """Yield the objects of one document: itself, or the items of a List."""
    if not isinstance(root, Mapping):
        return
    items = root.get("items")
    if root.text("kind").endswith("List") and isinstance(items, Sequence):
        for item in items.items:
            yield from objects(item)
    else:
        yield root


def object_name(item: Mapping) -> str:
    """Return `Kind/name`, with the hook that it is for: `Job/setup (hook pre-install)`."""
    metadata = item.mapping("metadata")
    name = f"{_line(item.text('kind'))}/{_line(metadata.text('name') or metadata.text('generateName'))}"
    hook = metadata.mapping("annotations").text("helm.sh/hook")
    return f"{name} (hook {_line(hook)})" if hook else name


def _walk(node: Node, where: str) -> Iterator[tuple[Text, str]]:
    if isinstance(node, Sequence):
        for item in node.items:
            yield from _walk(item, where)
    elif isinstance(node, Mapping):
        for key, value in node.entries:
            if key in _CONTAINERS and isinstance(value, Sequence):
                yield from _named(value, f"{where}: {_CONTAINERS[key]}", "image")
            elif key == "volumes" and isinstance(value, Sequence):
                yield from _volumes(value, where)
            yield from _walk(value, where)


def _named(containers: Sequence, where: str, key: str) -> Iterator[tuple[Text, str]]:
    for container in containers.items:
        if isinstance(container, Mapping):
            for name, image in container.entries:
                if name == key and isinstance(image, Text):
                    yield image, f"{where} {_line(container.text('name'))}"


def _volumes(volumes: Sequence, where: str) -> Iterator[tuple[Text, str]]:
    for volume in volumes.items:
        source = volume.get("image") if isinstance(volume, Mapping) else None
        reference = source.get("reference") if isinstance(source, Mapping) else None
        if isinstance(volume, Mapping) and isinstance(reference, Text):
            yield reference, f"{where}: image volume {_line(volume.text('name'))}"


def _line(text: str) -> str:
    """What a chart wrote, fit for one line of a report."""
    return "".join(char if char.isprintable() else "?" for char in text[:_MAX_NAME]) or "?"
