"""Volumes as content: which blocks of each device are written, and what each of them holds.

A block is 512 KiB, as in Amazon's EBS direct APIs. The *block index* of an AMI is one line of JSON and then, device
after device, a record of 36 bytes for each written block: its number (unsigned, 32 bits, big-endian) and the SHA-256 of
its bytes. Numbers ascend; blocks of zeros are left out, as a new volume reads as zeros. The digest of the index is the
identity of the volumes: what two AMIs have in common is told by it, never by the packs that carry the blocks.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bundler.domain.canonical import canonical_json, parse_canonical_json
from bundler.domain.digest import Digest
from bundler.errors import FormatError, LimitError

BLOCK_BYTES = 512 << 10
BLOCKS_PER_GIB = (1 << 30) // BLOCK_BYTES
MAX_BLOCKS = 1 << 21
"""Written blocks of one AMI, all devices together: 1 TiB."""
MAX_VOLUME_GIB = 64 << 10
MAX_DEVICES = 26
FORMAT = 1
_MAX_HEADER_BYTES = 8 << 10
_RECORD = struct.Struct(">I32s")
_DEVICE = re.compile(r"(/dev/)?[a-z0-9]{1,30}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """The written blocks of one device.

    Attributes:
        device: its name in the AMI's block device mapping, such as `/dev/xvda`.
        gib: size of the volume.
        records: number and SHA-256 of each block that is not all zeros, 36 bytes each, numbers ascending.
    """

    device: str
    gib: int
    records: bytes

    @classmethod
    def of(cls, device: str, gib: int, blocks: Iterable[tuple[int, bytes]]) -> Volume:
        """Return the volume with these blocks: number and raw SHA-256, numbers ascending."""
        return cls(device=device, gib=gib, records=b"".join(_RECORD.pack(*block) for block in blocks))

    def __len__(self) -> int:
        return len(self.records) // _RECORD.size

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Yield number and raw SHA-256 of each block."""
        return _RECORD.iter_unpack(self.records)

    def number(self, place: int) -> int:
        """Return the number of the block at a place among the written ones."""
        return int.from_bytes(self.records[place * _RECORD.size : place * _RECORD.size + 4], "big")

    @property
    def aggregate(self) -> bytes:
        """SHA-256 of the blocks' raw SHA-256s, in order: what CompleteSnapshot calls the LINEAR aggregate."""
        sha256 = hashlib.sha256()
        for _, digest in self:
            sha256.update(digest)
        return sha256.digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockIndex:
    """The volumes of one AMI, by the names of their devices."""

    volumes: tuple[Volume, ...]

    @property
    def raw(self) -> bytes:
        """The index as it is stored."""
        devices = [{"blocks": len(each), "device": each.device, "gib": each.gib} for each in self.volumes]
        header = canonical_json({"blockBytes": BLOCK_BYTES, "devices": devices, "format": FORMAT})
        return b"".join([header, b"\n", *(volume.records for volume in self.volumes)])

    @property
    def digest(self) -> Digest:
        """What the AMI's content is known by."""
        return Digest.of(self.raw)

    def distinct(self) -> Iterator[bytes]:
        """Yield the raw SHA-256 of each different block once, in the order of first appearance."""
        seen: set[bytes] = set()
        for volume in self.volumes:
            for _, digest in volume:
                if digest not in seen:
                    seen.add(digest)
                    yield digest


def parse_block_index(raw: bytes, *, subject: str) -> BlockIndex:
    """Return the index in `raw`.

    Raises:
        FormatError: anything but the one spelling that `BlockIndex.raw` gives.
        LimitError: more blocks or devices than an AMI may have.
    """
    header, separator, records = raw.partition(b"\n")
    if not separator or len(header) > _MAX_HEADER_BYTES:
        raise FormatError(subject, "is not a block index")
    volumes, position = [], 0
    for device, gib, count in _devices(header, subject):
        end = position + count * _RECORD.size
        volume = Volume(device=device, gib=gib, records=records[position:end])
        _check_order(volume, count, subject)
        volumes.append(volume)
        position = end
    if position != len(records):
        raise FormatError(subject, "holds more than the blocks of its devices")
    return BlockIndex(volumes=tuple(volumes))


def _devices(header: bytes, subject: str) -> Sequence[tuple[str, int, int]]:
    value = parse_canonical_json(header, subject=subject)
    if not isinstance(value, dict) or set(value) != {"blockBytes", "devices", "format"}:
        raise FormatError(subject, "is not a block index")
    if (value["format"], value["blockBytes"]) != (FORMAT, BLOCK_BYTES):
        stated = json.dumps({key: value[key] for key in ("format", "blockBytes")}, default=str)
        raise FormatError(subject, f"is a block index of another format: {stated[:100]}")
    devices = value["devices"]
    if not isinstance(devices, list) or not 0 < len(devices) <= MAX_DEVICES:
        raise LimitError(subject, f"names no devices, or more than {MAX_DEVICES}")
    found = [_device(device, subject) for device in devices]
    names = [name for name, _, _ in found]
    if names != sorted(set(names)):
        raise FormatError(subject, "does not name each device once, in order")
    if sum(count for _, _, count in found) > MAX_BLOCKS:
        raise LimitError(subject, f"has more than {MAX_BLOCKS} blocks")
    return found


def _device(value: object, subject: str) -> tuple[str, int, int]:
    if not isinstance(value, dict) or set(value) != {"blocks", "device", "gib"}:
        raise FormatError(subject, "has a device without name, size and number of blocks")
    device, gib, count = value["device"], value["gib"], value["blocks"]
    if not isinstance(device, str) or not _DEVICE.match(device):
        raise FormatError(subject, "has a device whose name is none")
    if type(gib) is not int or not 0 < gib <= MAX_VOLUME_GIB:
        raise FormatError(subject, f"has the device {device} of a size that no volume has")
    if type(count) is not int or not 0 <= count <= gib * BLOCKS_PER_GIB:
        raise FormatError(subject, f"has more blocks than the device {device}")
    return device, gib, count


def _check_order(volume: Volume, count: int, subject: str) -> None:
    if len(volume.records) != count * _RECORD.size:
        raise FormatError(subject, f"ends within the blocks of {volume.device}")
    last, most = -1, volume.gib * BLOCKS_PER_GIB
    for number, _ in volume:
        if not last < number < most:
            raise FormatError(subject, f"has block {number} of {volume.device} out of order, or beyond its end")
        last = number
