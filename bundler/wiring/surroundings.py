"""What a command runs in, and the files it reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bundler.data import data_folder
from bundler.domain.events import Emit, silent
from bundler.domain.lock import Lock, parse_lock
from bundler.domain.oci import Platform
from bundler.errors import LocalResourceError
from bundler.transfer import Pace

if TYPE_CHECKING:
    from bundler.domain.definition import Definition
    from bundler.domain.preset import Presets
    from bundler.domain.site import Site
    from bundler.retry import RetryPolicy


QUICK_TRIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a command runs in.

    Attributes:
        quick: give up soon, as checks do.
        parts: folders and prefixes in S3 in which parts of an archive may be, besides that of their table.
    """

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    ca_file: Path | None = None
    jobs: int = 8
    emit: Emit = silent
    quick: bool = False
    parts: tuple[str, ...] = ()

    @property
    def pace(self) -> Pace:
        """Transfers at a time, and who hears of them."""
        return Pace(workers=self.jobs, emit=self.emit)


def read_definition(path: Path) -> Definition:
    """Return the definition in `path`."""
    from bundler.adapters.documents import read_document
    from bundler.domain.definition import parse_definition

    return parse_definition(read_document(path))


def read_site(path: Path) -> Site:
    """Return the site in `path`."""
    from bundler.adapters.documents import read_document
    from bundler.domain.site import parse_site

    return parse_site(read_document(path))


def read_lock(path: Path) -> Lock | None:
    """Return the lock in `path`, None where there is none."""
    raw = _read(path)
    return None if raw is None else parse_lock(raw, source=str(path))


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LocalResourceError(str(path), f"cannot be read: {error.strerror}") from error


def read_presets() -> tuple[Presets, str]:
    """Return the presets of this installation, and the template of a definition."""
    from bundler.adapters.documents import read_document
    from bundler.domain.preset import parse_presets

    folder = data_folder("manifests") / "presets"
    presets = parse_presets(read_document(folder / "core.yaml"), read_document(folder / "registries.yaml"))
    return presets, (folder / "bundle.yaml.template").read_text("utf-8")


def lock_path(definition: Path) -> Path:
    """Return where the lock of a definition stands: `bundle.lock.json` beside `bundle.yaml`."""
    return definition.with_name(f"{definition.stem}.lock.json")


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder of the cache."""
    named = environ.get("BUNDLE_CACHE_DIR")
    if named:
        return Path(named)
    from platformdirs import user_cache_path

    return user_cache_path("eks-bundler")


def site_folder(site: Site, environ: Mapping[str, str]) -> Path:
    """Return where this host keeps a site's journal, tools and kubeconfig: no secret is in any of them."""
    return _state_folder(environ) / "sites" / f"{site.account}-{site.region}-{site.cluster.name}"


def uploads_folder(environ: Mapping[str, str]) -> Path:
    """Return where this host keeps the places of unfinished uploads; a registry's session token may be in one."""
    return _state_folder(environ) / "uploads"


def _state_folder(environ: Mapping[str, str]) -> Path:
    home = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME", "/")) / ".local" / "state"
    return Path(home) / "eks-bundler"


def make_private(folder: Path) -> None:
    """Make a folder that only this user reads.

    Raises:
        LocalResourceError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise LocalResourceError(str(folder), f"cannot be made: {error.strerror}") from error


def own_platform() -> Platform:
    """Return the platform of this host, as tools are named."""
    machine = os.uname().machine
    return Platform(os="linux", architecture={"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine))


def retry_policy(surroundings: Surroundings) -> RetryPolicy:
    """Return the one policy of all adapters, telling of each wait; that of a probe gives up soon on silence."""
    from bundler.retry import RetryPolicy
    from bundler.transfer import pause

    if surroundings.quick:
        return RetryPolicy(silent_tries=QUICK_TRIES, sleep=pause)
    return RetryPolicy(sleep=pause, emit=surroundings.emit)
