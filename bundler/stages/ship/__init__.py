"""A file -> an S3 object of the same bytes; what an earlier try sent is not sent again.

The disk is read once: who sends a part has hashed it just before, and the digest of the whole follows behind the parts.
Both read from the page cache what the first pass brought there (ADR 58).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO, Protocol, cast

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
from bundler.errors import AccessError, ConflictError, NetworkError
from bundler.stages.ship.local_file import LocalFile, Slice
from bundler.transfer import Pace, ordered_map

__all__ = ["LocalFile", "ObjectStore", "Shipped", "Slice", "leftovers", "observe", "ship"]
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
