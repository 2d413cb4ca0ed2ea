"""A file -> an S3 object of the same bytes; what an earlier try sent is not sent again.

The disk is read once: who sends a part has hashed it just before, and the digest of the whole follows behind the parts.
Both read from the page cache what the first pass brought there (ADR 58).
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self, cast

from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, Emit, ItemDone, Noted, TransferPlanned, counted, silent
from bundler.domain.shipment import (
    Part,
    S3Address,
    Shipment,
    ShipPlan,
    Slot,
    StoredObject,
    StoredPart,
    Upload,
    holds,
    is_same,
    make_slots,
)
from bundler.errors import (
    AccessError,
    ConflictError,
    DigestError,
    LocalResourceError,
    NetworkError,
    UnreadableError,
    UsageError,
)
from bundler.transfer import Pace, check_stopped, ordered_map

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK_BYTES = 1 << 20
AHEAD = 2
"""Parts for each worker that may be done before the digest of the whole reaches them: they wait in the page cache."""


class ObjectStore(Protocol):
    """Where files are shipped to."""

    def find(self, address: S3Address) -> StoredObject | None:
        """Return what stands at the address."""
        ...

    def uploads(self, address: S3Address) -> list[str]:
        """Return the ids of the unfinished uploads to the address, the newest first."""
        ...

    def upload(self, address: S3Address, upload_id: str) -> Upload | None:
        """Return what an unfinished upload holds, None where it is not there any more."""
        ...

    def begin(self, address: S3Address) -> Upload:
        """Begin an upload."""
        ...

    def send(self, address: S3Address, upload: Upload, part: Part, content: Callable[[], BinaryIO]) -> StoredPart:
        """Send one part; it is refused where the bytes are not what its digest names. Each try asks for `content`."""
        ...

    def complete(
        self, address: S3Address, upload: Upload, parts: Sequence[StoredPart], *, replaces: StoredObject | None
    ) -> None:
        """Make the object of its parts, provided that nothing but `replaces` stands there."""
        ...

    def abort(self, address: S3Address, upload_id: str) -> None:
        """Throw an unfinished upload away."""
        ...


class LocalFile:
    """A file that is open, and what it looked like when it was opened; any number of threads may read it."""

    def __init__(self, path: Path, handle: int, *, expect: Digest | None = None, hint: str = "") -> None:
        status = os.fstat(handle)
        self.path = path
        self.size = status.st_size
        self._expect = expect
        self._hint = hint
        self._handle = handle
        self._changed_ns = status.st_mtime_ns

    @classmethod
    def open(cls, path: Path, *, expect: Digest | None = None, hint: str = "") -> LocalFile:
        """Open `path`.

        Args:
            path: the file.
            expect: what its SHA-256 must be; no object is made of another one.
            hint: what to do where it is another one.

        Raises:
            UsageError: no such file, or an empty one.
            LocalResourceError: it cannot be read.
        """
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise UsageError(str(path), "does not exist") from error
        except OSError as error:
            raise LocalResourceError(str(path), f"cannot be read: {error.strerror}") from error
        opened = cls(path, handle, expect=expect, hint=hint)
        if not opened.size:
            opened.close()
            raise UsageError(str(path), "is empty")
        return opened

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill `view` from `offset`; return how many bytes there were.

        Raises:
            UnreadableError: the disk fails.
        """
        try:
            return os.preadv(self._handle, [view], offset)
        except OSError as error:
            raise UnreadableError(str(self.path), f"cannot be read at byte {offset}: {error.strerror}") from error

    def chunks(self, place: Slot | Part) -> Iterator[memoryview]:
        """Yield a part in chunks of at most 1 MiB in one buffer that is used again.

        Raises:
            ConflictError: the file became shorter.
            UnreadableError: the disk fails.
        """
        buffer = memoryview(bytearray(min(CHUNK_BYTES, place.size)))
        offset, end = place.offset, place.offset + place.size
        while offset < end:
            check_stopped()
            count = self.read_into(buffer[: min(len(buffer), end - offset)], offset)
            if not count:
                raise self._changed()
            yield buffer[:count]
            offset += count

    def refuse_changed(self) -> None:
        """Do nothing, unless somebody wrote to the file, or put another one in its place.

        Raises:
            ConflictError: so it is.
        """
        try:
            found = [os.fstat(self._handle), self.path.stat()]
        except OSError as error:
            raise self._changed() from error
        if any((status.st_size, status.st_mtime_ns) != (self.size, self._changed_ns) for status in found):
            raise self._changed()

    def refuse_other(self, found: Digest) -> None:
        """Do nothing, unless the file has another SHA-256 than it must have.

        Raises:
            DigestError: so it is.
        """
        if self._expect is not None and found != self._expect:
            raise DigestError(str(self.path), "is damaged, or a part of another bundle", hint=self._hint)

    def _changed(self) -> ConflictError:
        hint = "Let nothing write to it, then run the same command again."
        return ConflictError(str(self.path), "changed while it was sent", hint=hint)


