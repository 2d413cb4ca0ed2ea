"""A small archive in parts, and what may be done to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bundler.archive.slicing import slice_archive
from bundler.archive.writer import no_failpoint
from bundler.domain.parts import Part, PartsTable, parse_table
from bundler.wiring import Surroundings
from tests.fakes.archives import Sample

PART_BYTES = 40_000


@dataclass(frozen=True, kw_only=True)
class Sliced:
    """An archive that was cut, and its bytes as they were in one file."""

    table_path: Path
    whole: bytes

    @property
    def folder(self) -> Path:
        return self.table_path.parent

    @property
    def table(self) -> PartsTable:
        return parse_table(self.table_path.read_bytes(), source="table")

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.table.placed

    def path(self, number: int) -> Path:
        return self.folder / self.parts[number].name

    def flip(self, number: int, at: int = 20_000) -> None:
        """Change one bit of a part."""
        raw = bytearray(self.path(number).read_bytes())
        raw[at] ^= 1
        self.path(number).write_bytes(raw)


def sliced(made: Sample, folder: Path, part_bytes: int = PART_BYTES) -> Sliced:
    """Build an archive in `folder` and cut it."""
    archive = made.build(folder)
    whole = archive.read_bytes()
    table = slice_archive(archive, root=made.layout.root.digest, part_bytes=part_bytes, failpoint=no_failpoint)
    return Sliced(table_path=table, whole=whole)


def around(*parts: Path | str, cache: Path | None = None) -> Surroundings:
    """Surroundings in which nothing is told, with further places of parts."""
    environ = {} if cache is None else {"BUNDLE_CACHE_DIR": str(cache)}
    return Surroundings(environ=environ, jobs=3, parts=tuple(map(str, parts)))
