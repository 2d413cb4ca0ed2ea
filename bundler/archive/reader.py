"""The hostile archive, read strictly: envelope, root, members, lock, and then every byte while it is used (ADR 2).

No name from the tar is ever used as a path, no header is ever interpreted: member N has exactly the header that the
signed root implies, or the archive is refused. Offsets follow from the signed sizes alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from bundler.archive.header import BLOCK_BYTES, END_BYTES, member_header, padding
from bundler.archive.layout import (
    LOCK_PATH,
    METADATA,
    base_requirements,
    blob_entries,
    blob_requirements,
    features,
    head_entries,
)
from bundler.archive.members import (
    MAX_MEMBERS_BYTES,
    Entry,
    Member,
    Required,
    parse_members,
    parse_requires,
    place_members,
    runs_of,
)
from bundler.archive.root import AMI_BASE, MAX_SLOT_BYTES, ROOT_PATH, ROOT_TYPE, Root, parse_root, slot_bytes
from bundler.domain.delta import Held, left_out
from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, Emit, ItemDone, TransferPlanned, silent
from bundler.domain.lock import MAX_LOCK_BYTES, Lock, parse_lock
from bundler.domain.reference import is_repository
from bundler.errors import DigestError, FormatError, LimitError, RefusedError, SignatureError
from bundler.ports import ByteSource
from bundler.transfer import check_stopped, parallel_map
from bundler.trust import MAX_TRUST_BYTES, TrustRoot, parse_trust_chain, trust_digest

_DAMAGED = "The archive is damaged: copy it across again, or mend it: bundle repair --help"
_OTHER = "Name the archive that bundle build made, or copy it across again."
_OTHER_FILES = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd", b"PK": "zip", b"BZ": "bzip2", b"\xfd7": "xz"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A verified archive: root, lock and list of members are right, content is checked whenever it is read.

    Attributes:
        source: where the bytes are.
        root: what was signed.
        lock: what the archive holds.
        members: members 1…N in order, each in its place.
        requires: what it does not carry and the site must hold.
        trust_digest: that of the trust.json it carries (which is no reason to trust it).
        envelope_digest: SHA-256 of member 0, as it was when its signatures were verified.
        slot_bytes: size of member 0.
        blobs: the members that are content-addressed.
    """

    source: ByteSource
    root: Root
    lock: Lock
    members: tuple[Member, ...]
    requires: tuple[Required, ...]
    trust_digest: Digest
    envelope_digest: Digest
    slot_bytes: int
    blobs: Mapping[Digest, Member]

    def blob(self, digest: Digest) -> Member:
        """Return the member that holds `digest`.

        Raises:
            FormatError: the archive has no such blob.
        """
        try:
            return self.blobs[digest]
        except KeyError:
            raise FormatError(self.source.name, f"holds no blob {digest}") from None

    def read(self, key: str | Digest) -> bytes:
        """Return a small member whole, verified: a blob by digest, any other by its path.

        Raises:
            DigestError: it is damaged.
            FormatError: there is no such member, or not in its one legal form.
            LimitError: larger than 256 MiB.
        """
        return _read_member(self.source, self.blob(key) if isinstance(key, Digest) else self._named(key))

    def stream(self, key: Digest) -> Iterator[memoryview]:
        """Yield a blob's bytes; each chunk is valid until the next.

        The digest is checked before the last chunk is handed out, so that nothing damaged can be taken for whole.

        Raises:
            DigestError: it is damaged.
            FormatError: the archive has no such blob, or another header before it than our writer makes.
        """
        member = self.blob(key)
        feed = _Feed(self.source.stream(member.header_offset, BLOCK_BYTES + member.size), name=self.source.name)
        yield from _content(self.source, member, feed)

    def holds(self, digest: Digest) -> bool:
        """Whether the archive itself has a blob; what it requires of a site it has not."""
        return digest in self.blobs

    def pieces(self, key: Digest, start: int = 0) -> Iterator[memoryview]:
        """Yield a blob's bytes from `start` as they stand in the source; each piece is valid until the next.

        Nothing is hashed: for whoever hashes what passes anyway, and lets nothing count that is not the digest's.

        Raises:
            FormatError: the archive has no such blob, or (from its beginning) another header before it than our
                writer makes.
        """
        member = self.blob(key)
        if start:
            yield from self.source.stream(member.offset + start, member.size - start)
            return
        feed = _Feed(self.source.stream(member.header_offset, BLOCK_BYTES + member.size), name=self.source.name)
        _check_header(self.source, member, feed.take(BLOCK_BYTES))
        yield from feed.pieces(member.size)

    def check(self, key: Digest) -> None:
        """Read a blob for its own sake.

        Raises:
            DigestError: it is damaged.
        """
        for _ in self.stream(key):
            pass

    def verify_all(self, *, emit: Emit = silent, workers: int = 4) -> None:
        """Check every byte of the archive: each header, content and padding, the end, and that nothing follows.

        Raises:
            DigestError: content is damaged.
            FormatError: anything else differs from what our writer makes.
        """
        emit(TransferPlanned(phase="verify", total_bytes=self.source.size, items=len(self.members)))
        self._verify_root()

        def verify(run: Sequence[Member]) -> None:
            verify_run(self.source, run)
            emit(BytesMoved(phase="verify", item=run[0].path, count=run[-1].end - run[0].header_offset))
            for member in run:
                emit(ItemDone(phase="verify", item=member.path, how="verified"))

        parallel_map(verify, runs_of(self.members), workers=workers)
        _check_end(self.source, self.members[-1].end)
        around = self.source.size - (self.members[-1].end - self.members[0].header_offset)  # root and end
        emit(BytesMoved(phase="verify", item=self.members[-1].path, count=around))

    def _named(self, path: str) -> Member:
        member = next((member for member in self.members if member.path == path), None)
        if member is None:
            raise FormatError(self.source.name, f"holds no member {path!r:.100}")
        return member

    def _verify_root(self) -> None:
        """The envelope was verified when the archive was opened; the bytes must still be those."""
        raw = self.source.read_at(0, BLOCK_BYTES + self.slot_bytes)
        end = len(raw)
        if raw[:BLOCK_BYTES] != member_header(ROOT_PATH, self.slot_bytes):
            cause = "has changed since it was opened: its first header"
            raise _at(FormatError(self.source.name, cause, hint=_DAMAGED), 0, end)
        if Digest.of(raw[BLOCK_BYTES:]) != self.envelope_digest:
            cause = "has changed since it was opened: its signed root"
            raise _at(DigestError(self.source.name, cause, hint=_DAMAGED), 0, end)


