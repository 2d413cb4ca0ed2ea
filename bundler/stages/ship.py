"""A file -> an S3 object of the same bytes; what an earlier try sent is not sent again."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, Emit, ItemDone, Noted, TransferPlanned, silent
from bundler.domain.shipment import (
    Part,
    S3Address,
    Shipment,
    ShipPlan,
    StoredObject,
    StoredPart,
    Upload,
    make_parts,
    part_size,
    plan_ship,
)
from bundler.errors import AccessError, ConflictError, LocalResourceError, NetworkError, UsageError
from bundler.transfer import Pace, parallel_map

CHUNK_BYTES = 1 << 20


class ObjectStore(Protocol):
    """Where files are shipped to."""

    def find(self, address: S3Address) -> StoredObject | None:
        """Return what stands at the address."""
        ...

    def uploads(self, address: S3Address) -> list[str]:
        """Return the ids of the unfinished uploads to the address, the newest first."""
        ...

    def upload(self, address: S3Address, upload_id: str) -> Upload:
        """Return what an unfinished upload holds."""
        ...

    def begin(self, address: S3Address) -> Upload:
        """Begin an upload."""
        ...

    def send(self, address: S3Address, upload: Upload, part: Part, content: BinaryIO) -> StoredPart:
        """Send one part; it is refused where the bytes are not what its digest names."""
        ...

    def complete(
        self, address: S3Address, upload: Upload, parts: Sequence[StoredPart], *, replaces: StoredObject | None
    ) -> None:
        """Make the object of its parts, provided that nothing but `replaces` stands there."""
        ...

    def abort(self, address: S3Address, upload_id: str) -> None:
        """Throw an unfinished upload away."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """A file that was read once, and what it looked like then."""

    path: Path
    shipment: Shipment
    changed_ns: int


def read_file(path: Path, *, emit: Emit = silent) -> LocalFile:
    """Read a file through and return its digests.

    Raises:
        UsageError: no such file, an empty one, or one larger than S3 takes.
        LocalResourceError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size == 0:
                raise UsageError(str(path), "is empty")
            emit(TransferPlanned(phase="read", total_bytes=status.st_size, items=1))
            whole, digests = _hash(file, path.name, status.st_size, emit)
    except FileNotFoundError as error:
        raise UsageError(str(path), "does not exist") from error
    except OSError as error:
        raise LocalResourceError(str(path), f"cannot be read: {error.strerror}") from error
    shipment = Shipment(
        name=path.name, size=status.st_size, digest=whole, parts=make_parts(digests, size_bytes=status.st_size)
    )
    emit(ItemDone(phase="read", item=path.name))
    return LocalFile(path=path, shipment=shipment, changed_ns=status.st_mtime_ns)


def _hash(file: BinaryIO, name: str, size: int, emit: Emit) -> tuple[Digest, list[Digest]]:
    whole, digests, step = hashlib.sha256(), [], part_size(size)
    for offset in range(0, size, step):
        part = hashlib.sha256()
        for chunk in _chunks(file, min(step, size - offset)):
            whole.update(chunk)
            part.update(chunk)
            emit(BytesMoved(phase="read", item=name, count=len(chunk)))
        digests.append(Digest(f"sha256:{part.hexdigest()}"))
    return Digest(f"sha256:{whole.hexdigest()}"), digests


def _chunks(file: BinaryIO, count: int) -> Iterator[bytes]:
    while count:
        chunk = file.read(min(CHUNK_BYTES, count))
        if not chunk:
            raise OSError(0, "it became shorter while it was read")
        count -= len(chunk)
        yield chunk


def observe(local: LocalFile, address: S3Address, *, store: ObjectStore, emit: Emit = silent) -> ShipPlan:
    """Return what is left to send to `address`, looking only."""
    md5_of = partial(_md5, local.path)
    there = store.find(address)
    plan = plan_ship(local.shipment, there=there, upload=None, md5_of=md5_of)
    if plan.is_done:
        return plan
    try:
        unfinished = store.uploads(address)
    except AccessError as error:
        emit(Noted(text=f"{error}: an unfinished upload cannot be found, all is sent again", warning=True))
        return plan
    if not unfinished:
        return plan
    return plan_ship(local.shipment, there=there, upload=store.upload(address, unfinished[0]), md5_of=md5_of)


def _md5(path: Path, part: Part) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        file.seek(part.offset)
        for chunk in _chunks(file, part.size):
            digest.update(chunk)
    return digest.hexdigest()


def ship(plan: ShipPlan, local: LocalFile, address: S3Address, *, store: ObjectStore, pace: Pace = Pace()) -> None:
    """Send what the plan misses and make the object; killed anywhere, the next run goes on.

    Raises:
        ConflictError: the file changed meanwhile, or somebody else wrote the object.
        NetworkError: what stands there afterwards is not what was sent.
    """
    shipment = plan.shipment
    kept_bytes = sum(part.size for part in plan.kept) if not plan.is_done else shipment.size
    pace.emit(
        TransferPlanned(phase="ship", total_bytes=shipment.size, items=len(shipment.parts), present_bytes=kept_bytes)
    )
    if plan.is_done:
        pace.emit(ItemDone(phase="ship", item=shipment.name, how="present"))
        return
    upload = plan.upload or store.begin(address)
    sender = _Sender(local=local, address=address, upload=upload, store=store, emit=pace.emit)
    sent = parallel_map(sender.send, plan.missing, workers=pace.workers)
    _refuse_changed(local)
    parts = sorted((*plan.kept, *sent), key=lambda part: part.number)
    store.complete(address, upload, parts, replaces=plan.replaces)
    if not plan_ship(shipment, there=store.find(address), upload=None, md5_of=partial(_md5, local.path)).is_done:
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
        text = f"{address}: {len(unfinished)} unfinished uploads are left and cost money; --clean throws them away"
        emit(Noted(text=text, warning=True))


def _refuse_changed(local: LocalFile) -> None:
    status = local.path.stat()
    if (status.st_size, status.st_mtime_ns) != (local.shipment.size, local.changed_ns):
        hint = "Let nothing write to it, then run the same command again."
        raise ConflictError(str(local.path), "changed while it was sent", hint=hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sender:
    local: LocalFile
    address: S3Address
    upload: Upload
    store: ObjectStore
    emit: Emit

    def send(self, part: Part) -> StoredPart:
        label = f"{self.local.shipment.name} part {part.number}"

        def moved(count: int) -> None:
            self.emit(BytesMoved(phase="ship", item=label, count=count))

        with self.local.path.open("rb") as file:
            content = Slice(file, offset=part.offset, size=part.size, moved=moved)
            stored = self.store.send(self.address, self.upload, part, cast("BinaryIO", content))
        self.emit(ItemDone(phase="ship", item=label))
        return stored


class Slice(io.RawIOBase):
    """A window of a file that looks like a file; a try that starts again takes its progress back."""

    def __init__(self, file: BinaryIO, *, offset: int, size: int, moved: Callable[[int], None]) -> None:
        super().__init__()
        self._file = file
        self._offset = offset
        self._size = size
        self._moved = moved
        self._position = 0
        self._told = 0

    def __len__(self) -> int:
        return self._size

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Bytes from the start of the window."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place in the window."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, min(self._size, base + offset))
        if self._position < self._told:
            self._moved(self._position - self._told)
            self._told = self._position
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, all that is left where it is negative."""
        left = self._size - self._position
        self._file.seek(self._offset + self._position)
        chunk = self._file.read(left if size is None or size < 0 else min(size, left))
        self._position += len(chunk)
        if self._position > self._told:
            self._moved(self._position - self._told)
            self._told = self._position
        return chunk
