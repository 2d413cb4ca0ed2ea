"""Finds the parts of an archive: beside their table, in further folders, below prefixes in S3."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bundler.domain.parts import MAX_TABLE_BYTES, PartsTable, parse_table, refusal
from bundler.errors import FormatError, LimitError, RefusedError, UnreadableError, UsageError
from bundler.transfer import Pace, parallel_map

if TYPE_CHECKING:
    from bundler.archive.parts import PartsSource
    from bundler.ports import ByteSource

OpenOne = Callable[[str], AbstractContextManager["ByteSource"]]
"""Opens one file, or one object of S3, by its name."""


@contextmanager
def parts_source(
    table_name: str, folders: Sequence[str], *, open_one: OpenOne, pace: Pace, thorough: bool = False
) -> Iterator[PartsSource]:
    """Yield the archive whose parts a table lists.

    Args:
        table_name: path or s3:// address of STEM.parts.json; it may also stand in one of `folders`.
        folders: further folders and prefixes in which parts may be; what stands there goes before what stands beside
            the table, so that a mended part counts wherever it was put.
        open_one: opens a file or an object.
        pace: parts that are looked for at a time, and who hears of it.
        thorough: where something is wrong, read every part, and name all that are damaged.

    Raises:
        UsageError: there is no table.
        FormatError: parts are missing or cut, or one is there twice; names each.
        DigestError: parts have other content than the table says, or cannot be read.
        UnreadableError: a part cannot be read, where not `thorough`.
    """
    with parts_found(table_name, folders, open_one=open_one, pace=pace) as source:
        try:
            source.require_whole()
            source.require_root()
            yield source
        except (RefusedError, UnreadableError) as error:
            flaws = source.explain(error, pace=pace) if thorough else ()
            if flaws:
                raise refusal(source.name, flaws) from error
            if isinstance(error, UnreadableError):
                raise
            raise source.locate(error) from error


@contextmanager
def parts_found(table_name: str, folders: Sequence[str], *, open_one: OpenOne, pace: Pace) -> Iterator[PartsSource]:
    """Yield the archive of a table with whatever parts are there, however many are missing or cut.

    Raises:
        UsageError: there is no table.
        FormatError: it is not one.
    """
    places = [*folders, folder_of(table_name)]
    with ExitStack() as opened:
        name, table = find_table(table_name, folders, open_one=open_one)
        yield parts_of(name, table, places, open_one=open_one, pace=pace, opened=opened)


def parts_of(  # noqa: PLR0913 - what is looked for, where, and how
    name: str, table: PartsTable, places: Sequence[str], *, open_one: OpenOne, pace: Pace, opened: ExitStack
) -> PartsSource:
    """Return the archive of a table with the parts that stand in `places`; `opened` closes them."""
    from bundler.archive.parts import PartsSource, judge

    def candidates(part_name: str) -> list[ByteSource]:
        found = (_opened(below(place, part_name), open_one, opened) for place in places)
        return [source for source in found if source is not None]

    _allow_files(len(table.parts) * len(places))
    found = parallel_map(lambda part: judge(part, candidates(part.name)), table.placed, workers=pace.workers)
    return PartsSource(name, table, found)


def _allow_files(count: int) -> None:
    """Let this process open `count` files more than it might, as far as the system lets it: shells allow 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    most = soft + count if hard == resource.RLIM_INFINITY else min(soft + count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def find_table(name: str, folders: Sequence[str], *, open_one: OpenOne) -> tuple[str, PartsTable]:
    """Return the table and its name; it stands where `name` says, or in one of `folders`."""
    for candidate in (name, *(below(folder, last_word(name)) for folder in folders)):
        try:
            with open_one(candidate) as source:
                return candidate, _parsed(source)
        except UsageError:
            continue
    hint = "Name STEM.parts.json, or say in which folder it is: --parts DIR"
    raise UsageError(name, "does not exist", hint=hint)


def _parsed(source: ByteSource) -> PartsTable:
    if source.size > MAX_TABLE_BYTES:
        raise LimitError(source.name, f"has {source.size} bytes; at most {MAX_TABLE_BYTES} are allowed")
    try:
        return parse_table(source.read_at(0, source.size), source=source.name)
    except FormatError as error:
        error.hint = "Send this file again: it is small. The parts themselves may be right."
        raise


def _opened(name: str, open_one: OpenOne, opened: ExitStack) -> ByteSource | None:
    """Return a part that is there, empty ones included; None where there is none."""
    try:
        return opened.enter_context(open_one(name))
    except UsageError:
        return None
    except FormatError:
        if not name.startswith("s3://") and Path(name).is_file():
            return _Empty(name)
        raise


class _Empty:
    """A file without a byte (ports.ByteSource)."""

    size = 0

    def __init__(self, name: str) -> None:
        self.name = name

    def read_at(self, offset: int, length: int) -> bytes:
        """Return nothing: it has nothing."""
        raise FormatError(self.name, f"is empty; {length} bytes are wanted from {offset}")

    def stream(self, offset: int, length: int) -> Iterator[memoryview]:
        """Yield nothing: it has nothing."""
        raise FormatError(self.name, f"is empty; {length} bytes are wanted from {offset}")


def below(folder: str, name: str) -> str:
    """Return the path or address of `name` in a folder, or below a prefix."""
    if folder.startswith("s3://"):
        return f"{folder.rstrip('/')}/{name}"
    return str(Path(folder) / name)


def folder_of(name: str) -> str:
    """Return the folder, or the prefix, that a path or an address stands in."""
    return name.rsplit("/", 1)[0] if name.startswith("s3://") else str(Path(name).parent)


def last_word(name: str) -> str:
    """Return the file name of a path or an address."""
    return name.rsplit("/", 1)[-1]