def verify_run(source: ByteSource, run: Sequence[Member]) -> None:
    """Check members that stand one after another, in one pass over their bytes.

    Raises:
        RefusedError: a header, content or padding is not what it must be.
    """
    start = run[0].header_offset
    feed = _Feed(source.stream(start, run[-1].end - start), name=source.name)
    for member in run:
        for _ in _content(source, member, feed):
            pass
        _check_padding(source, member, feed.take(padding(member.size)))


class _Feed:
    """Takes exact lengths out of a stream of chunks."""

    def __init__(self, chunks: Iterator[memoryview], *, name: str) -> None:
        self._chunks = chunks
        self._name = name
        self._rest = memoryview(b"")

    def pieces(self, length: int) -> Iterator[memoryview]:
        """Yield the next `length` bytes in pieces, each valid until the next."""
        while length:
            while not self._rest:
                self._rest = self._next()
            piece, self._rest = self._rest[:length], self._rest[length:]
            length -= len(piece)
            yield piece

    def take(self, length: int) -> bytes:
        """Return the next `length` bytes."""
        return b"".join(map(bytes, self.pieces(length)))

    def _next(self) -> memoryview:
        for chunk in self._chunks:
            return chunk
        raise FormatError(self._name, "ends before its signed size", hint=_DAMAGED)


def _content(source: ByteSource, member: Member, feed: _Feed) -> Iterator[memoryview]:
    """Yield a member's content; header before it and digest before its last piece are checked."""
    _check_header(source, member, feed.take(BLOCK_BYTES))
    sha256, left = hashlib.sha256(), member.size
    for piece in feed.pieces(member.size):
        check_stopped()
        sha256.update(piece)
        left -= len(piece)
        if not left:
            _check_digest(source, member, sha256.hexdigest())
        yield piece
    if not member.size:
        _check_digest(source, member, sha256.hexdigest())


def open_archive(source: ByteSource, trust: TrustRoot) -> Archive:
    """Return the archive in `source`, whose root `trust` has signed; nothing is parsed before that is known.

    Raises:
        SignatureError: no root, or not signed as `trust` asks.
        FormatError: not an archive of ours, cut, longer than it should be, or not in the one legal form.
        DigestError: trust.json, members.jsonl or the lock is damaged.
        LimitError: larger than any honest archive.
    """
    name = source.name
    slot = read_slot(source)
    payload = trust.verify_bundle(_unpadded(slot, name), payload_type=ROOT_TYPE, subject=name)
    root = parse_root(payload, source=name)
    _check_slot(source, len(slot), slot_bytes(payload))
    carried, members, requires = _read_members(source, root, start=BLOCK_BYTES + len(slot))
    held = {member.digest: member for member in members if member.is_blob}
    lock = parse_lock(_read_lock(source, members), source=f"{name}: {LOCK_PATH}", digest=partial(_shared, held))
    blobs = blob_entries(lock, source=f"{name}: {LOCK_PATH}")
    _check_requires(source, root, lock, blobs, requires)
    absent = {one.digest for one in requires if one.role != AMI_BASE}  # an AMI may begin with what it is itself
    _check_lock(source, root, lock, [entry for entry in blobs if entry.digest not in absent], members)
    return Archive(
        source=source,
        root=root,
        lock=lock,
        members=members,
        requires=requires,
        trust_digest=trust_digest(carried),
        envelope_digest=Digest.of(slot),
        slot_bytes=len(slot),
        blobs=held,
    )


