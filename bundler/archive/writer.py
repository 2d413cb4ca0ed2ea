"""The archive being built: space reserved first, content straight to its place, the signed root last.

The header of a member is written after its content has been hashed, so a killed build leaves no header before wrong
content, except where the disk itself lost writes: whatever has its header is hashed again before it counts. Until then
its block says which bytes are there (extents.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from bundler.archive.extents import Extents, Span, extents_record, parse_extents
from bundler.archive.header import BLOCK_BYTES, END_BYTES, member_header, padding
from bundler.archive.layout import Layout
from bundler.archive.members import Member, runs_of
from bundler.archive.partial import PartialFile
from bundler.archive.root import ROOT_PATH, ROOT_TYPE, TRUST_PATH, root_payload
from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, ItemDone, TransferPlanned
from bundler.errors import BundleError, DigestError, LimitError
from bundler.transfer import Once, Pace, check_stopped, parallel_map
from bundler.trust import Signer, parse_trust_chain

CHUNK_BYTES = 1 << 20
RECORD_BYTES = 2 << 20
"""What a killed build loses of each member at most, beside what was in flight."""
SMALL_BYTES = 64 << 10
"""Up to here a member that comes in one piece waits for its check, and is written with header and padding at once."""
Failpoint = Callable[[str], None]


def no_failpoint(name: str) -> None:
    """Go on; tests put something here that does not."""
    del name


class ArchiveWriter:
    """Builds one archive; `with` opens and closes it, and closing keeps what is done for the next run.

    Only a complete archive ever has the name `final`; one that has it already is replaced.
    """

    def __init__(self, final: Path, layout: Layout, *, failpoint: Failpoint = no_failpoint) -> None:
        self.layout = layout
        self._file = PartialFile(final)
        self._failpoint = failpoint
        self._members = {member.digest: member for member in layout.blobs}
        self._present: set[Digest] = set()

    def __enter__(self) -> ArchiveWriter:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Take the partial file for this process alone and reserve all of its space.

        Raises:
            LockedError: another build of the same archive is running.
            LocalResourceError: not enough space; says how much is missing.
        """
        self._file.open(self.layout.total_bytes)
        self._failpoint("reserved")

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def missing(self, *, pace: Pace = Pace()) -> tuple[Member, ...]:
        """Return the blobs that have to be fetched; what an earlier run left is hashed again from disk."""
        candidates = [member for member in self.layout.blobs if self._has_header(member)]
        if candidates:
            total = sum(member.size for member in candidates)
            pace.emit(TransferPlanned(phase="resume", total_bytes=total, items=len(candidates)))

        def check(run: Sequence[Member]) -> list[Digest]:
            right = [member.digest for member in run if self._is_right(member)]
            pace.emit(BytesMoved(phase="resume", item=run[0].path, count=sum(member.size for member in run)))
            for member in run:
                pace.emit(ItemDone(phase="resume", item=member.path, how="verified"))
            return right

        for digests in parallel_map(check, runs_of(candidates), workers=pace.workers):
            self._present.update(digests)
        return tuple(member for member in self.layout.blobs if member.digest not in self._present)

    def read(self, digest: Digest) -> bytes:
        """Return a small blob that is in its place."""
        member = self._members[digest]
        return self._file.read(member.offset, member.size)

    def place_of(self, digest: Digest) -> MemberWriter:
        """Return what takes a blob to its place."""
        return self.write_at(self._members[digest])

    def write_at(self, member: Member) -> MemberWriter:
        """Return what takes the content of `member` to its place; several members may be written at one time."""
        return MemberWriter(self._file, member, committed=self._committed, failpoint=self._failpoint)

    def seal(self, signer: Signer) -> Path:
        """Write our own members, sign, and give the archive its final name; return that.

        Raises:
            SignatureError: `signer` may not sign bundles under the trust.json that the archive carries.
            LocalResourceError: the disk fails.
        """
        self._refuse_gaps()
        envelope = self._signed_root(signer)
        for member in self.layout.members:
            content = self.layout.generated.get(member.path)
            if content is not None:
                writer = self.write_at(member)
                writer.write(content)
                writer.commit()
        self._file.write(bytes(END_BYTES), self.layout.total_bytes - END_BYTES)
        self._failpoint("generated")
        self._file.write(envelope.ljust(self.layout.slot_bytes), BLOCK_BYTES)
        self._file.write(member_header(ROOT_PATH, self.layout.slot_bytes), 0)
        self._failpoint("signed")
        self._file.sync()
        self._failpoint("synced")
        self._file.rename()
        self._failpoint("renamed")
        self._file.sync_name()
        return self._file.final

    def _refuse_gaps(self) -> None:
        gap = next((member for member in self.layout.blobs if member.digest not in self._present), None)
        if gap is not None:
            raise BundleError(str(self._file.path), f"cannot be sealed: {gap.path} has no content yet")

    def _signed_root(self, signer: Signer) -> bytes:
        """Sign the root, and read it back as a site will: with the trust root that the archive carries."""
        envelope = signer.sign(root_payload(self.layout.root), ROOT_TYPE)
        if len(envelope) > self.layout.slot_bytes:
            raise LimitError(ROOT_PATH, f"has {len(envelope)} bytes, its slot {self.layout.slot_bytes}")
        trust = parse_trust_chain(self.layout.generated[TRUST_PATH], source=TRUST_PATH)
        trust.verify_bundle(envelope, payload_type=ROOT_TYPE, subject=ROOT_PATH)
        return envelope

    def _committed(self, member: Member) -> None:
        self._present.add(member.digest)
        self._failpoint("header")

    def _has_header(self, member: Member) -> bool:
        return self._file.read(member.header_offset, BLOCK_BYTES) == member_header(member.path, member.size)

    def _is_right(self, member: Member) -> bool:
        sha256, end = hashlib.sha256(), member.offset + member.size
        for offset in range(member.offset, end, CHUNK_BYTES):
            check_stopped()
            sha256.update(self._file.read(offset, min(CHUNK_BYTES, end - offset)))
        return sha256.hexdigest() == member.digest.hex and not any(self._file.read(end, padding(member.size)))


