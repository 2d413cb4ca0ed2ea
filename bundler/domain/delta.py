"""What an earlier bundle, or a site, holds already: content of images by digest, AMIs by their blocks.

Of two block indexes of one AMI: where the volumes differ, and what one becomes the other by. The *difference* of a base
from an AMI is a block index, too: what the base holds at every place where the AMI holds something else; zeros are
named in it. With the AMI's own index it gives the base's, whose digest then proves both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from bundler.domain.blob import Blob
from bundler.domain.blocks import BLOCK_BYTES, BLOCKS_PER_GIB, BlockIndex, Volume
from bundler.domain.digest import Digest
from bundler.domain.image_map import PrivateRegistry
from bundler.domain.lock import Lock
from bundler.domain.reference import is_repository
from bundler.errors import FormatError

_BELOW_PREFIX = PrivateRegistry(host="", prefix="")
ZERO_SHA256 = bytes.fromhex(Digest.of(bytes(BLOCK_BYTES)).hex)


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What an AMI is compared with.

    Attributes:
        bundle: name and sequence of the bundle that brings it.
        root: digest of that bundle's root.
        blob: its block index, as a blob.
        index: the same, read.
    """

    bundle: str
    root: Digest
    blob: Blob
    index: BlockIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A blob of images that a site holds.

    Attributes:
        size: bytes.
        repository: one that has it, below the site's prefix.
    """

    size: int
    repository: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """What a site holds already, as far as a delta needs it: all of an earlier archive or lock, or of a receipt.

    Attributes:
        name: of the bundle, or of the site that a receipt is of.
        sequence: of the bundle; None for a receipt.
        digest: of the archive's root, of the lock or of the receipt.
        content: blobs of images.
        amis: name and architecture -> the AMI, where its block index is carried.
        indexes: name and architecture -> digests of block indexes, where they are not.
    """

    name: str
    sequence: int | None
    digest: Digest
    content: Mapping[Digest, Held] = field(default_factory=dict)
    amis: Mapping[tuple[str, str], Base] = field(default_factory=dict)
    indexes: Mapping[tuple[str, str], tuple[Digest, ...]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What people call it."""
        return self.name if self.sequence is None else f"{self.name}-{self.sequence}"


def against_lock(lock: Lock, *, digest: Digest) -> Against:
    """Return what a site holds once everything of a lock was installed there, whoever carried it.

    Args:
        lock: of an earlier bundle, a delta or not.
        digest: what names it in the delta.
    """
    return Against(
        name=lock.name,
        sequence=lock.sequence,
        digest=digest,
        content=held_content(lock),
        indexes={(baked.name, baked.architecture): (baked.index.digest,) for baked in lock.bake},
    )


def held_content(lock: Lock) -> dict[Digest, Held]:
    """Return the blobs of a lock's images, each with the first of the repositories that it is pushed to."""
    found: dict[Digest, Held] = {}
    for image in lock.images:
        repository = _BELOW_PREFIX.image(image.reference).repository
        if not is_repository(repository):
            continue
        for blob in (blob for manifest in image.manifests for blob in manifest.blobs):
            other = found.get(blob.digest)
            if other is None or repository < other.repository:
                found[blob.digest] = Held(size=blob.size, repository=repository)
    return found


def left_out(lock: Lock, held: Mapping[Digest, Held], *, source: str) -> dict[Digest, Held]:
    """Return the blobs of `lock` that its archive need not carry: configs and layers of images that a site holds.

    Manifests, charts, tools and files are always carried: install reads them before it writes anything, and no
    registry holds tools and files.

    Raises:
        FormatError: `held` gives another size for a digest than the lock.
    """
    found: dict[Digest, Held] = {}
    if not held:
        return found
    kept = _always_carried(lock)
    for image in lock.images:
        for blob in (blob for manifest in image.manifests for blob in manifest.blobs):
            there = held.get(blob.digest)
            if there is None or blob.digest in kept:
                continue
            if there.size != blob.size:
                cause = f"says that {blob.digest} has {there.size} bytes; the lock says {blob.size}"
                raise FormatError(source, cause, hint="Make it again from what it was made of.")
            found[blob.digest] = there
    return found


def _always_carried(lock: Lock) -> frozenset[Digest]:
    blobs: list[Blob] = [*lock.manifests()]
    blobs += [blob for chart in lock.charts for blob in chart.manifest.blobs]
    blobs += [tool.content for tool in lock.tools]
    blobs += [file.content for file in lock.files]
    blobs += [blob for ami in lock.bake for blob in ami.blobs]
    return frozenset(blob.digest for blob in blobs)


def changes(volume: Volume, before: Volume | None) -> Volume:
    """Return what has to be written to make a volume of what it begins with; zeros are named."""
    return volume if before is None else _differing(volume, before)


def difference(index: BlockIndex, *, base: BlockIndex) -> BlockIndex:
    """Return what `base` holds wherever `index` holds something else.

    Raises:
        FormatError: `base` names blocks of zeros: no index that this tool made does.
    """
    own = {volume.device: volume for volume in index.volumes}
    found = BlockIndex(volumes=tuple(_differing(each, own.get(each.device, _empty(each))) for each in base.volumes))
    if base_of(index, difference=found) != base:
        raise FormatError(f"block index {base.digest.short}", "names blocks of zeros: this tool did not make it")
    return found


def base_of(index: BlockIndex, *, difference: BlockIndex) -> BlockIndex:
    """Return the base, given what it holds wherever `index` holds something else."""
    own = {volume.device: volume for volume in index.volumes}
    volumes = (_patched(own.get(each.device, _empty(each)), each) for each in difference.volumes)
    return BlockIndex(volumes=tuple(volumes))


def _differing(volume: Volume, other: Volume) -> Volume:
    end = volume.gib * BLOCKS_PER_GIB
    blocks = (
        (number, mine or ZERO_SHA256)
        for number, mine, theirs in _side_by_side(volume, other)
        if number < end and (mine or ZERO_SHA256) != (theirs or ZERO_SHA256)
    )
    return Volume.of(volume.device, volume.gib, blocks)


def _patched(volume: Volume, patch: Volume) -> Volume:
    end = patch.gib * BLOCKS_PER_GIB
    blocks = ((number, theirs or mine or ZERO_SHA256) for number, mine, theirs in _side_by_side(volume, patch))
    return Volume.of(
        patch.device, patch.gib, ((number, each) for number, each in blocks if number < end and each != ZERO_SHA256)
    )


def _empty(like: Volume) -> Volume:
    return Volume(device=like.device, gib=like.gib, records=b"")


def _side_by_side(one: Volume, other: Volume) -> Iterator[tuple[int, bytes | None, bytes | None]]:
    """Yield each number that either has, and what each has there; both ascend, and neither is held in memory."""
    left, right = iter(one), iter(other)
    mine, theirs = next(left, None), next(right, None)
    while mine is not None or theirs is not None:
        number = min(each[0] for each in (mine, theirs) if each is not None)
        here: list[bytes | None] = [None, None]
        if mine is not None and mine[0] == number:
            here[0], mine = mine[1], next(left, None)
        if theirs is not None and theirs[0] == number:
            here[1], theirs = theirs[1], next(right, None)
        yield number, here[0], here[1]
