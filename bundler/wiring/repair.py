"""`repaired`: what repair reads and writes: the archive, other copies of it, the cache, and the registries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bundler.cache import Cache
from bundler.domain.parts import ARCHIVE_SUFFIX, TABLE_SUFFIX, PartsTable, table_name, table_of
from bundler.errors import UsageError
from bundler.wiring.clients import any_registry, one_source
from bundler.wiring.parts import below, last_word, parts_found, parts_of
from bundler.wiring.surroundings import Surroundings, cache_folder

if TYPE_CHECKING:
    from bundler.domain.digest import Digest
    from bundler.domain.lock import Lock
    from bundler.ports import ByteSource
    from bundler.stages.fetch import Place
    from bundler.workflows.repair import RepairOutcome, RepairRequest, Upstream


def repaired(name: str, copies: Sequence[str], request: RepairRequest, surroundings: Surroundings) -> RepairOutcome:
    """Mend an archive, or its parts.

    Args:
        name: STEM.tar, or STEM.parts.json or a part; an archive in one file has to be here.
        copies: files, folders, s3:// addresses and prefixes with another copy, or some parts of one. Without any,
            content comes from the cache and from the registries that the lock names.
        request: the rest of what is asked; its path, copies, cache and upstream are filled in.
        surroundings: `parts` are the places of parts besides that of the table.

    Raises:
        UsageError: there is no such archive or copy, or it cannot be mended where it is.
        RefusedError: nothing has the right bytes.
    """
    from bundler.workflows.repair import repair_file, repair_parts

    table = table_of(name)
    if name.startswith("s3://") and (table is None or request.out is None):
        hint = "Mend the copy that was shipped, then bundle ship it again; parts can be mended into a folder: --out DIR"
        raise UsageError(name, "is in S3, where nothing is mended", hint=hint)
    opener = _Opener(surroundings)
    with ExitStack() as opened:
        if table is None:
            file = opened.enter_context(one_source(name, surroundings))
            others = [opened.enter_context(opener.copy(one, last_word(name), None)) for one in copies]
            filled = _filled(request, Path(name), others, surroundings)
            return repair_file(file, filled, pace=surroundings.pace)
        parts = opened.enter_context(
            parts_found(table, surroundings.parts, open_one=opener.one, pace=surroundings.pace)
        )
        stem = last_word(parts.name).removesuffix(TABLE_SUFFIX)
        others = [opened.enter_context(opener.copy(one, f"{stem}{ARCHIVE_SUFFIX}", parts.table)) for one in copies]
        return repair_parts(parts, _filled(request, Path(parts.name), others, surroundings), pace=surroundings.pace)


def _filled(
    request: RepairRequest, path: Path, others: Sequence[ByteSource], surroundings: Surroundings
) -> RepairRequest:
    if others:
        return replace(request, path=path, copies=tuple(others))
    cache = Cache(cache_folder(surroundings.environ))
    return replace(request, path=path, cache=cache, upstream=_upstream(cache, surroundings))


def _upstream(cache: Cache, surroundings: Surroundings) -> Upstream:
    """Return what fetches a lock's blobs as build does; the registry's client is made when the first is asked for."""

    def run(lock: Lock, blobs: Sequence[tuple[Digest, int]], place: Callable[[Digest], Place]) -> None:
        from bundler.stages.fetch import Supply, fetch

        client = any_registry(surroundings)
        supply = Supply(cache=cache, source_of=lambda _: client)
        fetch(lock, blobs, place=place, supply=supply, pace=surroundings.pace)

    return run


class _Opener:
    """Opens what people name as another copy."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings

    @contextmanager
    def one(self, name: str) -> Iterator[ByteSource]:
        """Yield one file or object."""
        with one_source(name, self._surroundings) as source:
            yield source

    @contextmanager
    def copy(self, name: str, archive: str, table: PartsTable | None) -> Iterator[ByteSource]:
        """Yield another copy of `archive`, which may have holes.

        Args:
            name: a file, an object, a table of parts, or a folder or prefix in which one of these is.
            archive: STEM.tar.
            table: how the archive was cut, where it was.
        """
        if table_of(name) is not None or not _is_folder(name):
            with self._named(name) as source:
                yield source
            return
        with ExitStack() as opened:
            yield self._in_folder(name, archive, table, opened)

    @contextmanager
    def _named(self, name: str) -> Iterator[ByteSource]:
        table = table_of(name)
        if table is None:
            with self.one(name) as source:
                yield source
            return
        with parts_found(table, (), open_one=self.one, pace=self._surroundings.pace) as parts:
            yield parts

    def _in_folder(self, folder: str, archive: str, table: PartsTable | None, opened: ExitStack) -> ByteSource:
        for candidate in (archive, *(() if table else (table_name(archive),))):
            try:
                return opened.enter_context(self._named(below(folder, candidate)))
            except UsageError:
                continue
        if table is not None:
            parts = parts_of(folder, table, [folder], open_one=self.one, pace=self._surroundings.pace, opened=opened)
            if any(one.source is not None for one in parts.found):
                return parts
        raise UsageError(folder, f"holds no copy of {archive}, and no part of one", hint="Correct --from.")


def _is_folder(name: str) -> bool:
    return not name.endswith(ARCHIVE_SUFFIX) if name.startswith("s3://") else Path(name).is_dir()
