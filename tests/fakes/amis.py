"""AMIs of a bundle as a build leaves them: blocks in small packs, and a lock that names them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from bundler.archive.packs import PackWriter, compress
from bundler.domain.ami import AmiSource, BakedAmi, LockedAmi
from bundler.domain.blob import Blob
from bundler.domain.blocks import BLOCK_BYTES, BlockIndex, Volume
from bundler.domain.digest import Digest
from bundler.domain.lock import LockedTool
from bundler.domain.packs import PackTable
from bundler.workflows.bakes import INDEX_TYPE, PACK_TYPE, TABLE_TYPE
from tests.fakes.archives import Sample, sample

Content = Mapping[str, Mapping[int, int]]
"""Device -> number of a block -> what is in it, as a seed."""
TWO_DEVICES: Content = {
    "/dev/xvda": {number: 1 + number % 29 for number in range(0, 120, 2)},
    "/dev/xvdb": {3: 1, 9: 500, 2047: 2},
}
HOME = {"account": "444455556666", "region": "eu-west-1", "partition": "aws"}


@cache
def block(seed: int) -> bytes:
    """The block of a seed: mostly zeros, so that packs are small."""
    start = hashlib.shake_128(f"block {seed}".encode()).digest(2 << 10)
    return start + bytes(BLOCK_BYTES - len(start))


@cache
def sha256(seed: int) -> bytes:
    return hashlib.sha256(block(seed)).digest()


def shifted(content: Content, by: int) -> Content:
    """The same places with other blocks."""
    return {device: {number: seed + by for number, seed in blocks.items()} for device, blocks in content.items()}


def index_of(content: Content) -> BlockIndex:
    """The block index of volumes of 1 GiB."""
    return BlockIndex(
        volumes=tuple(
            Volume.of(device, 1, [(number, sha256(seed)) for number, seed in sorted(blocks.items())])
            for device, blocks in sorted(content.items())
        )
    )


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Packs of four frames of four blocks each."""

    index: BlockIndex
    table: PackTable
    packs: Mapping[Digest, bytes]

    @classmethod
    def of(cls, content: Content, *, frame_blocks: int = 4, pack_frames: int = 2) -> Packed:
        index, packs = index_of(content), dict[Digest, bytes]()
        blocks = {sha256(seed): block(seed) for each in content.values() for seed in each.values()}

        def keep(pieces: list[bytes]) -> Digest:
            whole = b"".join(pieces)
            packs[Digest.of(whole)] = whole
            return Digest.of(whole)

        writer, digests = PackWriter(keep=keep), list(index.distinct())
        table = writer.finished
        for number, first in enumerate(range(0, len(digests), frame_blocks)):
            some = digests[first : first + frame_blocks]
            writer.add(compress([blocks[digest] for digest in some], tuple(some)))
            if number % pack_frames == pack_frames - 1:
                table = writer.finish()
        return cls(index=index, table=writer.finish() if digests else table, packs=packs)


@dataclass(frozen=True, kw_only=True)
class MadeAmi:
    """One AMI: what the lock says of it before and after the bake, and its blobs."""

    locked: LockedAmi
    baked: BakedAmi
    packed: Packed
    blobs: Mapping[Digest, bytes] = field(repr=False)

    @classmethod
    def of(cls, content: Content = TWO_DEVICES, *, kind: str = "bake", **changes: Any) -> MadeAmi:
        """An AMI with this content; `changes` are of the BakedAmi."""
        made = Packed.of(content)
        index, table = made.index.raw, made.table.raw
        blobs = {Digest.of(index): index, Digest.of(table): table, **made.packs}
        values: dict[str, Any] = {
            "name": "workers",
            "architecture": "amd64",
            "inputs": Digest.of(b"inputs"),
            "ami": "ami-0fedcba9876543210",
            **HOME,
            "attributes": attributes(*content),
            "index": blob(index, INDEX_TYPE),
            "blocks": sum(map(len, made.index.volumes)),
            "table": blob(table, TABLE_TYPE),
            "packs": tuple(blob(made.packs[pack], PACK_TYPE) for pack in made.table.packs),
            **changes,
        }
        baked = BakedAmi.model_validate(values)
        source = AmiSource(id="ami-0123456789abcdef0", owner="602401143452", region="eu-west-1", name="al2023")
        values = {"name": baked.name, "architecture": baked.architecture, "kind": kind, "source": source}
        return cls(locked=LockedAmi.model_validate(values), baked=baked, packed=made, blobs=blobs)


