"""A bundle with one AMI that is carried as what differs from its base."""

from __future__ import annotations

import hashlib

from bundler.archive.packs import PackWriter, compress
from bundler.domain.ami import AmiAttributes, AmiBase, AmiDevice, BakedAmi, LockedAmi
from bundler.domain.blob import Blob
from bundler.domain.blocks import BlockIndex, Volume
from bundler.domain.delta import difference
from bundler.domain.digest import Digest
from tests.fakes.archives import Sample, sample
from tests.fakes.memory_ebs import MemoryPacks, block

BUILT = Digest.of(b"root of sample-6")
DEVICES = ("/dev/xvda", "/dev/xvdb")


def index_of(*disks: dict[int, int]) -> BlockIndex:
    """One disk for each device; blocks by number, told by their seeds."""
    volumes = (
        Volume.of(device, 1, [(n, hashlib.sha256(block(seed)).digest()) for n, seed in sorted(disk.items())])
        for device, disk in zip(DEVICES, disks, strict=False)
    )
    return BlockIndex(volumes=tuple(volumes))


BASE = index_of({0: 1, 1: 2, 7: 3}, {5: 4})
NEW = index_of({0: 1, 1: 9, 8: 3}, {5: 4})


def blob_of(content: bytes) -> Blob:
    return Blob(media_type="application/octet-stream", digest=Digest.of(content), size=len(content))


def delta_sample(**changes: object) -> Sample:
    """The sample of `archives`, with the AMI `workers`; `changes` are made to what the lock says of it."""
    packs = MemoryPacks()
    writer = PackWriter(keep=packs.keep)
    writer.add(compress([block(9)], (hashlib.sha256(block(9)).digest(),)))
    table = writer.finish().raw
    contents = [NEW.raw, difference(NEW, base=BASE).raw, table, *packs.packs.values()]
    baked = BakedAmi(
        name="workers",
        architecture="amd64",
        inputs=Digest.of(b"inputs"),
        ami="ami-0123456789abcdef0",
        account="444455556666",
        region="eu-west-1",
        partition="aws",
        attributes=AmiAttributes(
            root_device="/dev/xvda", devices=tuple(AmiDevice(device=device, size=1) for device in DEVICES)
        ),
        index=blob_of(contents[0]),
        blocks=4,
        table=blob_of(table),
        packs=tuple(map(blob_of, packs.packs.values())),
        base=AmiBase(bundle="sample-6", root=BUILT, index=blob_of(BASE.raw), difference=blob_of(contents[1])),
    )
    locked = LockedAmi(name="workers", architecture="amd64", kind="id")
    made = sample(amis=(locked,), bake=(baked.model_copy(update=changes),))
    return Sample(lock=made.lock, blobs={**made.blobs, **{Digest.of(content): content for content in contents}})
