"""A file on its way to S3: its parts, what is there already, what is left to send, and the slip that goes with it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bundler.domain.digest import Digest
from bundler.errors import UsageError

LEAST_PART_BYTES = 16 << 20
MOST_PARTS = 9_000  # S3 takes 10,000
MOST_OBJECT_BYTES = 5 << 40
_MIB = 1 << 20
_ADDRESS = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<key>[^\x00-\x1f\x7f]{0,1000}))?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Address:
    """`s3://bucket/key`; `key` may be a prefix, and has no slash at either end."""

    bucket: str
    key: str = ""

    @classmethod
    def parse(cls, text: str) -> S3Address:
        """Return the address in `text`.

        Raises:
            UsageError: not an s3:// address.
        """
        match = _ADDRESS.match(text)
        if match is None:
            raise UsageError(text[:200], "is not an S3 address", hint="Write s3://BUCKET/PREFIX.")
        return cls(bucket=match["bucket"], key=(match["key"] or "").strip("/"))

    def below(self, name: str) -> S3Address:
        """Return the address of `name` under this prefix."""
        return S3Address(bucket=self.bucket, key=f"{self.key}/{name}" if self.key else name)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def move_away(address: str) -> str:
    """Return the command that keeps an object of S3 under another name."""
    return f"aws s3 mv {shlex.quote(address)} {shlex.quote(f'{address}.damaged')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where one part of a file stands; numbers start at 1."""

    number: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a file that was read."""

    number: int
    offset: int
    size: int
    digest: Digest

    @property
    def checksum(self) -> str:
        """SHA-256 as S3 writes it: base64."""
        return base64.b64encode(bytes.fromhex(self.digest.hex)).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipment:
    """A file, read once.

    Attributes:
        name: file name, and last word of the key.
        digest: SHA-256 of the whole.
    """

    name: str
    size: int
    digest: Digest
    parts: tuple[Part, ...]

    @property
    def checksums(self) -> frozenset[str]:
        """What S3 may say its SHA-256 is: of all bytes, or of the digests of the parts (with their number, or bare)."""
        joined = b"".join(bytes.fromhex(part.digest.hex) for part in self.parts)
        composite = base64.b64encode(hashlib.sha256(joined).digest()).decode()
        whole = base64.b64encode(bytes.fromhex(self.digest.hex)).decode()
        return frozenset({whole, composite, f"{composite}-{len(self.parts)}"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """A part that an unfinished upload holds; `checksum` is None where it was sent without one."""

    number: int
    size: int
    etag: str
    checksum: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """What stands at the address now."""

    size: int
    etag: str
    checksum: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An unfinished upload: its id and what it holds."""

    id: str
    parts: tuple[StoredPart, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShipPlan:
    """What S3 holds, and what follows from it.

    Attributes:
        slots: the parts of the file.
        shipment: the file's digests, where it had to be read to compare it with what stands there; else None.
        replaces: what stands at the address and is something else; None where nothing does.
        upload: the unfinished upload to go on with; None to begin one.
        is_done: the object is there, with this content.
    """

    slots: tuple[Slot, ...]
    shipment: Shipment | None = None
    replaces: StoredObject | None = None
    upload: Upload | None = None
    is_done: bool = False


Md5 = Callable[[Part], str]
"""Hex MD5 of a part: only asked for where S3 gives no SHA-256."""


def part_size(size_bytes: int) -> int:
    """Return the size of all parts but the last: 16 MiB, more where 9,000 of those do not suffice.

    Raises:
        UsageError: larger than S3 takes (5 TiB).
    """
    if size_bytes > MOST_OBJECT_BYTES:
        raise UsageError(
            "file",
            f"has {size_bytes} bytes; one S3 object holds {MOST_OBJECT_BYTES}",
            hint="Make two bundles of it, or carry the file by disk.",
        )
    mibs = -(-size_bytes // (MOST_PARTS * _MIB))
    return max(LEAST_PART_BYTES, mibs * _MIB)


def make_slots(size_bytes: int) -> tuple[Slot, ...]:
    """Return the parts that a file of `size_bytes` is sent in.

    Raises:
        UsageError: larger than S3 takes.
    """
    step = part_size(size_bytes)
    return tuple(
        Slot(number=number, offset=offset, size=min(step, size_bytes - offset))
        for number, offset in enumerate(range(0, size_bytes, step), 1)
    )


def is_same(shipment: Shipment, there: StoredObject, *, md5_of: Md5) -> bool:
    """Return whether an object of S3 has the content of the file."""
    if there.size != shipment.size:
        return False
    if there.checksum is not None:
        return there.checksum in shipment.checksums
    if not there.etag.endswith(f"-{len(shipment.parts)}"):
        return False
    md5s = b"".join(bytes.fromhex(md5_of(part)) for part in shipment.parts)
    return there.etag == f"{hashlib.md5(md5s, usedforsecurity=False).hexdigest()}-{len(shipment.parts)}"


def holds(stored: StoredPart, part: Part, *, md5_of: Md5) -> bool:
    """Return whether what an unfinished upload holds under this number is the part."""
    if stored.size != part.size:
        return False
    return stored.checksum == part.checksum if stored.checksum is not None else stored.etag == md5_of(part)


def slip_bytes(  # noqa: PLR0913 - one for each key of the document
    *,
    archive: Shipment,
    address: S3Address,
    root: Digest,
    trust: Digest,
    installer: Shipment | None = None,
    parts: Sequence[Shipment] = (),
) -> bytes:
    """Return the transfer slip: the digests that travel by another channel than the file.

    Of an archive in parts, `archive` is their table.
    """
    slip: dict[str, object] = {
        "apiVersion": "eks-bundler/v1",
        "kind": "Slip",
        "archive": _described(archive, address),
        "root": str(root),
        "trust": str(trust),
    }
    if installer is not None:
        slip["installer"] = _described(installer, address)
    if parts:
        slip["parts"] = [_described(part, address) for part in parts]
    return (json.dumps(slip, indent=2, sort_keys=True) + "\n").encode()


def _described(shipment: Shipment, address: S3Address) -> Mapping[str, object]:
    return {
        "name": shipment.name,
        "size": shipment.size,
        "digest": str(shipment.digest),
        "address": str(address.below(shipment.name)),
    }