def forged(
    made: MadeAmi,
    *,
    index: bytes | None = None,
    table: PackTable | None = None,
    packs: Mapping[Digest, bytes] | None = None,
) -> MadeAmi:
    """The same AMI with another index, table or packs, and a lock that is signed for them."""
    raw = made.packed.index.raw if index is None else index
    new = made.packed.table if table is None else table
    held = made.packed.packs if packs is None else packs
    baked = made.baked.model_copy(
        update={
            "index": blob(raw, INDEX_TYPE),
            "table": blob(new.raw, TABLE_TYPE),
            "packs": tuple(blob(held[pack], PACK_TYPE) for pack in new.packs),
        }
    )
    blobs = {Digest.of(content): content for content in (raw, new.raw, *held.values())}
    return replace(made, baked=baked, blobs=blobs)


def with_pack(made: MadeAmi, number: int, content: bytes) -> MadeAmi:
    """The same AMI with other bytes for one pack."""
    digests = [*made.packed.table.packs]
    packs = {**made.packed.packs, Digest.of(content): content}
    packs.pop(digests[number])
    digests[number] = Digest.of(content)
    return forged(made, table=replace(made.packed.table, packs=tuple(digests)), packs=packs)


def with_other_frame(made: MadeAmi, number: int, seeds: Sequence[int]) -> MadeAmi:
    """The same AMI whose frame holds the blocks of `seeds`, while its table says what it said."""
    table = made.packed.table
    frame = table.frames[number]
    content = compress([block(seed) for seed in seeds], (b"",) * len(seeds)).content
    pack = made.packed.packs[table.packs[frame.pack]]
    frames = [replace(one, length=len(content)) if one == frame else one for one in table.frames]
    moved = len(content) - frame.length
    frames = [
        replace(one, offset=one.offset + moved) if one.pack == frame.pack and one.offset > frame.offset else one
        for one in frames
    ]
    other = replace(made, packed=replace(made.packed, table=replace(table, frames=tuple(frames))))
    whole = pack[: frame.offset] + content + pack[frame.offset + frame.length :]
    return with_pack(other, frame.pack, whole)


def frame_seeds(made: MadeAmi, number: int, content: Content = TWO_DEVICES) -> list[int]:
    """The seeds of the blocks of a frame, in their order."""
    known = {sha256(seed): seed for blocks in content.values() for seed in blocks.values()}
    return [known[digest] for digest in made.packed.table.digests(made.packed.table.frames[number])]


def attributes(*devices: str, gib: int = 1) -> dict[str, Any]:
    """What RegisterImage is told, of volumes of one size."""
    return {
        "root_device": devices[0],
        "devices": [{"device": device, "size": gib} for device in devices],
        "boot_mode": "uefi-preferred",
        "imds_support": "v2.0",
    }


def blob(content: bytes, media_type: str) -> Blob:
    return Blob(media_type=media_type, digest=Digest.of(content), size=len(content))


def with_amis(made: Sample, *amis: MadeAmi) -> Sample:
    """The same bundle with these AMIs."""
    lock = made.lock.model_copy(
        update={"amis": tuple(one.locked for one in amis), "bake": tuple(one.baked for one in amis)}
    )
    blobs = {**made.blobs, **{digest: raw for one in amis for digest, raw in one.blobs.items()}}
    return replace(made, lock=lock, blobs=blobs)


def ami_sample(*amis: MadeAmi) -> Sample:
    """A bundle with these AMIs, else one with two devices; it carries a kubectl that nobody runs."""
    made, content = sample(), b"#!/bin/sh\nexit 1\n"
    (helm,) = made.lock.tools
    kubectl = LockedTool(
        name="kubectl", version="1.35.2", platform=helm.platform, content=blob(content, helm.content.media_type)
    )
    made = replace(
        made,
        lock=made.lock.model_copy(update={"tools": (helm, kubectl)}),
        blobs={**made.blobs, Digest.of(content): content},
    )
    return with_amis(made, *(amis or (MadeAmi.of(),)))


def restored_blocks(content: Mapping[int, int] | Sequence[tuple[int, int]]) -> dict[int, bytes]:
    """The blocks of one device by number."""
    return {number: block(seed) for number, seed in dict(content).items()}
