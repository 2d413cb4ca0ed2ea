"""The lines of a journal: a header with version and site, then one record per line, as strict JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from bundler.domain.oci import parse_strict_json
from bundler.errors import ConflictError, FormatError

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One step that was done.

    Attributes:
        step: what, in words.
        key: name of the step with its inputs and bundle (`step_key`).
        at: UTC, for people; nothing depends on it.
        facts: what was made: ids, ARNs. Never a secret.
    """

    step: str
    key: str
    at: str
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One copy of a site's journal.

    Attributes:
        name: its path or its address in S3.
        site: that it must be of.
        away: how to get rid of a damaged one.
        mixed_up: what to do where it is another site's.
    """

    name: str
    site: str
    away: str
    mixed_up: str

    @property
    def lost(self) -> str:
        """What to do where it is damaged."""
        return f"It only saves time. Move it away, then run the same command again: {self.away}"


def header(site: str) -> bytes:
    """Return the first line of a site's journal."""
    return line({"journal": VERSION, "site": site})


def line(fields: Mapping[str, object]) -> bytes:
    """Return one line."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def complete_lines(content: bytes) -> bytes:
    """Return what is there but for a torn last line."""
    return content[: content.rfind(b"\n") + 1]


def joined(theirs: bytes, ours: bytes) -> bytes:
    """Return the longer where one continues the other, else the mirror's lines and then those only we have."""
    if theirs.startswith(ours):
        return theirs
    if ours.startswith(theirs):
        return ours
    known = set(theirs.splitlines(keepends=True))
    return theirs + b"".join(one for one in ours.splitlines(keepends=True) if one not in known)


def sound(content: bytes, copy: Copy) -> bytes:
    """Return the complete lines of a copy, once each of them is known to be a record.

    Raises:
        ConflictError: as `parse_records`.
    """
    lines = complete_lines(content)
    parse_records(lines, copy)
    return lines


def parse_records(lines: bytes, copy: Copy) -> tuple[Record, ...]:
    """Return the records in complete lines.

    Raises:
        ConflictError: of another site, of a newer version, or damaged; with what to do about this copy.
    """
    if not lines:
        return ()
    first, *others = lines.splitlines()
    head = _fields(first, copy)
    if head.get("journal") != VERSION:
        hint = f"Use the version of this tool that wrote it. {copy.lost}"
        version = repr(head.get("journal"))[:40]
        raise ConflictError(copy.name, f"is of another format: version {version}", hint=hint)
    if head.get("site") != copy.site:
        cause = f"is the journal of {str(head.get('site'))[:200]!r}, this site is {copy.site}"
        raise ConflictError(copy.name, cause, hint=copy.mixed_up)
    return tuple(_record(_fields(one, copy), copy) for one in others)


def _fields(raw: bytes, copy: Copy) -> dict[str, object]:
    try:
        value = parse_strict_json(raw, subject=copy.name)
    except FormatError as error:
        raise ConflictError(copy.name, f"is damaged: {error.cause}", hint=copy.lost) from error
    if not isinstance(value, dict):
        raise ConflictError(copy.name, "is damaged: a line is no record", hint=copy.lost)
    return value


def _record(fields: Mapping[str, object], copy: Copy) -> Record:
    step, key, at, facts = (fields.get(name) for name in ("step", "key", "at", "facts"))
    if not isinstance(step, str) or not isinstance(key, str) or not isinstance(at, str) or not isinstance(facts, dict):
        raise ConflictError(copy.name, "is damaged: a line is no record", hint=copy.lost)
    return Record(step=step, key=key, at=at, facts={str(name): str(value) for name, value in facts.items()})
