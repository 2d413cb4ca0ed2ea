"""STEM.parts.json: how an archive was cut, and what each part must be (docs/formats.md, Parts).

Nobody signs it. It says which part is damaged, and never what to believe: that is the root's word alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from bundler.domain.canonical import canonical_json, parse_canonical_json
from bundler.domain.digest import Digest
from bundler.domain.schema import Built, HexSha256, Sha256
from bundler.errors import DigestError, FormatError, LimitError, RefusedError, UsageError

MAX_PARTS = 512
"""Each is an open file while the archive is read; a process may have 1024."""
MAX_TABLE_BYTES = 1 << 20
MAX_ARCHIVE_BYTES = 1 << 50
TABLE_SUFFIX = ".parts.json"
ARCHIVE_SUFFIX = ".tar"
_PART_NAME = re.compile(r"(?P<stem>.+)\.tar\.[0-9]{3}\Z")
_SIZE = re.compile(r"(?P<count>[1-9][0-9]{0,15})(?P<unit>[KMGT]i?B?|[kMGT]B)?\Z")
_POWERS = {"K": 1, "k": 1, "M": 2, "G": 3, "T": 4}

ArchiveName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,79}\.tar$")]


class WholeArchive(Built):
    """The archive that the parts are, one after another."""

    name: ArchiveName
    size: int = Field(ge=1, le=MAX_ARCHIVE_BYTES)
    sha256: HexSha256


class PartEntry(Built):
    """Size and digest of one part."""

    size: int = Field(ge=1)
    sha256: HexSha256


class PartsTable(Built):
    """How an archive was cut; parts stand in order, all of one size but the last, which may be smaller."""

    api_version: Literal["eks-bundler/v1"] = "eks-bundler/v1"
    kind: Literal["Parts"] = "Parts"
    archive: WholeArchive
    root: Sha256
    parts: tuple[PartEntry, ...] = Field(min_length=1, max_length=MAX_PARTS)

    @property
    def part_bytes(self) -> int:
        """Size of every part but the last."""
        return self.parts[0].size

    @property
    def placed(self) -> tuple[Part, ...]:
        """The parts in their places: names and offsets are computed, never stored."""
        return tuple(
            Part(
                number=number,
                name=part_name(self.archive.name, number),
                offset=number * self.part_bytes,
                size=entry.size,
                digest=Digest("sha256:" + entry.sha256),
            )
            for number, entry in enumerate(self.parts)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part in its place. `offset` and `size` are in bytes, `number` counts from 0."""

    number: int
    name: str
    offset: int
    size: int
    digest: Digest

    @property
    def end(self) -> int:
        """Where the next part begins."""
        return self.offset + self.size


def part_name(archive: str, number: int) -> str:
    """Return the name of a part: STEM.tar.000 and so on."""
    return f"{archive}.{number:03d}"


def table_name(archive: str) -> str:
    """Return the name of the table of an archive's parts: STEM.parts.json for STEM.tar."""
    return archive.removesuffix(ARCHIVE_SUFFIX) + TABLE_SUFFIX


def table_of(name: str) -> str | None:
    """Return the table that `name` is or, for a part, that stands beside it; None where it names no parts.

    Args:
        name: a path, or an s3:// address.
    """
    if name.endswith(TABLE_SUFFIX):
        return name
    match = _PART_NAME.match(name)
    return None if match is None else match["stem"] + TABLE_SUFFIX


def parse_size(text: str) -> int:
    """Return the bytes of a size as people write it: with K, M, G, T or KiB… by 1024, with kB, MB… by 1000.

    Raises:
        UsageError: not a size.
    """
    match = _SIZE.match(text)
    if match is None:
        raise UsageError(repr(text[:40]), "is not a size", hint="Write it as 700M, 4G, 4GiB or 4700MB.")
    unit = match["unit"] or ""
    base = 1000 if len(unit) == 2 and unit.endswith("B") else 1024
    return int(match["count"]) * (base ** _POWERS[unit[0]] if unit else 1)


def plan_cuts(total_bytes: int, part_bytes: int) -> tuple[tuple[int, int], ...]:
    """Return offset and size of each part of `total_bytes`.

    Raises:
        UsageError: that would be more parts than a reader opens.
    """
    count = -(-total_bytes // part_bytes)
    if count > MAX_PARTS:
        least = -(-total_bytes // MAX_PARTS)
        cause = f"cuts {total_bytes} bytes into {count} parts; at most {MAX_PARTS} are allowed"
        raise UsageError("--split", cause, hint=f"Give {least} or more.")
    return tuple((offset, min(part_bytes, total_bytes - offset)) for offset in range(0, total_bytes, part_bytes))


def table_bytes(table: PartsTable) -> bytes:
    """Return the one spelling of a table."""
    return canonical_json(table.model_dump(mode="json", by_alias=True))


def parse_table(raw: bytes, *, source: str) -> PartsTable:
    """Return the table in `raw`.

    Raises:
        FormatError: not a table in its one spelling, or one whose sizes do not add up.
        LimitError: larger than any honest one.
    """
    if len(raw) > MAX_TABLE_BYTES:
        raise LimitError(source, f"has {len(raw)} bytes; at most {MAX_TABLE_BYTES} are allowed")
    document = parse_canonical_json(raw, subject=source)
    try:
        table = PartsTable.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "document"
        raise FormatError(source, f"is not a table of parts: {place}: {first['msg']}") from None
    if table_bytes(table) != raw:
        raise FormatError(source, "is not written in the one spelling the format has")
    sizes = [entry.size for entry in table.parts]
    if any(size != sizes[0] for size in sizes[:-1]) or sizes[-1] > sizes[0] or sum(sizes) != table.archive.size:
        raise FormatError(source, "has parts whose sizes do not make the archive")
    return table


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaw:
    """What is wrong with one part.

    Attributes:
        cause: said after the part's name: "is missing".
        content: it has its size, and other bytes than it must have.
    """

    part: Part
    cause: str
    content: bool = False


def wrong_content(part: Part, found: Digest, table: PartsTable) -> Flaw | None:
    """Return what is wrong with a part of the right size whose content has the digest `found`; None where it is right.

    A part that is there twice, once under the name of another, is of the right form and in the wrong place.
    """
    if found == part.digest:
        return None
    twice = next((other for other in table.placed if other.digest == found), None)
    if twice is not None:
        return Flaw(part=part, cause=f"holds what belongs into {twice.name}")
    return Flaw(part=part, cause="is damaged, or a part of another bundle", content=True)


def refusal(subject: str, flaws: Sequence[Flaw]) -> RefusedError:
    """Return the error that names every part that is wrong, and what to send again."""
    kind: type[RefusedError] = DigestError if any(flaw.content for flaw in flaws) else FormatError
    names = ", ".join(flaw.part.name for flaw in flaws)
    hint = (
        f"Send {names} again, or say where good ones are: --parts DIR. With another copy: "
        f"bundle repair {subject} --from COPY"
    )
    return kind(subject, "; ".join(f"{flaw.part.name} {flaw.cause}" for flaw in flaws), hint=hint)
