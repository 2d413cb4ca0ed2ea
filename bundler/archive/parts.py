"""An archive in parts, read in place: a ByteSource over them, in any order and without joining."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bundler.archive.reader import read_slot
from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, ItemDone, TransferPlanned
from bundler.domain.parts import Flaw, Part, PartsTable, refusal, wrong_content
from bundler.envelope import unverified_payload
from bundler.errors import DigestError, FormatError, RefusedError, SignatureError, UnreadableError, UntrustedError
from bundler.ports import ByteSource
from bundler.transfer import Pace, check_stopped, parallel_map


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPart:
    """A part, and where it was found.

    Attributes:
        source: its bytes; None where it is nowhere.
        cause: what is wrong with it without looking at its content: "is missing", "is cut …"; "" where nothing is.
    """

    part: Part
    source: ByteSource | None
    cause: str = ""


def judge(part: Part, candidates: Sequence[ByteSource]) -> FoundPart:
    """Return the first of several copies that has the right size, else what is wrong with the first."""
    right = next((one for one in candidates if one.size == part.size), None)
    if right is not None:
        return FoundPart(part=part, source=right)
    if not candidates:
        return FoundPart(part=part, source=None, cause="is missing")
    size = candidates[0].size
    if size < part.size:
        cause = f"is cut: it has {size} bytes of {part.size}" if size else f"is empty; it must have {part.size} bytes"
    else:
        cause = f"has {size - part.size} bytes after its end"
    return FoundPart(part=part, source=candidates[0], cause=cause)


class PartsSource:
    """The archive whose parts were found (ports.ByteSource); safe for several threads at once.

    A part that is missing or cut may be among them: reading what it lacks is refused, and names it.
    """

    def __init__(self, name: str, table: PartsTable, found: Sequence[FoundPart]) -> None:
        self.name = name
        self.table = table
        self.found = tuple(found)
        self.size = table.archive.size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`.

        Raises:
            FormatError: the archive ends before, or a part is missing or cut.
        """
        return b"".join(source.read_at(start, count) for source, start, count in self._pieces(offset, length))

    def stream(self, offset: int, length: int) -> Iterator[memoryview]:
        """Yield exactly `length` bytes from `offset` in chunks of at most 1 MiB, each valid until the next.

        Raises:
            FormatError: the archive ends before, or a part is missing or cut.
        """
        for source, start, count in self._pieces(offset, length):
            yield from source.stream(start, count)

    def require_whole(self) -> None:
        """Do nothing where every part is there with its size.

        Raises:
            FormatError: names each that is not.
        """
        flaws = [Flaw(part=one.part, cause=one.cause) for one in self.found if one.cause]
        if flaws:
            raise refusal(self.name, flaws)

    def require_root(self) -> None:
        """Do nothing where part 0 begins with the root that the table names, or with something that is no root at all.

        Raises:
            DigestError: it is the beginning of another bundle.
        """
        first = self.found[0].part
        try:
            root = Digest.of(unverified_payload(read_slot(self).rstrip(b" "), subject=self.name))
        except RefusedError:
            return  # whoever opens the archive says what is wrong with it
        if root != self.table.root:
            cause = f"{first.name} begins another bundle: its root is {root}, the table names {self.table.root}"
            hint = f"Send {first.name} again, together with the table of the same archive."
            raise DigestError(self.name, cause, hint=hint)

    def survey(self, *, pace: Pace = Pace(), first: bool = False) -> tuple[Flaw, ...]:
        """Return what is wrong with any part, or with the `first`, by its digest: every byte of it is read."""
        suspects = self.found[:1] if first else self.found
        sizes = [one.part.size for one in suspects if not one.cause]
        pace.emit(TransferPlanned(phase="parts", total_bytes=sum(sizes), items=len(sizes)))
        flaws = parallel_map(lambda one: self._flaw(one, pace), suspects, workers=pace.workers)
        return tuple(flaw for flaw in flaws if flaw is not None)

    def explain(self, error: RefusedError | UnreadableError, *, pace: Pace = Pace()) -> tuple[Flaw, ...]:
        """Return the flaws that may be why the archive was refused; parts are read where damage can be the reason."""
        names = (self.name, *(one.source.name for one in self.found if one.source is not None))
        if not error.subject.startswith(names) or isinstance(error, UntrustedError):
            return ()
        return self.survey(pace=pace, first=isinstance(error, SignatureError))

    def locate(self, error: RefusedError) -> RefusedError:
        """Return an error about some bytes of the archive as one that names the parts they stand in."""
        if error.span is None or error.subject != self.name:
            return error
        start, end = error.span
        names = [one.part.name for one in self.found if one.part.offset < end and start < one.part.end]
        found = type(error)(self.name, f"{error.cause}, in {' and '.join(names)}", hint=self._hint)
        if "safe" in vars(error):
            found.safe = error.safe
        return found

    @property
    def _hint(self) -> str:
        return f"Find every damaged part: bundle verify {self.name}"

    def _flaw(self, one: FoundPart, pace: Pace) -> Flaw | None:
        if one.cause or one.source is None:
            return Flaw(part=one.part, cause=one.cause)
        sha256 = hashlib.sha256()
        try:
            for chunk in one.source.stream(0, one.part.size):
                check_stopped()
                sha256.update(chunk)
                pace.emit(BytesMoved(phase="parts", item=one.part.name, count=len(chunk)))
        except UnreadableError as error:
            return Flaw(part=one.part, cause=error.cause, content=True)
        except RefusedError as error:
            return Flaw(part=one.part, cause=f"cannot be read: {error.cause}", content=True)
        pace.emit(ItemDone(phase="parts", item=one.part.name, how="read"))
        return wrong_content(one.part, Digest("sha256:" + sha256.hexdigest()), self.table)

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[ByteSource, int, int]]:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise FormatError(self.name, f"ends after {self.size} bytes; {length} are wanted from {offset}")
        step, end = self.table.part_bytes, offset + length
        while offset < end:
            one = self.found[offset // step]
            count = min(end, one.part.end) - offset
            start = offset - one.part.offset
            if one.source is None or start + count > one.source.size:
                raise refusal(self.name, [Flaw(part=one.part, cause=one.cause)])
            yield one.source, start, count
            offset += count