def observe(local: LocalFile, address: S3Address, *, store: ObjectStore, pace: Pace = Pace()) -> ShipPlan:
    """Return what S3 holds; the file is read only where an object of its size stands there.

    Raises:
        UsageError: the file is larger than S3 takes.
    """
    plan = ShipPlan(slots=make_slots(local.size), replaces=store.find(address))
    if plan.replaces is not None and plan.replaces.size == local.size:
        plan = replace(plan, shipment=_read(local, plan.slots, pace))
        if _stands_there(local, plan.shipment, plan.replaces):
            return replace(plan, is_done=True)
    try:
        unfinished = store.uploads(address)
    except AccessError as error:
        pace.emit(Noted(text=f"{error}: an unfinished upload cannot be found, all is sent again", warning=True))
        return plan
    return replace(plan, upload=store.upload(address, unfinished[0])) if unfinished else plan


def _read(local: LocalFile, slots: Sequence[Slot], pace: Pace) -> Shipment:
    pace.emit(TransferPlanned(phase="read", total_bytes=local.size, items=1))

    def read(slot: Slot) -> Part:
        part = _part(local, slot)
        pace.emit(BytesMoved(phase="read", item=local.path.name, count=slot.size))
        return part

    with ordered_map(read, slots, workers=pace.workers, ahead=AHEAD * pace.workers) as parts:
        shipment = _shipment(local, parts)
    pace.emit(ItemDone(phase="read", item=local.path.name))
    return shipment


def _part(local: LocalFile, slot: Slot) -> Part:
    sha256 = hashlib.sha256()
    for chunk in local.chunks(slot):
        sha256.update(chunk)
    digest = Digest(f"sha256:{sha256.hexdigest()}")
    return Part(number=slot.number, offset=slot.offset, size=slot.size, digest=digest)


def _shipment(local: LocalFile, parts: Iterable[Part]) -> Shipment:
    """Take the parts in order, and the digest of the whole behind them."""
    whole, taken = hashlib.sha256(), list[Part]()
    for part in parts:
        for chunk in local.chunks(part):
            whole.update(chunk)
        taken.append(part)
    digest = Digest(f"sha256:{whole.hexdigest()}")
    local.refuse_other(digest)
    return Shipment(name=local.path.name, size=local.size, digest=digest, parts=tuple(taken))


def _stands_there(local: LocalFile, shipment: Shipment | None, there: StoredObject | None) -> bool:
    return shipment is not None and there is not None and is_same(shipment, there, md5_of=partial(_md5, local))


def _md5(local: LocalFile, part: Part) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for chunk in local.chunks(part):
        digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """A file that stands in S3, and how many of its parts this run sent."""

    shipment: Shipment
    sent: int


def ship(plan: ShipPlan, local: LocalFile, address: S3Address, *, store: ObjectStore, pace: Pace = Pace()) -> Shipped:
    """Send what S3 does not hold and make the object; killed anywhere, the next run goes on.

    Raises:
        ConflictError: the file changed meanwhile, or somebody else wrote the object.
        DigestError: the file is not the one that was expected: its parts were sent, and no object was made.
        NetworkError: what stands there afterwards is not what was sent.
    """
    present = local.size if plan.is_done else 0
    pace.emit(TransferPlanned(phase="ship", total_bytes=local.size, items=len(plan.slots), present_bytes=present))
    if plan.is_done and plan.shipment is not None:
        pace.emit(ItemDone(phase="ship", item=local.path.name, how="present"))
        return Shipped(shipment=plan.shipment, sent=0)
    upload = plan.upload or store.begin(address)
    held = {part.number: part for part in upload.parts}
    sender = _Sender(local=local, address=address, upload=upload, held=held, store=store, emit=pace.emit)
    known = {} if plan.shipment is None else {part.number: part for part in plan.shipment.parts}
    stored: list[StoredPart] = []

    def send(slot: Slot) -> _Sent:
        return sender.send(known.get(slot.number) or _part(local, slot))

    def in_order(results: Iterator[_Sent]) -> Iterator[Part]:
        for result in results:
            stored.append(result.stored)
            yield result.part

    with ordered_map(send, plan.slots, workers=pace.workers, ahead=AHEAD * pace.workers) as results:
        shipment = plan.shipment or _shipment(local, in_order(results))
        stored += [result.stored for result in results]
    local.refuse_changed()
    _complete(local, shipment, stored, plan=plan, sender=sender)
    return Shipped(shipment=shipment, sent=sum(held.get(part.number) != part for part in stored))


