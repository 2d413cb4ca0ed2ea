"""Definition -> every image that it needs, with the evidence for each: charts are rendered as the install will."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bundler.domain.chart import FetchedChart
from bundler.domain.core import CORE_NAMESPACE, UNKNOWN_ENDPOINT, UNKNOWN_SERVICE_CIDR, site_values
from bundler.domain.definition import CORE_RELEASES, ChartSource, CoreChart, Definition, KubeProxy, ReasonedImage
from bundler.domain.ecr_host import EcrHost
from bundler.domain.image_values import merge
from bundler.domain.kubernetes_images import find_images
from bundler.domain.lock import Evidence
from bundler.domain.reference import Reference
from bundler.domain.release import Rendering
from bundler.errors import ClosureError, DefinitionError, FormatError
from bundler.ports import ChartRenderer

_MAX_LINE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One Helm release of the definition, its chart at hand.

    Attributes:
        images: what no tool can see in the chart, with reasons.
    """

    name: str
    namespace: str
    role: Literal["core", "addon"]
    chart: FetchedChart
    values: Mapping[str, object] = field(default_factory=dict)
    api_versions: tuple[str, ...] = ()
    timeout_minutes: int = 10
    images: tuple[ReasonedImage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """An image that the bundle needs, and who asks for it."""

    reference: Reference
    evidence: tuple[Evidence, ...]


FindChart = Callable[[ChartSource], FetchedChart]
WrapManifest = Callable[[str, str], FetchedChart]
BuiltInChart = Callable[[str], FetchedChart]


def releases(
    definition: Definition, *, find: FindChart, wrap: WrapManifest, built_in: BuiltInChart
) -> tuple[Release, ...]:
    """Return every release of the definition in the order of installation, with its chart.

    Args:
        definition: what a person wrote.
        find: gives a chart from where the definition says.
        wrap: makes a chart of a name and the path of a file of Kubernetes manifests.
        built_in: gives the chart of that name which comes with this tool.

    Raises:
        BundleError: a chart cannot be had, or must not be used.
    """
    return (*_core_releases(definition, find, built_in), *_addon_releases(definition, find, wrap))


def discover(definition: Definition, planned: Sequence[Release], *, renderer: ChartRenderer) -> tuple[Discovered, ...]:
    """Return each image once, by name: what rendered charts run, the pause image, and what the definition adds.

    Raises:
        DefinitionError: a chart does not render with the definition's values.
        ClosureError: a chart names an image that is none.
    """
    found: dict[Reference, list[Evidence]] = {}
    for reference, evidence in _all(definition, planned, renderer):
        known = found.setdefault(reference, [])
        if evidence not in known:
            known.append(evidence)
    return tuple(
        Discovered(reference=reference, evidence=tuple(found[reference])) for reference in sorted(found, key=str)
    )


def refuse_other_source(definition: Definition, found: Iterable[Discovered]) -> None:
    """Refuse core images from the ECR of another Region than the definition's `source`.

    Charts have a Region of their own among their values: aws-vpc-cni's is us-west-2.

    Raises:
        DefinitionError: names the image, who asks for it, and both Regions.
    """
    for image in found:
        home = EcrHost.parse(image.reference.registry)
        asker = next((evidence for evidence in image.evidence if evidence.by.startswith("core ")), None)
        if asker is None or home is None or home.region == definition.source.region:
            continue
        raise DefinitionError(
            f"{asker.by}, {asker.where}",
            f"names {image.reference}, from {home.region}; the definition's source is {definition.source.region}",
            hint="Set the image's registry or Region among the values of that component, or correct source.region.",
        )


def _core_releases(definition: Definition, find: FindChart, built_in: BuiltInChart) -> Iterator[Release]:
    for name, key in CORE_RELEASES.items():
        component: KubeProxy | CoreChart | None = getattr(definition.core, key)
        if isinstance(component, KubeProxy):
            values = merge({"image": str(component.image)}, component.values)
            yield Release(name=name, namespace=CORE_NAMESPACE, role="core", chart=built_in(name), values=values)
        elif component is not None:
            yield Release(
                name=name,
                namespace=CORE_NAMESPACE,
                role="core",
                chart=find(component.chart),
                values=component.values,
                images=component.images,
            )


def _addon_releases(definition: Definition, find: FindChart, wrap: WrapManifest) -> Iterator[Release]:
    for addon in definition.addons:
        yield Release(
            name=addon.name,
            namespace=addon.namespace,
            role="addon",
            chart=wrap(addon.name, str(addon.manifest)) if addon.chart is None else find(addon.chart),
            values=addon.values,
            api_versions=addon.api_versions,
            timeout_minutes=addon.timeout_minutes,
            images=addon.images,
        )


def _all(
    definition: Definition, planned: Iterable[Release], renderer: ChartRenderer
) -> Iterator[tuple[Reference, Evidence]]:
    for release in planned:
        yield from _rendered(release, definition.kubernetes_version, renderer)
        yield from _declared(release.images, f"{release.role} {release.name}")
    if definition.core.pause is not None:
        yield definition.core.pause.image, Evidence(by="core pause", where="the sandbox of every pod")
    yield from _declared(definition.images, "images")


def _rendered(
    release: Release, kubernetes_version: str, renderer: ChartRenderer
) -> Iterator[tuple[Reference, Evidence]]:
    facts = site_values(release.name, endpoint=UNKNOWN_ENDPOINT, service_cidr=UNKNOWN_SERVICE_CIDR)
    rendering = Rendering(
        release=release.name,
        namespace=release.namespace,
        values=merge(facts, release.values) if release.role == "core" else release.values,
        kubernetes_version=kubernetes_version,
        api_versions=release.api_versions,
    )
    by = f"{release.role} {release.name}"
    for found in find_images(renderer.render(release.chart.tgz, rendering), subject=by):
        try:
            reference = Reference.parse(found.text)
        except FormatError as error:
            raise ClosureError(
                by,
                f"{found.where} names {found.text[:200]!r}, which is no image reference",
                hint="Set the image in the values of the chart.",
            ) from error
        yield reference, Evidence(by=by, where=found.where[:_MAX_LINE])


def _declared(images: Iterable[ReasonedImage], by: str) -> Iterator[tuple[Reference, Evidence]]:
    for image in images:
        yield image.image, Evidence(by=by, where=f"declared: {image.reason}"[:_MAX_LINE])
