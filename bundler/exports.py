"""Where an export keeps its packs and how far it is: the cache, and one small file in it."""

from __future__ import annotations

from bundler.atomic import publish
from bundler.cache import Cache, NewBlob
from bundler.domain.digest import Digest
from bundler.domain.export import ExportProgress, parse_progress
from bundler.errors import BundleError, LocalResourceError


class ExportFolder:
    """The place of one export; `key` names it by what is exported, so that the same export finds it again."""

    def __init__(self, cache: Cache, *, key: str) -> None:
        self._cache = cache
        self._file = cache.folder / "exports" / f"{key}.json"

    def has(self, pack: Digest) -> bool:
        """Whether a pack is in the cache; reading tells whether it is right."""
        return self._cache.has(pack)

    def begin(self) -> NewBlob:
        """Begin a pack.

        Raises:
            LocalResourceError: the folder is not writable.
        """
        return self._cache.begin()

    def load(self) -> ExportProgress | None:
        """Return how far it is; a file that cannot be used is as good as none."""
        try:
            return parse_progress(self._file.read_bytes(), subject=str(self._file))
        except (OSError, BundleError):
            return None

    def save(self, progress: ExportProgress) -> None:
        """Keep how far it is.

        Raises:
            LocalResourceError: the disk is full.
        """
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LocalResourceError(str(self._file.parent), f"cannot be made: {error.strerror}") from error
        publish(self._file, progress.raw)

    def done(self) -> None:
        """Forget how far it was: all of it is in packs."""
        self._file.unlink(missing_ok=True)
