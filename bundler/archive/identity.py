"""What names an archive, read without an accepted trust root: for the sender's slip, never for a decision."""

from __future__ import annotations

from bundler.archive.header import BLOCK_BYTES
from bundler.archive.layout import head_entries
from bundler.archive.members import place_members
from bundler.archive.reader import Archive, open_archive, read_slot
from bundler.archive.root import parse_root, slot_bytes
from bundler.envelope import unverified_payload
from bundler.errors import LimitError
from bundler.ports import ByteSource
from bundler.trust import MAX_TRUST_BYTES, parse_trust_chain


def self_consistent(source: ByteSource) -> Archive:
    """Return the archive as it vouches for itself: signed by the trust root that it carries.

    This finds damage and says what the archive calls itself; whether to believe it is for `open_archive`.

    Raises:
        RefusedError: not an archive, or not in the one legal form.
    """
    payload = unverified_payload(read_slot(source).rstrip(b" "), subject=source.name)
    root = parse_root(payload, source=source.name)
    trust, _ = place_members(head_entries(root), start=BLOCK_BYTES + slot_bytes(payload))
    if trust.size > MAX_TRUST_BYTES:
        raise LimitError(source.name, "has a trust.json that is larger than any honest one")
    carried = source.read_at(trust.offset, trust.size)
    return open_archive(source, parse_trust_chain(carried, source=f"{source.name}: trust.json"))
