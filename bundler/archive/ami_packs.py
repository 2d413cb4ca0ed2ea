"""The AMIs of a verified archive: their block indexes, and the packs read by stretches."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from bundler.archive.reader import Archive
from bundler.domain.ami import BakedAmi
from bundler.domain.blocks import BlockIndex, parse_block_index
from bundler.domain.delta import Against, Base, against_lock, base_of
from bundler.domain.digest import Digest
from bundler.domain.packs import PackTable, parse_pack_table
from bundler.errors import FormatError


def read_block_index(archive: Archive, baked: BakedAmi) -> BlockIndex:
    """Return what the volumes of an AMI hold.

    Raises:
        DigestError, FormatError: it is damaged, or not that of the AMI's devices.
    """
    subject = f"block index of {baked.name} {baked.architecture}"
    index = parse_block_index(archive.read(baked.index.digest), subject=subject)
    devices = [(one.device, one.size) for one in baked.attributes.devices]
    fits = [(one.device, one.gib) for one in index.volumes]
    if [device for device, _ in fits] != [device for device, _ in devices] or any(
        gib > size for (_, gib), (_, size) in zip(fits, devices, strict=True)
    ):
        raise FormatError(subject, "has other devices than the AMI in the lock")
    if sum(map(len, index.volumes)) != baked.blocks:
        raise FormatError(subject, "has another number of blocks than the lock says")
    return index


def read_base_index(archive: Archive, baked: BakedAmi, index: BlockIndex) -> BlockIndex | None:
    """Return what the base of an AMI holds, None where every block is carried.

    Raises:
        DigestError, FormatError: what is carried of it is damaged, or does not give the index that the lock names.
    """
    if baked.base is None:
        return None
    subject = f"difference of {baked.name} {baked.architecture} from its base"
    found = base_of(index, difference=parse_block_index(archive.read(baked.base.difference.digest), subject=subject))
    if (found.digest, len(found.raw)) != (baked.base.index.digest, baked.base.index.size):
        raise FormatError(subject, f"does not give the block index {baked.base.index.digest} that the lock names")
    return found


def read_against(archive: Archive) -> Against:
    """Return what a later archive may leave out: content of images, and blocks of AMIs by what they hold.

    Raises:
        DigestError, FormatError: a block index is damaged.
    """
    lock = archive.lock
    return replace(
        against_lock(lock, digest=archive.root.digest),
        indexes={},
        amis={
            (baked.name, baked.architecture): Base(
                bundle=f"{lock.name}-{lock.sequence}",
                root=archive.root.digest,
                blob=baked.index,
                index=read_block_index(archive, baked),
            )
            for baked in lock.bake
        },
    )


@dataclass(frozen=True, slots=True)
class ArchivePacks:
    """The packs of one AMI in an archive.

    A stretch of a pack is not checked by the pack's digest: every block in it has its SHA-256 in the table, which was.
    """

    archive: Archive
    table: PackTable = field(repr=False)

    @classmethod
    def of(cls, archive: Archive, baked: BakedAmi) -> ArchivePacks:
        """Return the packs of an AMI.

        Raises:
            DigestError, FormatError: the pack table is damaged, or names other packs than the lock.
        """
        subject = f"pack table of {baked.name} {baked.architecture}"
        table = parse_pack_table(archive.read(baked.table.digest), subject=subject)
        if table.packs != tuple(pack.digest for pack in baked.packs):
            raise FormatError(subject, "names other packs than the lock")
        return cls(archive, table)

    def read_at(self, pack: Digest, offset: int, length: int) -> bytes:
        """Return a stretch of a pack.

        Raises:
            FormatError: the pack is not in the archive, or shorter.
        """
        member = self.archive.blob(pack)
        if offset + length > member.size:
            raise FormatError(f"pack {pack.short}", f"has {member.size} bytes, its table asks for {offset + length}")
        return self.archive.source.read_at(member.offset + offset, length)
