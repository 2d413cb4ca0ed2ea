"""Core objects that are in the cluster already: whose they are, and how their images become the bundle's.

Adopting touches image fields and nothing else, so the team's settings stay; EKS, which applies server-side, then finds
those fields to be ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from bundler.domain.image_map import ImageMap
from bundler.domain.reference import Reference
from bundler.domain.workload import ContainerImage, Workload
from bundler.errors import ConflictError, FormatError

FIELD_MANAGER = "eks-bundler"
CoreMode = Literal["adopt", "keep", "stop"]
Way = Literal["helm", "adopt", "keep"]


def choose_way(live: Workload | None, *, release: str, mode: CoreMode) -> Way:
    """Return how a core component is brought to the bundle's images.

    Args:
        live: its object in the cluster, None where there is none.
        release: `namespace/name` of our Helm release for it.
        mode: what the site says about objects of EKS.

    Raises:
        ConflictError: the object belongs to somebody else, or the site says stop.
    """
    if live is None or live.release == release:
        return "helm"
    if live.release:
        raise ConflictError(
            str(live.ref),
            f"belongs to the Helm release {live.release}, not to {release}",
            hint=f"Keep one of the two: leave it out of `core`, or remove that release (helm uninstall) in {live.ref}.",
        )
    if mode == "keep":
        return "keep"
    if mode == "stop":
        raise ConflictError(
            str(live.ref),
            "exists and is not ours, and the site says core: stop",
            hint="Say core: adopt to put EKS's own object on the bundle's images, or core: keep to leave it.",
        )
    if not live.is_eks:
        managers = ", ".join(live.managers) or "nobody known"
        raise ConflictError(
            str(live.ref),
            f"was not made by EKS but by {managers}; only EKS's own objects are adopted",
            hint="Say core: keep to leave it as it is.",
        )
    return "adopt"


def adopted_images(
    live: Workload, rendered: Sequence[ContainerImage], *, images: ImageMap
) -> tuple[ContainerImage, ...]:
    """Return every container of the live object with the image it is to have: our chart's, found by container name.

    Raises:
        ConflictError: a container that the chart does not have runs an image that the bundle does not hold.
    """
    wanted = {(container.name, container.is_init): container.image for container in rendered}
    return tuple(
        ContainerImage(
            name=container.name,
            is_init=container.is_init,
            image=wanted.get((container.name, container.is_init)) or _own_image(live, container, images),
        )
        for container in live.containers
    )


def _own_image(live: Workload, container: ContainerImage, images: ImageMap) -> str:
    reference = _parse(container.image)
    if reference is not None and images.holds(reference):
        return container.image
    target = None if reference is None else images.target(reference)
    if target is None:
        raise ConflictError(
            str(live.ref),
            f"has the container {container.name} with {container.image}, which is not in the bundle",
            hint="Add that image to `images:` of the component with its reason, or take the container out.",
        )
    return str(target)


def adoption_patch(containers: Sequence[ContainerImage]) -> Mapping[str, object]:
    """Return what is merged into the live object: names and images, nothing else."""
    template: dict[str, list[dict[str, str]]] = {}
    for container in containers:
        template.setdefault(container.field, []).append({"name": container.name, "image": container.image})
    return {"spec": {"template": {"spec": template}}}


def refuse_other_versions(live: Workload, rendered: Sequence[ContainerImage], *, images: ImageMap) -> None:
    """Check that an object which is kept runs the versions of the bundle, by tag.

    Raises:
        ConflictError: it does not.
    """
    wanted = {(container.name, container.is_init): container.image for container in rendered}
    for container in live.containers:
        ours = _parse(wanted.get((container.name, container.is_init), ""))
        theirs = _parse(container.image)
        if ours is None or theirs is None or theirs.digest == ours.digest:
            continue
        image = images.held(ours)
        tag = ours.tag if image is None else image.source.tag
        if theirs.tag != tag:
            raise ConflictError(
                str(live.ref),
                f"is kept, but its container {container.name} runs {container.image}; the bundle has version {tag}",
                hint="Bring both to one version, or say core: adopt.",
            )


def _parse(text: str) -> Reference | None:
    try:
        return Reference.parse(text)
    except FormatError:
        return None
