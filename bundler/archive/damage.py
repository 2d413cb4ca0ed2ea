"""What of an archive is damaged: all of it, where the reader stops at the first."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from bundler.archive.header import BLOCK_BYTES, member_header
from bundler.archive.members import Member, runs_of
from bundler.archive.reader import Archive, verify_run
from bundler.archive.root import ROOT_PATH
from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, ItemDone, TransferPlanned
from bundler.errors import RefusedError, UnreadableError
from bundler.ports import ByteSource
from bundler.transfer import Pace, parallel_map


def damaged_members(source: ByteSource, members: Sequence[Member], *, pace: Pace = Pace()) -> tuple[Member, ...]:
    """Return those of `members` that `source` does not hold right: header, content and padding.

    Args:
        source: an archive, which may be cut, have holes, or stand on a medium that cannot be read everywhere.
        members: where they must stand, by a table that was verified.
        pace: runs of members at a time, and who hears of each.
    """
    pace.emit(TransferPlanned(phase="verify", total_bytes=sum(member.size for member in members), items=len(members)))

    def wrong(run: Sequence[Member]) -> list[Member]:
        right = _is_right(source, run)
        found = [] if right else [member for member in run if not _is_right(source, [member])]
        pace.emit(BytesMoved(phase="verify", item=run[0].path, count=sum(member.size for member in run)))
        for member in run:
            pace.emit(ItemDone(phase="verify", item=member.path, how="verified"))
        return found

    return tuple(chain.from_iterable(parallel_map(wrong, _neighbours(members), workers=pace.workers)))


def slot_is_right(source: ByteSource, archive: Archive) -> bool:
    """Whether `source` begins with the signed root of `archive`, signatures and all."""
    try:
        raw = source.read_at(0, BLOCK_BYTES + archive.slot_bytes)
    except (RefusedError, UnreadableError):
        return False
    header = member_header(ROOT_PATH, archive.slot_bytes)
    return raw[:BLOCK_BYTES] == header and Digest.of(raw[BLOCK_BYTES:]) == archive.envelope_digest


def _neighbours(members: Sequence[Member]) -> list[Sequence[Member]]:
    """Cut `members` into runs that stand one after another without a gap."""
    chains: list[list[Member]] = []
    for member in members:
        if not chains or chains[-1][-1].end != member.header_offset:
            chains.append([])
        chains[-1].append(member)
    return [run for one in chains for run in runs_of(one)]


def _is_right(source: ByteSource, run: Sequence[Member]) -> bool:
    try:
        verify_run(source, run)
    except (RefusedError, UnreadableError):
        return False
    return True
