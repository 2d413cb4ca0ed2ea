"""Packs as install finds them: in one large file, read in place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

from bundler.domain.digest import Digest
from bundler.domain.packs import PackTable


def lay_out(packs: Iterable[Path], into: Path) -> None:
    """Write packs one after the other, as an archive holds them."""
    with into.open("wb") as file:
        for pack in packs:
            file.write(pack.read_bytes())


class FilePacks:
    """The packs of a table in one file (a PackReader)."""

    def __init__(self, path: Path, table: PackTable) -> None:
        self.table = table
        self._file = path.open("rb")
        ends = [0] * len(table.packs)
        for frame in table.frames:
            ends[frame.pack] = frame.offset + frame.length
        self._begins = {pack: sum(ends[:place]) for place, pack in enumerate(table.packs)}

    def __enter__(self) -> FilePacks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read_at(self, pack: Digest, offset: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, self._begins[pack] + offset)


class NoProgress:
    """Nothing is noted (a RestoreProgress)."""

    def frames(self, snapshots: Mapping[str, str]) -> int:
        return 0

    def put(self, snapshots: Mapping[str, str], frames: int) -> None:
        """Forget it."""