class MemberWriter:
    """The place of one member: takes its content in any order, from several threads, and checks it before it counts.

    The hash follows what is there without a gap: content that comes in order is hashed on its way, the rest is read
    back from the page cache when the gap before it closes.
    """

    def __init__(
        self, file: PartialFile, member: Member, *, committed: Callable[[Member], None], failpoint: Failpoint
    ) -> None:
        self._file = file
        self._member = member
        self._committed = committed
        self._failpoint = failpoint
        self._lock = Once()
        self._there = Extents()
        self._claimed = Extents()
        self._recorded = -1
        self._sha256 = hashlib.sha256()
        self._hashed = 0
        self._is_hashing = False
        self._next = 0
        self._whole: bytes | None = None

    def gaps(self) -> list[Span]:
        """Return what is missing, ascending, after taking over what a killed build left of this member."""
        if self._recorded < 0 and self._member.size > RECORD_BYTES:
            record = self._file.read(self._member.header_offset, BLOCK_BYTES)
            found = parse_extents(record, self._member.digest, self._member.size)
            if found.count:
                self._there, self._claimed, self._recorded = found, Extents(found), found.count
        with self._lock:
            return self._there.missing(0, self._member.size)

    def write(self, chunk: memoryview | bytes) -> None:
        """Take the next bytes of content that comes in order.

        Raises:
            DigestError, LocalResourceError: as `put`.
        """
        self.put(self._next, chunk)
        self._next += len(chunk)

    def put(self, offset: int, chunk: memoryview | bytes) -> int:
        """Take the bytes from `offset` on; those that are there, or on their way, stay: they may be hashed.

        Returns how many of them were neither.

        Raises:
            DigestError: more bytes than the member has; nothing is written outside its place.
            LocalResourceError: the disk fails.
        """
        member, view = self._member, memoryview(chunk)
        if offset + len(view) > member.size:
            raise DigestError(str(member.digest), f"has more than the {member.size} bytes that the lock says")
        if self._recorded < 0 and len(view) == member.size <= min(SMALL_BYTES, RECORD_BYTES):
            self._whole = bytes(view)
            self._there.add(0, member.size)
            return len(view)
        if self._recorded < 0:
            self._record()  # an earlier run's header must not stand before content that is being replaced
        with self._lock:
            spans = self._claimed.missing(offset, offset + len(view))
            self._claimed.add(offset, offset + len(view))
        for start, stop in spans:
            self._put(start, view[start - offset : stop - offset])
        if self._there.count >= self._recorded + RECORD_BYTES:
            self._record()
            self._follow()
        return sum(stop - start for start, stop in spans)

    def _put(self, offset: int, chunk: memoryview) -> None:
        stop = offset + len(chunk)
        self._file.write(chunk, self._member.offset + offset)
        with self._lock:
            self._there.add(offset, stop)
            is_next = offset == self._hashed and not self._is_hashing
            self._is_hashing = self._is_hashing or is_next
        if is_next:
            self._sha256.update(chunk)
            with self._lock:
                self._hashed, self._is_hashing = stop, False

    def _commit_whole(self, content: bytes) -> None:
        """Check a small member that came in one piece, and put it in its place in one."""
        member, found = self._member, hashlib.sha256(content).hexdigest()
        if found != member.digest.hex:
            raise DigestError(str(member.digest), f"is not what arrived: that is sha256:{found}")
        self._failpoint("content")
        block = b"".join((member_header(member.path, member.size), content, bytes(padding(member.size))))
        self._file.write(block, member.header_offset)
        self._committed(member)

    def rest(self) -> None:
        """Note what is there: whoever put it goes elsewhere, and a killed build shall find it."""
        if self._whole is None and self._there.count > self._recorded:
            self._record()

    def restart(self) -> None:
        """Forget what was written; the content begins again."""
        with self._lock:
            self._whole = None
            self._there, self._claimed = Extents(), Extents()
            self._sha256 = hashlib.sha256()
            self._hashed = self._next = 0
        self._record()

    def commit(self) -> None:
        """Check size and digest, then write padding and header: from now on the member counts.

        Raises:
            DigestError: the content is not what the digest names.
            LocalResourceError: the disk fails.
        """
        member = self._member
        if self._whole is not None:
            self._commit_whole(self._whole)
            return
        self._follow()
        if self._hashed != member.size:
            raise DigestError(str(member.digest), f"has {self._hashed} bytes; the lock says {member.size}")
        if self._sha256.hexdigest() != member.digest.hex:
            raise DigestError(str(member.digest), f"is not what arrived: that is sha256:{self._sha256.hexdigest()}")
        self._file.write(bytes(padding(member.size)), member.offset + member.size)
        self._failpoint("content")
        self._file.write(member_header(member.path, member.size), member.header_offset)
        self._committed(member)

    def _record(self) -> None:
        """Put into the header's block what is there; of small members nothing is kept."""
        member = self._member
        with self._lock:
            is_small = member.size <= RECORD_BYTES
            record = bytes(BLOCK_BYTES) if is_small else extents_record(member.digest, self._there)
            self._file.write(record, member.header_offset)
            self._recorded = self._there.count

    def _follow(self) -> None:
        """Hash what is there behind what was hashed; one thread does, the others go on."""
        while True:
            with self._lock:
                start, stop = self._hashed, self._there.reach(self._hashed)
                if self._is_hashing or start == stop:
                    return
                self._is_hashing = True
            for offset in range(start, stop, CHUNK_BYTES):
                check_stopped()
                self._sha256.update(self._file.read(self._member.offset + offset, min(CHUNK_BYTES, stop - offset)))
            with self._lock:
                self._hashed, self._is_hashing = stop, False
