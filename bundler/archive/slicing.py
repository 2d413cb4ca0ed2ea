"""`--split`: a sealed archive becomes parts, from its end, and never takes the disk twice (ADR 54).

Each part is copied and made durable before the file is cut by as many bytes; what is left at last is the first part.
The file loses its name before its first byte, and the table gets its own last: neither half an archive nor half a
set of parts ever has a final name. Killed anywhere, `finish_slicing` goes on.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bundler.archive.partial import NO_SPACE
from bundler.atomic import publish, sync_folder
from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, Emit, ItemDone, TransferPlanned, silent
from bundler.domain.parts import (
    Part,
    PartEntry,
    PartsTable,
    WholeArchive,
    parse_table,
    plan_cuts,
    table_bytes,
    table_name,
)
from bundler.errors import ConflictError, DigestError, FormatError, LocalResourceError, LockedError
from bundler.transfer import check_stopped

CHUNK_BYTES = 1 << 20
_SAFE = "Every byte of the archive is kept: bundle build goes on from there."


def table_path(archive: Path) -> Path:
    """Return where the table of an archive's parts stands."""
    return archive.with_name(table_name(archive.name))


def slice_archive(
    archive: Path, *, root: Digest, part_bytes: int, failpoint: Callable[[str], None], emit: Emit = silent
) -> Path:
    """Cut a complete archive into parts of `part_bytes`; return the table. STEM.tar is gone then.

    Raises:
        UsageError: too many parts.
        LocalResourceError: no room for one part, or the disk fails.
        DigestError: the disk gave other bytes when they were read again.
    """
    slicing = _Slicing(archive, failpoint=failpoint, emit=emit)
    with _disk(archive), _locked(archive) as handle:
        slicing.plan(handle, root, part_bytes)
        slicing.finish(handle)
    return table_path(archive)


