"""Where unfinished uploads of large blobs go on: one small file each, so that the next process finds its way.

A place may hold a token of the registry's session: the folder is private, and each file is 0600. What stands here is
a hint, never a proof: the registry is asked how much it has, and checks the digest in the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bundler.domain.oci import parse_strict_json
from bundler.errors import FormatError

MAX_KEPT_BYTES = 64 << 10
KEPT_S = 7 * 24 * 3600.0
"""Registries forget an unfinished upload within a day to a week."""


class KeptUploads:
    """Places by upload (`https://registry/repository@digest`), in a folder that only this user reads."""

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now = now

    def recall(self, upload: str) -> str | None:
        """Return where an upload was, None where nothing is known that makes sense."""
        path = self._path(upload)
        try:
            if self._now() - path.stat().st_mtime > KEPT_S:
                return None
            with path.open("rb") as file:
                kept = parse_strict_json(file.read(MAX_KEPT_BYTES), subject=str(path))
        except (OSError, FormatError):
            return None
        if not isinstance(kept, dict) or kept.get("upload") != upload:
            return None
        location = kept.get("location")
        return location if isinstance(location, str) else None

    def keep(self, upload: str, location: str) -> None:
        """Remember where an upload is; where that cannot be written, a kill costs the blob that was under way.

        It outlives this process, and need not outlive the machine: nothing waits for the disk.
        """
        content = json.dumps({"upload": upload, "location": location}).encode()
        if len(content) > MAX_KEPT_BYTES:
            self.forget(upload)
            return
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._prune()
            handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".kept-")  # 0600 from the beginning
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(temporary).replace(self._path(upload))

    def forget(self, upload: str) -> None:
        """Drop what is known of an upload."""
        with suppress(OSError):
            self._path(upload).unlink(missing_ok=True)

    def _path(self, upload: str) -> Path:
        return self._folder / f"{hashlib.sha256(upload.encode()).hexdigest()}.json"

    def _prune(self) -> None:
        for path in self._folder.iterdir():
            with suppress(OSError):
                if self._now() - path.stat().st_mtime > KEPT_S:
                    path.unlink()
