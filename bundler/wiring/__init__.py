"""Picks the adapters: the only place that knows stages and adapters. Heavy imports happen where they are used."""

from __future__ import annotations

from bundler.wiring.clients import (
    any_registry,
    archive_source,
    aws_for,
    cluster_credential,
    complete_root,
    read_contents,
    read_earlier,
    registry_client,
    root_of,
    ship_file,
    transport_for,
)
from bundler.wiring.inside import InstallOptions, closed, installed, receipt_sources, status_of
from bundler.wiring.outside import connected, local_source
from bundler.wiring.surroundings import (
    Surroundings,
    cache_folder,
    lock_path,
    own_platform,
    read_definition,
    read_lock,
    read_presets,
    read_site,
    site_folder,
)

__all__ = [
    "InstallOptions",
    "Surroundings",
    "any_registry",
    "archive_source",
    "aws_for",
    "cache_folder",
    "closed",
    "cluster_credential",
    "complete_root",
    "connected",
    "installed",
    "local_source",
    "lock_path",
    "own_platform",
    "read_contents",
    "read_definition",
    "read_earlier",
    "read_lock",
    "read_presets",
    "read_site",
    "receipt_sources",
    "registry_client",
    "root_of",
    "ship_file",
    "site_folder",
    "status_of",
    "transport_for",
]