def _shared(held: Mapping[Digest, Member], text: str) -> Digest:
    """Return the digest of a member where the text spells that: lock and members name the same, and hold it once."""
    digest = Digest.parse(text)
    member = held.get(digest)
    return digest if member is None else member.digest


def read_slot(source: ByteSource) -> bytes:
    """Return the content of member 0; its header alone is read without knowing what it must be."""
    header = source.read_at(0, BLOCK_BYTES)
    kind = next((kind for magic, kind in _OTHER_FILES.items() if header.startswith(magic)), None)
    if kind is not None:
        raise FormatError(source.name, f"is not a bundle: it is a {kind} file", hint="Archives are never compressed.")
    if header[257:262] != b"ustar":
        raise FormatError(source.name, "is not a bundle: it is not a tar archive", hint=_OTHER)
    if header[:100].rstrip(b"\0") != ROOT_PATH.encode():
        raise SignatureError(source.name, f"has no signed root: it does not begin with {ROOT_PATH}", hint=_OTHER)
    digits = header[124:135]
    if digits.strip(b"01234567") or header != member_header(ROOT_PATH, size := int(digits, 8)):
        raise FormatError(source.name, f"has another header before {ROOT_PATH} than our writer makes", hint=_DAMAGED)
    if size > MAX_SLOT_BYTES:
        raise LimitError(source.name, f"has a root of {size} bytes; at most {MAX_SLOT_BYTES} are allowed")
    return source.read_at(BLOCK_BYTES, size)


def _unpadded(slot: bytes, name: str) -> bytes:
    """Return the envelope; only spaces may follow it."""
    envelope = slot.rstrip(b" ")
    if not envelope.endswith(b"}"):
        raise FormatError(name, f"has something else than an envelope and spaces in {ROOT_PATH}", hint=_DAMAGED)
    return envelope


def _read_members(
    source: ByteSource, root: Root, *, start: int
) -> tuple[TrustRoot, tuple[Member, ...], tuple[Required, ...]]:
    """Read trust.json and members.jsonl by the root's word.

    Returns:
        The carried trust root, every member's place, and what is required of the site.
    """
    if root.trust.size > MAX_TRUST_BYTES or root.members.size > MAX_MEMBERS_BYTES:
        raise LimitError(source.name, "has a trust.json or members.jsonl that is larger than any honest one")
    trust_entry, table = place_members(head_entries(root), start=start)
    carried = parse_trust_chain(_read_member(source, trust_entry), source=f"{source.name}: trust.json")
    lines = _read_member(source, table)
    requires = parse_requires(lines, source=source.name)
    members = place_members(chain(head_entries(root), parse_members(lines, source=source.name)), start=start)
    _check_paths(source, members[2:])
    _check_totals(source, root, members[2:])
    _check_size(source, members[-1].end + END_BYTES)
    return carried, members, requires


def _read_lock(source: ByteSource, members: Sequence[Member]) -> memoryview:
    lock = next(member for member in members if member.path == LOCK_PATH)
    if lock.size > MAX_LOCK_BYTES:
        raise LimitError(source.name, f"has a lock of {lock.size} bytes; at most {MAX_LOCK_BYTES} are allowed")
    return _view_member(source, lock)


def _read_member(source: ByteSource, member: Member) -> bytes:
    """Return the content of a small member."""
    return bytes(_view_member(source, member))


def _view_member(source: ByteSource, member: Member) -> memoryview:
    """Return the content of a small member in one read, with everything around it checked."""
    if member.size > MAX_LOCK_BYTES:
        raise LimitError(source.name, f"{member.path} has {member.size} bytes: too many to be read whole")
    raw = source.read_at(member.header_offset, member.end - member.header_offset)
    content = memoryview(raw)[BLOCK_BYTES : BLOCK_BYTES + member.size]
    _check_header(source, member, raw[:BLOCK_BYTES])
    _check_digest(source, member, hashlib.sha256(content).hexdigest())
    _check_padding(source, member, raw[BLOCK_BYTES + member.size :])
    return content


