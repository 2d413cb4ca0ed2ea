"""`connected`: everything that lock and build reach outside."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bundler.cache import Cache
from bundler.errors import UsageError
from bundler.wiring.clients import registry_client, transport_for
from bundler.wiring.foundry import foundry
from bundler.wiring.surroundings import Surroundings, cache_folder, own_platform, retry_policy

if TYPE_CHECKING:
    from bundler.adapters.helm import Helm
    from bundler.adapters.http_files import HttpFiles
    from bundler.domain.definition import Definition, LocalSource
    from bundler.domain.image_map import ImageMap
    from bundler.domain.release import Rendering
    from bundler.ports import ImageSource
    from bundler.stages.resolve import ImageOrigin
    from bundler.workflows.lock import Connected


def connected(definition: Definition, folder: Path, surroundings: Surroundings) -> Connected:
    """Return the outside for lock and build.

    Args:
        definition: names helm, which renders.
        folder: of the definition.
        surroundings: what the command runs in.
    """
    from bundler.adapters.charts import ChartFinder, built_in_chart
    from bundler.adapters.http_files import HttpFiles
    from bundler.adapters.registries_config import load_registries
    from bundler.workflows.lock import Connected

    cache = Cache(cache_folder(surroundings.environ))
    registries = load_registries(surroundings.environ)
    client = registry_client(surroundings, registries=registries)
    urls = HttpFiles(transport_for(surroundings), registries=registries, policy=retry_policy(surroundings))
    finder = ChartFinder(folder=folder, urls=urls, images=client)
    return Connected(
        folder=folder,
        cache=cache,
        registry=client,
        local=lambda source: local_source(source, folder=folder, cache=cache, environ=surroundings.environ),
        urls=urls,
        find_chart=finder.find,
        wrap_manifest=finder.wrap,
        built_in_chart=built_in_chart,
        renderer=_LazyHelm(lambda: _own_helm(definition, folder, cache, urls)),
        foundry=foundry(definition, cache, surroundings),
        pace=surroundings.pace,
    )


class _LazyHelm:
    """The definition's helm, fetched when the first chart is rendered."""

    def __init__(self, make: Callable[[], Helm]) -> None:
        self._make = functools.cache(make)

    def render(self, chart: bytes, rendering: Rendering, *, images: ImageMap | None = None) -> str:
        """Return what the chart renders to."""
        return self._make().render(chart, rendering, images=images)


def _own_helm(definition: Definition, folder: Path, cache: Cache, urls: HttpFiles) -> Helm:
    """Return the definition's helm for this host.

    Raises:
        UsageError: the definition has none for this platform.
    """
    from bundler.adapters.helm import Helm, HelmSettings
    from bundler.adapters.tool_files import tool_file
    from bundler.stages.obtain import obtain_one

    platform = own_platform()
    pinned = definition.tools.helm.platforms.get(platform)
    if pinned is None:
        raise UsageError(
            "tools.helm", f"has no entry for {platform}, which this host needs to render charts", hint="Add one."
        )
    blob = obtain_one(pinned, folder=folder, cache=cache, urls=urls)
    binary = tool_file(cache.folder / "tools", "helm", blob.digest, cache.read(blob.digest))
    work = cache.folder / "work"
    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    helm = Helm(HelmSettings(binary=binary, work=work))
    helm.version()
    return helm


def local_source(
    source: LocalSource, *, folder: Path, cache: Cache, environ: Mapping[str, str]
) -> tuple[ImageSource, ImageOrigin]:
    """Return the images of an OCI layout, a `docker save` archive or the local daemon."""
    if source.layout is not None:
        from bundler.adapters.oci_layout import OciLayout

        return OciLayout(folder / source.layout), "layout"
    if source.docker_archive is not None:
        from bundler.adapters.docker_archive import DockerArchive

        return DockerArchive(folder / source.docker_archive, cache=cache), "docker-archive"
    from bundler.adapters.docker_daemon import DockerDaemon

    return DockerDaemon(environ, cache=cache), "docker"