def finish_slicing(archive: Path, *, failpoint: Callable[[str], None], emit: Emit = silent) -> Path | None:
    """Go on with a slicing that was cut off; return its table, None where none was or the archive is still whole.

    Raises:
        LockedError: another process is slicing it.
        LocalResourceError, DigestError: as `slice_archive`.
    """
    slicing = _Slicing(archive, failpoint=failpoint, emit=emit)
    with _disk(archive):
        if not slicing.planned.exists():
            return None
        if archive.exists():  # it was planned, and nothing was cut
            with _locked(archive):
                slicing.planned.unlink(missing_ok=True)
            return None
        if not slicing.rest.exists():
            slicing.complete()
            return table_path(archive)
        with _locked(slicing.rest) as handle:
            slicing.finish(handle)
    return table_path(archive)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Hold a file for this process alone; the lock goes with it, whatever its name becomes.

    Raises:
        LockedError: another process cuts it, or did so meanwhile.
    """
    with path.open("r+b", buffering=0) as file:
        busy = LockedError(
            str(path),
            "another process cuts this archive",
            hint="Wait until it has ended, then run the same command again.",
        )
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            has_name = os.path.samestat(path.stat(), os.fstat(file.fileno()))
        except (BlockingIOError, FileNotFoundError) as error:
            raise busy from error
        if not has_name:
            raise busy
        yield file.fileno()


@contextmanager
def _disk(archive: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename
        cause = f"cannot be cut into parts: {error.strerror}" + ("" if where is None else f": {where}")
        wanted = "Make room for one part" if error.errno in NO_SPACE else "Mend what is named"
        hint = f"{wanted}, then run the same command again."
        raise LocalResourceError(str(archive), cause, safe=_SAFE, hint=hint) from error


@dataclass(frozen=True, slots=True)
class _Slicing:
    """One archive being cut.

    STEM.parts.json.partial is the plan, STEM.tar.slicing what has not been cut off yet.
    """

    archive: Path
    failpoint: Callable[[str], None]
    emit: Emit

    @property
    def planned(self) -> Path:
        return table_path(self.archive).with_name(table_path(self.archive).name + ".partial")

    @property
    def rest(self) -> Path:
        return self.archive.with_name(self.archive.name + ".slicing")

    def plan(self, handle: int, root: Digest, part_bytes: int) -> None:
        """Read the archive through, keep its table, and take its name away."""
        table = self._measured(handle, root, part_bytes)
        table_path(self.archive).unlink(missing_ok=True)  # an earlier archive's parts are about to be replaced
        publish(self.planned, table_bytes(table))
        self.failpoint("planned")
        self.archive.replace(self.rest)
        sync_folder(self.archive.parent)
        self.failpoint("taken")

    def finish(self, handle: int) -> None:
        """Cut what is left to cut, then give the table its name."""
        first, *others = self._table().placed
        for part in reversed(others):
            self._cut(handle, part)
        os.fsync(handle)
        self.rest.replace(self.archive.with_name(first.name))
        sync_folder(self.archive.parent)
        self.emit(ItemDone(phase="split", item=first.name))
        self.failpoint("first")
        self.complete()

    def complete(self) -> None:
        """Give the table of parts that are all there its name.

        Raises:
            ConflictError: they are not; nothing is removed.
        """
        table = self._table()
        for part in table.placed:
            path = self.archive.with_name(part.name)
            if not path.is_file() or path.stat().st_size != part.size:
                hint = f"Look for it; or remove {self.planned} and the parts, and build again."
                raise ConflictError(str(path), f"is not the part that {self.planned.name} lists", hint=hint)
        self._remove_others(table)
        self.planned.replace(table_path(self.archive))
        sync_folder(self.archive.parent)
        self.failpoint("complete")

    def _table(self) -> PartsTable:
        try:
            return parse_table(self.planned.read_bytes(), source=str(self.planned))
        except FormatError as error:
            error.hint = f"Remove {self.rest} and {self.planned}, then build again."
            raise

    def _measured(self, handle: int, root: Digest, part_bytes: int) -> PartsTable:
        size = os.fstat(handle).st_size
        cuts = plan_cuts(size, part_bytes)
        self.emit(TransferPlanned(phase="split", total_bytes=size, items=len(cuts)))
        whole, entries = hashlib.sha256(), []
        for offset, length in cuts:
            digest = hashlib.sha256()
            for chunk in _chunks(handle, offset, length):
                whole.update(chunk)
                digest.update(chunk)
                self.emit(BytesMoved(phase="split", item=self.archive.name, count=len(chunk)))
            entries.append(PartEntry(size=length, sha256=digest.hexdigest()))
        archive = WholeArchive(name=self.archive.name, size=size, sha256=whole.hexdigest())
        return PartsTable(archive=archive, root=root, parts=tuple(entries))

    def _cut(self, handle: int, part: Part) -> None:
        """Give the last part its file, then cut the rest by it; what was cut off before is left alone."""
        if os.fstat(handle).st_size <= part.offset:
            return
        self._copy(handle, part)
        os.ftruncate(handle, part.offset)
        self.failpoint("cut")
        self.emit(ItemDone(phase="split", item=part.name))

    def _copy(self, handle: int, part: Part) -> None:
        final = self.archive.with_name(part.name)
        unfinished = final.with_name(final.name + ".partial")
        sha256 = hashlib.sha256()
        try:
            with unfinished.open("wb", buffering=0) as file:
                for chunk in _chunks(handle, part.offset, part.size):
                    sha256.update(chunk)
                    _write(file.fileno(), chunk)
                self.failpoint("copied")
                os.fsync(file.fileno())
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        if sha256.hexdigest() != part.digest.hex:
            unfinished.unlink()
            hint = f"The disk is not to be trusted. Remove {self.rest} and {self.planned}, then build again."
            raise DigestError(str(self.rest), f"{part.name} is read otherwise than before", hint=hint)
        unfinished.replace(final)
        sync_folder(final.parent)
        self.failpoint("named")

    def _remove_others(self, table: PartsTable) -> None:
        """Remove what an earlier set of parts of the same name had beyond this one."""
        for path in self.archive.parent.glob(f"{self.archive.name}.[0-9][0-9][0-9]"):
            if int(path.suffix[1:]) >= len(table.parts):
                path.unlink()


def _chunks(handle: int, offset: int, length: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(min(CHUNK_BYTES, length)))
    end = offset + length
    while offset < end:
        check_stopped()
        count = os.preadv(handle, [buffer[: min(len(buffer), end - offset)]], offset)
        if not count:
            raise OSError(0, "it became shorter while it was read")
        yield buffer[:count]
        offset += count


def _write(handle: int, chunk: memoryview) -> None:
    while chunk:
        chunk = chunk[os.write(handle, chunk) :]