def _complete(
    local: LocalFile, shipment: Shipment, parts: Sequence[StoredPart], *, plan: ShipPlan, sender: _Sender
) -> None:
    """Make the object; a try whose answer was lost may have done so, and the next one finds it in its way."""
    store, address = sender.store, sender.address
    try:
        store.complete(address, sender.upload, parts, replaces=plan.replaces)
    except ConflictError:
        if _stands_there(local, shipment, store.find(address)):
            return
        raise
    if not _stands_there(local, shipment, store.find(address)):
        raise NetworkError(str(address), "was sent, but S3 reports other content than was sent")


def leftovers(address: S3Address, *, store: ObjectStore, clean: bool, emit: Emit = silent) -> None:
    """Throw away unfinished uploads to the address where `clean`, else say that there are some."""
    try:
        unfinished = store.uploads(address)
    except AccessError:
        return
    for upload_id in unfinished if clean else ():
        store.abort(address, upload_id)
    if unfinished and not clean:
        left = counted(len(unfinished), "unfinished upload")
        text = f"{address}: {left} left, which cost money; --clean throws them away"
        emit(Noted(text=text, warning=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    part: Part
    stored: StoredPart


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sender:
    local: LocalFile
    address: S3Address
    upload: Upload
    held: Mapping[int, StoredPart]
    store: ObjectStore
    emit: Emit

    def send(self, part: Part) -> _Sent:
        """Send a part, unless the upload holds it."""
        label = f"{self.local.path.name} part {part.number}"
        held = self.held.get(part.number)
        if held is not None and holds(held, part, md5_of=partial(_md5, self.local)):
            self.emit(BytesMoved(phase="ship", item=label, count=part.size, kept=True))
            self.emit(ItemDone(phase="ship", item=label, how="present"))
            return _Sent(part=part, stored=held)
        self.emit(BytesMoved(phase="ship", item=label, count=0))
        told = _Told(lambda count: self.emit(BytesMoved(phase="ship", item=label, count=count)))

        def content() -> BinaryIO:
            self.local.refuse_changed()
            told.reach(0)
            return cast("BinaryIO", Slice(self.local, part, told.reach))

        stored = self.store.send(self.address, self.upload, part, content)
        told.reach(part.size)
        self.emit(ItemDone(phase="ship", item=label))
        return _Sent(part=part, stored=stored)


class _Told:
    """How far a part has come; a try that starts again takes its progress back."""

    def __init__(self, moved: Callable[[int], None]) -> None:
        self._moved = moved
        self._count = 0

    def reach(self, count: int) -> None:
        if count != self._count:
            self._moved(count - self._count)
            self._count = count


class Slice(io.RawIOBase):
    """A part of a file that looks like a file.

    Where the file became shorter it is filled up: S3 refuses the part by its digest, and nobody waits for the rest.
    """

    def __init__(self, local: LocalFile, part: Part, reached: Callable[[int], None]) -> None:
        super().__init__()
        self._local = local
        self._part = part
        self._reached = reached
        self._position = 0

    def __len__(self) -> int:
        return self._part.size

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Bytes from the start of the part."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place in the part."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._part.size}[whence]
        self._position = max(0, min(self._part.size, base + offset))
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer` with what comes next; return how many bytes that are."""
        view = memoryview(buffer).cast("B")[: self._part.size - self._position]
        if not view:
            return 0
        self._reached(self._position)
        count = self._local.read_into(view, self._part.offset + self._position)
        view[count:] = bytes(len(view) - count)
        self._position += len(view)
        return len(view)
