"""What people call the blobs of a lock that belong to no image."""

from __future__ import annotations

from bundler.domain.digest import Digest
from bundler.domain.lock import Lock


def blob_names(lock: Lock) -> dict[Digest, str]:
    """Return the chart, tool or file that a blob belongs to, in a word."""
    found: dict[Digest, str] = {}
    for chart in lock.charts:
        for blob in (chart.manifest.blob, *chart.manifest.blobs):
            found.setdefault(blob.digest, chart.reference.removeprefix("charts/"))
    for tool in lock.tools:
        found.setdefault(tool.content.digest, tool.name)
    for file in lock.files:
        found.setdefault(file.content.digest, file.name)
    return found
