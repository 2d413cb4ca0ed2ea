"""members.jsonl: one line per member after it, in order (docs/formats.md)."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bundler.archive.header import BLOCK_BYTES, padded
from bundler.domain.canonical import canonical_json
from bundler.domain.digest import Digest
from bundler.domain.oci import MAX_BLOB_BYTES
from bundler.errors import FormatError, LimitError

BLOB_FOLDER = "blobs/sha256/"
MAX_MEMBERS_BYTES = 64 << 20
RUN_BYTES = 64 << 20
RUN_MEMBERS = 2000
# The whole grammar: a line in any other spelling is not a line.
_LINE = re.compile(
    rb'\{"path":"(?P<path>[a-z0-9][a-z0-9./-]{0,98})","role":"(?P<role>[a-z][a-z-]{0,30})",'
    rb'"sha256":"(?P<sha256>[0-9a-f]{64})","size":(?P<size>0|[1-9][0-9]{0,15})\}\n'
)
_ABSENT = b'{"absent"'
_ABSENT_LINE = re.compile(
    rb'\{"absent":true,(?:"repository":"(?P<repository>[a-z0-9][a-z0-9._/-]{0,255})",)?"role":"(?P<role>[a-z][a-z-]{0,30})",'
    rb'"sha256":"(?P<sha256>[0-9a-f]{64})","size":(?P<size>0|[1-9][0-9]{0,15})\}\n'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a member is, before anybody knows where it stands. `size` is in bytes.

    Attributes:
        name: its path where that is not what follows from its digest; there may be a hundred thousand that are.
    """

    role: str
    size: int
    digest: Digest
    name: str | None = None

    @property
    def path(self) -> str:
        """Its path in the archive."""
        return BLOB_FOLDER + self.digest.hex if self.name is None else self.name

    @property
    def is_blob(self) -> bool:
        """Whether its path is that of its digest."""
        return self.name is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Required:
    """What an archive does not carry and its site must hold: a delta's `absent` line. `size` is in bytes.

    Attributes:
        repository: where the site has it, below its prefix; None where it is in no registry.
    """

    role: str
    size: int
    digest: Digest
    repository: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Member(Entry):
    """A member in its place; `offset` is that of its content, the header stands 512 bytes before."""

    offset: int

    @property
    def header_offset(self) -> int:
        """Where its header stands."""
        return self.offset - BLOCK_BYTES

    @property
    def end(self) -> int:
        """Where the next header stands."""
        return self.offset + padded(self.size)


def member_line(entry: Entry) -> bytes:
    """Return the line of one member."""
    return b'{"path":"%s","role":"%s","sha256":"%s","size":%d}\n' % (
        entry.path.encode("ascii"),
        entry.role.encode("ascii"),
        entry.digest.hex.encode("ascii"),
        entry.size,
    )


def required_line(required: Required) -> bytes:
    """Return the line of what is absent."""
    value = {"absent": True, "role": required.role, "sha256": required.digest.hex, "size": required.size}
    if required.repository is not None:
        value["repository"] = required.repository
    return canonical_json(value) + b"\n"


def parse_members(raw: bytes, *, source: str) -> Iterator[Entry]:
    """Yield the members that the lines of `raw` name, up to the first `absent` line.

    Raises:
        FormatError: a line in any spelling but ours.
        LimitError: a member of over 1 TiB.
    """
    for match in _lines(_LINE, raw, 0, _first_absent(raw), source=source):
        path, hexed = match["path"].decode("ascii"), match["sha256"].decode("ascii")
        yield Entry(
            name=None if path == BLOB_FOLDER + hexed else path,
            role=sys.intern(match["role"].decode("ascii")),
            size=int(match["size"]),
            digest=Digest("sha256:" + hexed),
        )


def parse_requires(raw: bytes, *, source: str) -> tuple[Required, ...]:
    """Return what the `absent` lines at the end of `raw` name.

    Raises:
        FormatError: a line in any spelling but ours, or one of a member among them.
        LimitError: something of over 1 TiB.
    """
    return tuple(
        Required(
            role=match["role"].decode("ascii"),
            size=int(match["size"]),
            digest=Digest("sha256:" + match["sha256"].decode("ascii")),
            repository=None if match["repository"] is None else match["repository"].decode("ascii"),
        )
        for match in _lines(_ABSENT_LINE, raw, _first_absent(raw), len(raw), source=source)
    )


def _first_absent(raw: bytes) -> int:
    """Where the first `absent` line begins: no line of a member can hold its beginning."""
    found = raw.find(_ABSENT)
    return len(raw) if found < 0 else found


def _lines(grammar: re.Pattern[bytes], raw: bytes, start: int, end: int, *, source: str) -> Iterator[re.Match[bytes]]:
    while start < end:
        match = grammar.match(raw, start, end)
        if match is None:
            line = raw[start : start + 80].split(b"\n", 1)[0]
            raise FormatError(source, f"members.jsonl line {_number(raw, start)} is not a member: {line!r}")
        if int(match["size"]) > MAX_BLOB_BYTES:
            raise LimitError(
                source, f"members.jsonl line {_number(raw, start)} names a member of {int(match['size'])} bytes"
            )
        yield match
        start = match.end()


def _number(raw: bytes, position: int) -> int:
    return raw.count(b"\n", 0, position) + 1


def place_members(entries: Iterable[Entry], *, start: int) -> tuple[Member, ...]:
    """Return the members one after another, the first header at `start`: offsets are computed, never stored."""
    placed: list[Member] = []
    for entry in entries:
        member = Member(
            name=entry.name, role=entry.role, size=entry.size, digest=entry.digest, offset=start + BLOCK_BYTES
        )
        start = member.end
        placed.append(member)
    return tuple(placed)


def runs_of(members: Sequence[Member]) -> list[Sequence[Member]]:
    """Cut `members` into runs of about 64 MiB: work for one worker, one ranged read, and few of them.

    A member above that size has a run of its own.
    """
    runs: list[list[Member]] = []
    room = 0
    for member in members:
        if not runs or member.size > room or len(runs[-1]) >= RUN_MEMBERS:
            runs.append([])
            room = RUN_BYTES
        runs[-1].append(member)
        room -= member.size
    return list(runs)
