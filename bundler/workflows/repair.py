"""`bundle repair`: what is damaged -> the right bytes from a copy, the cache or upstream -> in their place (ADR 55)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bundler.archive.damage import damaged_members, slot_is_right
from bundler.archive.header import BLOCK_BYTES, END_BYTES
from bundler.archive.identity import self_consistent
from bundler.archive.members import Member
from bundler.archive.mending import RebuiltSource, Span, pieces, spans_of, write_again, write_in_place
from bundler.archive.parts import PartsSource
from bundler.archive.reader import Archive, read_slot
from bundler.archive.writer import Failpoint, no_failpoint
from bundler.cache import Cache, CachePlace
from bundler.domain.digest import Digest
from bundler.domain.events import PhaseDone, PhaseStarted, counted
from bundler.domain.lock import Lock
from bundler.domain.parts import Flaw, Part
from bundler.envelope import unverified_payload
from bundler.errors import (
    BundleError,
    DigestError,
    FormatError,
    NetworkError,
    RefusedError,
    UnreadableError,
    UsageError,
    keeping,
)
from bundler.ports import ByteSource
from bundler.stages.fetch import Place
from bundler.transfer import Pace, parallel_map

Upstream = Callable[[Lock, Sequence[tuple[Digest, int]], Callable[[Digest], Place]], None]
"""Fetches blobs of a lock, by digest and size, each into its place; stages.fetch with its supply."""
_OTHER = "Name a copy of the same archive; where this one's root is damaged, say what it was: --expect sha256:…"
_KEPT = "What was damaged stays until the right bytes are there; the same command goes on."


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairRequest:
    """What to mend, and from what.

    Attributes:
        path: STEM.tar, or STEM.parts.json; where the latter is in S3, only its name counts.
        copies: other copies of the same archive; holes and damage in them do no harm.
        out: folder that gets what is mended; None mends in place.
        expect: the root that the archive must have, where it cannot say so itself any more.
        cache: blobs by digest that need not be fetched, where no copy is named.
        upstream: fetches the others then; None where only copies count.
    """

    path: Path
    copies: tuple[ByteSource, ...] = ()
    out: Path | None = None
    expect: Digest | None = None
    cache: Cache | None = None
    upstream: Upstream | None = None
    failpoint: Failpoint = no_failpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairOutcome:
    """What was mended: names of parts, or paths of members; where it stands; bytes that came from elsewhere."""

    root: Digest
    mended: tuple[str, ...] = ()
    written: tuple[Path, ...] = ()
    fetched_bytes: int = 0


@keeping(_KEPT)
def repair_parts(source: PartsSource, request: RepairRequest, *, pace: Pace) -> RepairOutcome:
    """Mend each part that is missing, cut or damaged.

    Raises:
        RefusedError: no copy has the right bytes.
        LocalResourceError: the disk is full or not writable; nothing that was there is lost.
    """
    root = _same(request.expect, source.table.root)
    pace.emit(PhaseStarted(phase="repair", detail=source.name))
    flaws = source.survey(pace=pace)
    copies = _Copies.of(request, root)
    stock = _Stock(request=request, copies=copies, pace=pace)
    if not flaws:
        stock.clear()
        pace.emit(PhaseDone(phase="repair", detail="every part is right"))
        return RepairOutcome(root=root)
    # Parts that are missing are fetched whole: what stands where in them need not be known.
    absent = request.upstream is None and all(source.found[flaw.part.number].source is None for flaw in flaws)
    reference = None if absent else _reference([source, *copies.sources], root)
    written = tuple(_mend_part(flaw, source, reference, stock) for flaw in flaws)
    stock.clear()
    pace.emit(PhaseDone(phase="repair", detail=f"{counted(len(flaws), 'part')} mended"))
    return RepairOutcome(
        root=root,
        mended=tuple(flaw.part.name for flaw in flaws),
        written=written,
        fetched_bytes=copies.fetched_bytes + stock.fetched_bytes,
    )


@keeping(_KEPT)
def repair_file(source: ByteSource, request: RepairRequest, *, pace: Pace) -> RepairOutcome:
    """Mend each member of an archive in one file that is not what the root says.

    Raises:
        RefusedError: no copy has the right bytes, or nothing says any more which archive this is.
        LocalResourceError: the disk is full or not writable; nothing that was there is lost.
    """
    root = _same(request.expect, _own_root(source, request.expect))
    pace.emit(PhaseStarted(phase="repair", detail=source.name))
    copies = _Copies.of(request, root)
    archive = _reference([source, *copies.sources], root)
    if archive is None:
        hint = "Name a copy that is whole: --from COPY"
        raise FormatError(source.name, "is cut, or does not say any more what it holds", hint=hint)
    damaged = damaged_members(source, archive.members, pace=pace)
    spans = spans_of(archive, damaged, slot=slot_is_right(source, archive), tail=_ends_right(source, archive))
    stock = _Stock(request=request, copies=copies, pace=pace)
    if all(span.is_right for span in spans) and source.size == spans[-1].end:
        stock.clear()
        pace.emit(PhaseDone(phase="repair", detail="every byte is right"))
        return RepairOutcome(root=root)
    if not spans[0].is_right:
        stock.take_slot(archive)
    stock.take(archive, damaged)
    written = _write_file(source, spans, RebuiltSource(archive, stock.store), request)
    stock.clear()
    pace.emit(PhaseDone(phase="repair", detail=f"{counted(len(damaged), 'member')} mended"))
    names = [] if spans[0].is_right else ["root.dsse.json"]
    names += [member.path for member in damaged]
    return RepairOutcome(
        root=root,
        mended=tuple(names) or ("end of the archive",),
        written=(written,),
        fetched_bytes=copies.fetched_bytes + stock.fetched_bytes,
    )


def claimed_root(source: ByteSource) -> Digest | None:
    """Return the digest of the root that an archive begins with, whoever signed it; None where none is to be read."""
    try:
        return Digest.of(unverified_payload(read_slot(source).rstrip(b" "), subject=source.name))
    except (RefusedError, UnreadableError):
        return None


def _own_root(source: ByteSource, expected: Digest | None) -> Digest | None:
    """Return the root that an archive claims; None where that is not the expected one because it is damaged."""
    found = claimed_root(source)
    if expected is None or found in (None, expected):
        return found
    try:
        return self_consistent(source).root.digest
    except (RefusedError, UnreadableError):
        return None


def _same(expected: Digest | None, found: Digest | None) -> Digest:
    """Return which archive it is.

    Raises:
        DigestError: another one than is expected.
        UsageError: nothing says which.
    """
    if expected is None and found is None:
        hint = "Give the root digest, as bundle build or the slip has it: --expect sha256:…"
        raise UsageError("bundle repair", "cannot know which archive this was: its root is damaged", hint=hint)
    if expected is not None and found is not None and expected != found:
        raise DigestError("--expect", f"names the root {expected}; this archive has {found}")
    known = expected if found is None else found
    assert known is not None  # noqa: S101 - one of the two is
    return known


def _reference(sources: Sequence[ByteSource], root: Digest) -> Archive | None:
    """Return the first of several copies whose root and tables can be read, as the place of every byte."""
    for source in sources:
        try:
            archive = self_consistent(source)
        except (RefusedError, UnreadableError):
            continue
        if archive.root.digest == root:
            return archive
    return None


def _ends_right(source: ByteSource, archive: Archive) -> bool:
    try:
        return not any(source.read_at(archive.members[-1].end, END_BYTES))
    except (RefusedError, UnreadableError):
        return False


def _write_file(source: ByteSource, spans: Sequence[Span], right: ByteSource, request: RepairRequest) -> Path:
    size = spans[-1].end
    if request.out is None:
        write_in_place(request.path, spans, right, failpoint=request.failpoint)
        return request.path
    path = request.out / request.path.name
    write_again(
        path,
        lambda start: pieces(spans, start, size, here=source, other=right),
        size=size,
        digest=None,
        failpoint=request.failpoint,
    )
    return path


def _overlapping(part: Part, reference: Archive | None) -> tuple[Member, ...]:
    members = () if reference is None else reference.members
    return tuple(one for one in members if one.header_offset < part.end and part.offset < one.end)


@dataclass(frozen=True, slots=True, kw_only=True)
class _PartWriter:
    """Writes one part anew: what is right of it, and the rest from elsewhere."""

    part: Part
    path: Path
    spans: tuple[Span, ...]
    here: ByteSource
    failpoint: Failpoint

    def write(self, other: ByteSource) -> None:
        def content(start: int) -> Iterator[memoryview]:
            return pieces(self.spans, self.part.offset + start, self.part.end, here=self.here, other=other)

        write_again(self.path, content, size=self.part.size, digest=self.part.digest, failpoint=self.failpoint)


def _mend_part(flaw: Flaw, source: PartsSource, reference: Archive | None, stock: _Stock) -> Path:
    """Write one part anew; every copy is tried before it is given up."""
    part, request = flaw.part, stock.request
    path = _place_of(part, source, request)
    spans, damaged = _spans_in(part, source, reference, stock.pace)
    writer = _PartWriter(part=part, path=path, spans=spans, here=source, failpoint=request.failpoint)
    reasons: list[str] = []
    for copy in stock.copies.sources:
        try:
            writer.write(copy)
        except (RefusedError, NetworkError, UnreadableError) as error:
            reasons.append(str(error))
        else:
            return path
    if request.upstream is not None and reference is not None:
        stock.take(reference, damaged)
        writer.write(RebuiltSource(reference, stock.store))
        return path
    hint = f"Send {part.name} again, or name another copy: --from COPY"
    cause = f"{flaw.cause}; {'; '.join(reasons) or 'and what it held is not known without a copy'}"
    raise DigestError(part.name, cause, hint=hint)


def _place_of(part: Part, source: PartsSource, request: RepairRequest) -> Path:
    """Return where a mended part goes: where the damaged one is, else beside the table."""
    found = source.found[part.number].source
    if request.out is not None:
        return request.out / part.name
    if found is None or found.name.startswith("s3://"):
        return request.path.with_name(part.name)
    return Path(found.name)


def _spans_in(
    part: Part, source: PartsSource, reference: Archive | None, pace: Pace
) -> tuple[tuple[Span, ...], tuple[Member, ...]]:
    """Return the spans of a part, and what is damaged in it; all of it where nothing says what stands where."""
    if reference is None or source.found[part.number].source is None:
        members = _overlapping(part, reference)
        return (Span(start=part.offset, end=part.end, is_right=False),), members
    damaged = damaged_members(source, _overlapping(part, reference), pace=pace)
    first = part.offset < BLOCK_BYTES + reference.slot_bytes
    slot = first and slot_is_right(source, reference)
    return spans_of(reference, damaged, slot=slot, tail=_ends_right(source, reference)), damaged


class _Counted:
    """A copy whose bytes are counted (ports.ByteSource)."""

    def __init__(self, source: ByteSource) -> None:
        self.name = source.name
        self.size = source.size
        self.count = 0
        self._source = source

    def read_at(self, offset: int, length: int) -> bytes:
        self.count += length
        return self._source.read_at(offset, length)

    def stream(self, offset: int, length: int) -> Iterator[memoryview]:
        for chunk in self._source.stream(offset, length):
            self.count += len(chunk)
            yield chunk


@dataclass(frozen=True, slots=True)
class _Copies:
    """The other copies, none of which is of another bundle."""

    sources: tuple[_Counted, ...]

    @classmethod
    def of(cls, request: RepairRequest, root: Digest) -> _Copies:
        for source in request.copies:
            found = claimed_root(source)
            if found is not None and found != root:
                cause = f"is another bundle: its root is {found}, this one's is {root}"
                raise DigestError(source.name, cause, hint=_OTHER)
        return cls(tuple(_Counted(source) for source in request.copies))

    @property
    def fetched_bytes(self) -> int:
        return sum(source.count for source in self.sources)


@dataclass(slots=True, kw_only=True)
class _Stock:
    """Right content by digest, beside what is mended: what is there need not be fetched after a kill."""

    request: RepairRequest
    copies: _Copies
    pace: Pace
    fetched_bytes: int = 0
    store: Cache = field(init=False)

    def __post_init__(self) -> None:
        folder = self.request.path.parent if self.request.out is None else self.request.out
        self.store = Cache(folder / f"{self.request.path.name}.repair-blobs")

    def take(self, archive: Archive, members: Sequence[Member]) -> None:
        """Bring the content of damaged members: from a copy, else from the cache, else from upstream.

        Raises:
            DigestError: nobody has it.
        """
        wanted = {member.digest: member for member in members if not self._has(member.digest)}
        lacking = [
            member
            for member in parallel_map(self._from_near, wanted.values(), workers=self.pace.workers)
            if member is not None
        ]
        if not lacking:
            return
        ours = next((member for member in lacking if not member.is_blob), None)
        if self.request.upstream is None or ours is not None:
            hint = "Name another copy: --from COPY"
            raise DigestError((ours or lacking[0]).path, "is damaged, and no copy has it right", hint=hint)
        blobs = [(member.digest, member.size) for member in lacking]
        self.request.upstream(archive.lock, blobs, lambda digest: CachePlace(self.store, digest))
        self.fetched_bytes += sum(size for _, size in blobs)

    def take_slot(self, archive: Archive) -> None:
        """Bring the signed root of the copy that was taken for what the archive must be."""
        self.store.put(archive.source.read_at(BLOCK_BYTES, archive.slot_bytes))

    def clear(self) -> None:
        """Remove what is in its place now."""
        shutil.rmtree(self.store.folder, ignore_errors=True)

    def _has(self, digest: Digest) -> bool:
        """Whether it is here and right; what is damaged is dropped."""
        try:
            for _ in self.store.read(digest):
                pass
        except (FileNotFoundError, DigestError):
            return False
        return True

    def _from_near(self, member: Member) -> Member | None:
        """Take it from a copy or the cache; return it where neither has it."""
        for copy in self.copies.sources:
            try:
                self.store.add(map(bytes, copy.stream(member.offset, member.size)), expect=member.digest)
            except (RefusedError, NetworkError, UnreadableError):
                continue
            self.request.failpoint("kept")
            return None
        return member if not self._from_cache(member.digest) else None

    def _from_cache(self, digest: Digest) -> bool:
        if self.request.cache is None:
            return False
        try:
            self.store.add(self.request.cache.read(digest), expect=digest)
        except (FileNotFoundError, BundleError):
            return False
        return True
