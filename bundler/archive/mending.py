"""The right bytes of a damaged archive, put together again and given their place (ADR 55)."""

from __future__ import annotations

import fcntl
import hashlib
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bundler.archive.header import BLOCK_BYTES, END_BYTES, member_header, padding
from bundler.archive.members import Member
from bundler.archive.reader import Archive
from bundler.archive.root import ROOT_PATH
from bundler.atomic import sync_folder
from bundler.cache import Cache
from bundler.domain.digest import Digest
from bundler.errors import DigestError, FormatError, LocalResourceError, LockedError
from bundler.ports import ByteSource
from bundler.transfer import check_stopped

CHUNK_BYTES = 1 << 20
UNFINISHED = ".repair"
_SAFE = "What was damaged is as it was; what was mended completely stays."


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Bytes of an archive that are right or wrong together; `end` is the one after the last."""

    start: int
    end: int
    is_right: bool

    def within(self, start: int, end: int) -> Span:
        """Return what of it lies between two bytes."""
        return Span(start=max(start, self.start), end=min(end, self.end), is_right=self.is_right)


def spans_of(archive: Archive, damaged: Sequence[Member], *, slot: bool, tail: bool) -> tuple[Span, ...]:
    """Return all bytes of an archive in as few spans as there are.

    Args:
        archive: where everything must be.
        damaged: members that are wrong.
        slot: whether the signed root is right.
        tail: whether the end is.
    """
    wrong = {member.offset for member in damaged}
    last = archive.members[-1].end
    return _merged(
        [
            Span(start=0, end=archive.members[0].header_offset, is_right=slot),
            *(
                Span(start=member.header_offset, end=member.end, is_right=member.offset not in wrong)
                for member in archive.members
            ),
            Span(start=last, end=last + END_BYTES, is_right=tail),
        ]
    )


def _merged(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Make one of neighbours that are both right or both wrong: one ranged read for them all."""
    found: list[Span] = []
    for span in spans:
        if found and found[-1].is_right == span.is_right:
            found[-1] = Span(start=found[-1].start, end=span.end, is_right=span.is_right)
        else:
            found.append(span)
    return tuple(found)