def _check_slot(source: ByteSource, found: int, wanted: int) -> None:
    if found != wanted:
        raise FormatError(source.name, f"has {found} bytes for its root; its content asks for {wanted}")


def _check_header(source: ByteSource, member: Member, found: bytes) -> None:
    if found != member_header(member.path, member.size):
        cause = f"has another header before {member.path} (byte {member.header_offset}) than our writer makes"
        raise _at(FormatError(source.name, cause, hint=_DAMAGED), member.header_offset, member.offset)


def _check_digest(source: ByteSource, member: Member, found: str) -> None:
    if found != member.digest.hex:
        where = f"bytes {member.offset} to {member.offset + member.size}"
        error = DigestError(source.name, f"{member.path} ({member.role}, {where}) is damaged", hint=_DAMAGED)
        raise _at(error, member.offset, member.offset + member.size)


def _check_padding(source: ByteSource, member: Member, found: bytes) -> None:
    if any(found):
        error = FormatError(source.name, f"has something else than zeros after {member.path}", hint=_DAMAGED)
        raise _at(error, member.offset + member.size, member.end)


def _check_end(source: ByteSource, offset: int) -> None:
    if any(source.read_at(offset, END_BYTES)):
        error = FormatError(source.name, "does not end with two blocks of zeros", hint=_DAMAGED)
        raise _at(error, offset, offset + END_BYTES)


def _at(error: RefusedError, start: int, end: int) -> RefusedError:
    """Say which bytes of the archive are wrong."""
    error.span = (start, end)
    return error


def _check_size(source: ByteSource, wanted: int) -> None:
    if source.size < wanted:
        raise FormatError(source.name, f"is cut: it has {source.size} bytes of {wanted}", hint=_DAMAGED)
    if source.size > wanted:
        raise FormatError(source.name, f"has {source.size - wanted} bytes after its end", hint=_DAMAGED)


def _check_paths(source: ByteSource, entries: Sequence[Entry]) -> None:
    """Metadata under its names and in its order, and then nothing but blobs under their digests."""
    if [(entry.path, entry.role) for entry in entries[: len(METADATA)]] != list(METADATA.items()):
        raise FormatError(source.name, "does not list its metadata members in their order")
    for entry in entries[len(METADATA) :]:
        if not entry.is_blob:
            raise FormatError(source.name, f"lists {entry.path}, which is not the path of its digest")


def _check_totals(source: ByteSource, root: Root, entries: Sequence[Entry]) -> None:
    found = len(entries), sum(entry.size for entry in entries)
    if found != (root.totals.members, root.totals.content_bytes):
        raise FormatError(source.name, "lists other totals in its root than in members.jsonl")


def _check_lock(source: ByteSource, root: Root, lock: Lock, wanted: Sequence[Entry], members: Sequence[Member]) -> None:
    """Root, lock and members must tell one story: every blob that is not absent in its place, and no other."""
    if (root.name, root.sequence, root.created, root.previous) != (
        lock.name,
        lock.sequence,
        lock.created,
        lock.previous,
    ):
        raise FormatError(source.name, "has a root and a lock of different bundles")
    found = members[len(METADATA) + 2 :]
    if len(wanted) == len(found) and all(map(_is_same, wanted, found)):
        return
    asked, held = ({(entry.path, entry.role, entry.size) for entry in entries} for entries in (wanted, found))
    cause = "lists a blob twice, or its blobs in another order than its lock asks for"
    for path, role, size in sorted(asked - held)[:1]:
        cause = f"lacks {path} ({role}, {size} bytes), which its lock names"
    for path, role, size in sorted(held - asked)[:1]:
        cause += f"; holds {path} ({role}, {size} bytes), which its lock does not name"
    raise FormatError(source.name, cause)


def _check_requires(
    source: ByteSource, root: Root, lock: Lock, blobs: Sequence[Entry], requires: Sequence[Required]
) -> None:
    """What is absent is what the lock's AMIs begin with, and blobs that may be; a reader that knows less is warned."""
    named = {
        one.digest: Held(size=one.size, repository=one.repository)
        for one in requires
        if one.role != AMI_BASE and one.repository is not None and is_repository(one.repository)
    }
    absent = left_out(lock, named, source=source.name)
    if tuple(requires) != (*base_requirements(lock), *blob_requirements(blobs, absent)):
        raise FormatError(source.name, "lists other things as absent than its lock asks for")
    if root.features != features(requires):
        raise FormatError(source.name, "names other features in its root than its lock asks for")
    if (root.against is None) == bool(absent):
        raise FormatError(source.name, "says what it was made against where no blob is absent, or the other way round")


def _is_same(wanted: Entry, found: Entry) -> bool:
    return (wanted.path, wanted.role, wanted.size) == (found.path, found.role, found.size)
