"""How far an export is: what the packs hold that are finished, and which blocks were seen for them."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, replace
from typing import Any

from bundler.domain.canonical import canonical_json, parse_canonical_json
from bundler.domain.digest import Digest
from bundler.domain.packs import PackTable, parse_pack_table
from bundler.errors import FormatError

_EMPTY = PackTable(packs=(), frames=(), blocks=b"", made_with="")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportProgress:
    """State of an export between two packs.

    Attributes:
        snapshots: ids, in the order of the devices.
        seen: how many listed blocks, of all devices, need not be read again.
        records: of each device, the records of the block index for the blocks seen.
        table: of the finished packs.
        lengths: of each device, how long `records` is; known before its content is.
    """

    snapshots: tuple[str, ...]
    seen: int
    records: tuple[bytes, ...]
    table: PackTable
    lengths: tuple[int, ...]

    @classmethod
    def fresh(cls, snapshots: tuple[str, ...]) -> ExportProgress:
        """Return the state before anything was read."""
        nothing = (b"",) * len(snapshots)
        return cls(snapshots=snapshots, seen=0, records=nothing, table=_EMPTY, lengths=(0,) * len(snapshots))

    def at(self, seen: int, lengths: tuple[int, ...]) -> ExportProgress:
        """Return the state at a later block, without its content."""
        return replace(self, seen=seen, lengths=lengths, records=(), table=_EMPTY)

    def with_content(self, records: tuple[bytes, ...], table: PackTable) -> ExportProgress:
        """Return the same with its content."""
        return replace(self, records=records, table=table)

    @property
    def raw(self) -> bytes:
        """The state as it is stored: its SHA-256, a line end, JSON."""
        content = canonical_json(
            {
                "snapshots": list(self.snapshots),
                "seen": self.seen,
                "records": [base64.b64encode(each).decode() for each in self.records],
                "table": base64.b64encode(self.table.raw).decode(),
            }
        )
        return f"{Digest.of(content).hex}\n".encode() + content


def parse_progress(raw: bytes, *, subject: str) -> ExportProgress:
    """Return the state in `raw`.

    Raises:
        FormatError: not a state, or a damaged one; it only saved time.
    """
    stated, _, content = raw.partition(b"\n")
    if stated != Digest.of(content).hex.encode():  # what is in it goes into an index that is signed
        raise FormatError(subject, "is not the state of an export, or damaged")
    value: Any = parse_canonical_json(content, subject=subject)
    try:
        records = tuple(base64.b64decode(each, validate=True) for each in value["records"])
        table = parse_pack_table(base64.b64decode(value["table"], validate=True), subject=subject)
        snapshots, seen = tuple(map(str, value["snapshots"])), int(value["seen"])
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise FormatError(subject, "is not the state of an export") from error
    return ExportProgress(
        snapshots=snapshots, seen=seen, records=records, table=table, lengths=tuple(map(len, records))
    )