class RebuiltSource:
    """An archive whose content is in a store of blobs by digest (ports.ByteSource).

    Headers, padding and the end follow from the table of members; reading content that the store lacks is refused.
    """

    def __init__(self, archive: Archive, store: Cache) -> None:
        self.name = archive.source.name
        self.size = archive.members[-1].end + END_BYTES
        self._archive = archive
        self._store = store
        self._ends = [member.end for member in archive.members]

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`."""
        return b"".join(map(bytes, self.stream(offset, length)))

    def stream(self, offset: int, length: int) -> Iterator[memoryview]:
        """Yield exactly `length` bytes from `offset`.

        Raises:
            FormatError: the store does not hold them.
            DigestError: what it holds is damaged.
        """
        end = offset + length
        for start, size, pieces in self._runs(offset, end):
            position = start
            for piece in pieces():
                view = memoryview(piece)[max(0, offset - position) : max(0, end - position)]
                position += len(piece)
                if view:
                    yield view
            if position != start + size:
                raise FormatError(self.name, f"has {position - start} bytes where {size} are needed")

    def _runs(self, start: int, end: int) -> Iterator[tuple[int, int, Callable[[], Iterator[bytes]]]]:
        slot, members = self._archive.slot_bytes, self._archive.members
        if start < BLOCK_BYTES + slot:
            yield 0, BLOCK_BYTES + slot, partial(self._whole, ROOT_PATH, slot, self._archive.envelope_digest)
        for member in members[bisect_right(self._ends, start) :]:
            if member.header_offset >= end:
                return
            whole = partial(self._whole, member.path, member.size, member.digest)
            yield member.header_offset, member.end - member.header_offset, whole
        if members[-1].end < end:
            yield members[-1].end, END_BYTES, lambda: iter([bytes(END_BYTES)])

    def _whole(self, path: str, size: int, digest: Digest) -> Iterator[bytes]:
        yield member_header(path, size)
        try:
            yield from self._store.read(digest)
        except FileNotFoundError:
            hint = "Name another copy: --from COPY"
            raise FormatError(
                self.name, f"{path} is damaged, and only a copy of the archive has it", hint=hint
            ) from None
        yield bytes(padding(size))


def pieces(spans: Sequence[Span], start: int, end: int, *, here: ByteSource, other: ByteSource) -> Iterator[memoryview]:
    """Yield the bytes between `start` and `end`: what is right from `here`, the rest from `other`."""
    for span in spans:
        part = span.within(start, end)
        if part.start < part.end:
            source = here if part.is_right else other
            yield from source.stream(part.start, part.end - part.start)


def write_mended(
    path: Path,
    content: Callable[[int], Iterator[memoryview]],
    *,
    size: int,
    digest: Digest | None,
    failpoint: Callable[[str], None],
) -> None:
    """Give `path` the right content; what stood there stays until all of it is on the disk.

    Args:
        path: of the part, or of the archive.
        content: yields its bytes from an offset; what an earlier run wrote is not asked for again.
        size: how many there are.
        digest: what they must be; None where each of them is known to be right, and then nothing is kept.
        failpoint: is told of each step.

    Raises:
        DigestError: the bytes are not those.
        LockedError: another repair of it is running.
        LocalResourceError: the disk is full or not writable.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    with _disk(path), unfinished.open("ab", buffering=0) as file:
        _lock(file.fileno(), path)
        if not _is_named(file.fileno(), unfinished):
            raise LockedError(str(path), "another repair of it has just ended", hint="Run the same command again.")
        sha256, kept = (hashlib.sha256(), 0) if digest is None else _kept(unfinished, size)
        os.ftruncate(file.fileno(), kept)
        failpoint("begun")
        count = kept
        for chunk in content(kept):
            check_stopped()
            sha256.update(chunk)
            _append(file.fileno(), chunk)
            count += len(chunk)
            failpoint("written")
        if count != size or (digest is not None and sha256.hexdigest() != digest.hex):
            os.ftruncate(file.fileno(), 0)
            if kept:
                raise _StaleError(str(unfinished), "what an earlier run kept does not fit")
            unfinished.unlink()
            raise DigestError(str(path), "is not what its digest names, in this copy either", safe=_SAFE)
        os.fsync(file.fileno())
        failpoint("synced")
        unfinished.replace(path)
        sync_folder(path.parent)
        failpoint("named")


class _StaleError(DigestError):
    """The bytes that an earlier run kept are of no use; begin again."""


def write_again(
    path: Path,
    content: Callable[[int], Iterator[memoryview]],
    *,
    size: int,
    digest: Digest | None,
    failpoint: Callable[[str], None],
) -> None:
    """Do as `write_mended`, and begin again where bytes that an earlier run kept turn out wrong."""
    try:
        write_mended(path, content, size=size, digest=digest, failpoint=failpoint)
    except _StaleError:
        write_mended(path, content, size=size, digest=digest, failpoint=failpoint)


def write_in_place(path: Path, spans: Sequence[Span], right: ByteSource, *, failpoint: Callable[[str], None]) -> None:
    """Write over what is wrong in an archive; `right` holds it on this disk, so that a kill in between loses nothing.

    Raises:
        LockedError: another repair of it is running.
        LocalResourceError: the file cannot be written.
    """
    with _disk(path), path.open("r+b", buffering=0) as file:
        handle = file.fileno()
        _lock(handle, path)
        for span in spans:
            if span.is_right:
                continue
            offset = span.start
            for chunk in right.stream(span.start, span.end - span.start):
                _write_at(handle, chunk, offset)
                offset += len(chunk)
                failpoint("written")
        os.ftruncate(handle, spans[-1].end)
        os.fsync(handle)
        failpoint("synced")


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "Make room; or where it cannot be written to, name another folder: --out DIR"
        raise LocalResourceError(str(path), f"cannot be mended: {error.strerror}", safe=_SAFE, hint=hint) from error


def _lock(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        hint = "Wait until it has ended, then run the same command again."
        raise LockedError(str(path), "another repair of it is running", hint=hint) from error


def _is_named(handle: int, path: Path) -> bool:
    """Whether a file still has its name: one that was finished and renamed while we waited is not ours to write."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _kept(unfinished: Path, size: int) -> tuple[hashlib._Hash, int]:
    """Return the hash state and length of what an earlier run wrote."""
    sha256, count = hashlib.sha256(), 0
    with unfinished.open("rb", buffering=0) as file:
        while count < size and (chunk := file.read(min(CHUNK_BYTES, size - count))):
            sha256.update(chunk)
            count += len(chunk)
    return sha256, count


def _append(handle: int, chunk: memoryview) -> None:
    while chunk:
        chunk = chunk[os.write(handle, chunk) :]


def _write_at(handle: int, chunk: memoryview, offset: int) -> None:
    while chunk:
        count = os.pwrite(handle, chunk, offset)
        chunk, offset = chunk[count:], offset + count
