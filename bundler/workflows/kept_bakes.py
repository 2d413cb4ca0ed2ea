"""What this host keeps of bakes, by the digest of their inputs: the same inputs never bake twice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from bundler.atomic import publish
from bundler.cache import Cache
from bundler.domain.ami import BakedAmi
from bundler.domain.delta import Base
from bundler.domain.digest import Digest
from bundler.stages.bake import forget_superseded, superseded

BAKES = "bakes"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBakes:
    """Records of bakes whose packs are in the cache, and which of them a `--rebake` is about to replace.

    Attributes:
        again: bake although everything is there (--rebake).
    """

    cache: Cache
    again: bool

    def find(self, inputs: Digest, base: Base | None) -> BakedAmi | None:
        """Return what an earlier build made of these inputs, where all of it is still in the cache."""
        if self.again and superseded(self._path(inputs)) is None:
            return None
        try:
            found = BakedAmi.model_validate_json(self._file(inputs, base).read_bytes())
        except (OSError, ValidationError):
            return None
        is_whole = found.inputs == inputs and all(self.cache.has(blob.digest) for blob in found.blobs)
        return _against(base, found) if is_whole and not self.is_superseded(found) else None

    def put(self, record: BakedAmi, base: Base | None) -> None:
        """Keep a record."""
        publish(self._file(record.inputs, base), record.model_dump_json(by_alias=True, exclude_none=True).encode())
        if self.is_superseded(record):  # nothing took its place, so it is the current one after all
            forget_superseded(self._path(record.inputs))

    def is_superseded(self, record: BakedAmi) -> bool:
        """Whether a `--rebake` has set out to replace it. Cut off, that goes on until the lock records what it made."""
        return record.ami in (superseded(self._path(record.inputs)) or ())

    def begin(self, inputs: Digest, recorded: BakedAmi | None) -> None:
        """Begin another `--rebake`, where the lock records what the one before made."""
        if self.again and recorded is not None and recorded.inputs == inputs and not self.is_superseded(recorded):
            forget_superseded(self._path(inputs))

    def recorded(self, inputs: Digest) -> None:
        """Note that the lock records what became of these inputs: no `--rebake` of them is under way any more."""
        forget_superseded(self._path(inputs))

    def folder(self, inputs: Digest) -> Path:
        """Return the folder of a bake, made unless it is there."""
        folder = self._path(inputs)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def _path(self, inputs: Digest) -> Path:
        return self.cache.folder / BAKES / inputs.hex

    def _file(self, inputs: Digest, base: Base | None) -> Path:
        return self.folder(inputs) / f"baked{suffix(base)}.json"


def suffix(base: Base | None) -> str:
    """Return the end of a name: what a delta is made of is kept beside the whole, and beside other deltas."""
    return "" if base is None else f"-{base.blob.digest.hex}"


def _against(base: Base | None, found: BakedAmi) -> BakedAmi | None:
    """What was kept as what differs from a base, with that base's name as it is now; None where it is another's."""
    if base is None or found.base is None:
        return found if base is None and found.base is None else None
    if found.base.index.digest != base.blob.digest:
        return None
    same = found.base.model_copy(update={"bundle": base.bundle, "root": base.root})
    return found.model_copy(update={"base": same})
