"""A chart as it travels: the .tgz, and the OCI manifest and config that name it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from bundler.domain.blob import Blob
from bundler.domain.image_values import ChartDefaults
from bundler.domain.lock import LockedChart, LockedManifest
from bundler.domain.oci import OCI_MANIFEST, Manifest, parse_manifest
from bundler.errors import FormatError

ChartOrigin = Literal["oci", "https", "path", "manifest", "built-in"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartContent:
    """What a chart's files say.

    Attributes:
        name: of Chart.yaml, the same as the top folder's.
        version: exact, SemVer 2.
        metadata: Chart.yaml as Helm reads it into its OCI config.
        defaults: values, subcharts included.
        notes: what a person should know before this chart is trusted, one line each.
    """

    name: str
    version: str
    metadata: Mapping[str, object]
    defaults: ChartDefaults
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedChart:
    """A chart with all its bytes.

    Attributes:
        content: what its files say.
        origin: where it came from.
        tgz: the packed chart.
        manifest: raw OCI manifest: upstream's own where upstream is a registry, else ours.
        config: what the manifest names as its config.
        further: other layers that upstream's manifest names, such as provenance, in their order.
    """

    content: ChartContent
    origin: ChartOrigin
    tgz: bytes
    manifest: bytes
    config: bytes
    further: tuple[bytes, ...] = field(default=())

    @property
    def name(self) -> str:
        """The chart's name."""
        return self.content.name

    @property
    def version(self) -> str:
        """The chart's version."""
        return self.content.version

    @property
    def blobs(self) -> tuple[bytes, ...]:
        """Config and layers, in the order of the manifest."""
        return (self.config, self.tgz, *self.further)

    def locked(self) -> LockedChart:
        """Return what the lock says of this chart."""
        parsed = parse_manifest(self.manifest, subject=f"chart {self.name}", media_type=OCI_MANIFEST)
        if not isinstance(parsed, Manifest):
            raise FormatError(f"chart {self.name}", "is an index, not a chart")
        return LockedChart(
            name=self.name,
            version=self.version,
            origin=self.origin,
            manifest=LockedManifest(
                media_type=parsed.media_type,
                digest=parsed.digest,
                size=len(parsed.raw),
                blobs=tuple(Blob(media_type=b.media_type, digest=b.digest, size=b.size) for b in parsed.blobs),
            ),
        )
