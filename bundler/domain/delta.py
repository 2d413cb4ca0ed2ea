"""Two block indexes of one AMI: where the volumes differ, and what one becomes the other by.

The *difference* of a base from an AMI is a block index, too: what the base holds at every place where the AMI holds
something else; zeros are named in it. With the AMI's own index it gives the base's, whose digest then proves both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bundler.domain.blob import Blob
from bundler.domain.blocks import BLOCK_BYTES, BLOCKS_PER_GIB, BlockIndex, Volume
from bundler.domain.digest import Digest
from bundler.errors import FormatError

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
class Against:
    """An earlier archive, as far as a delta needs it.

    Attributes:
        amis: name and architecture -> the AMI.
    """

    name: str
    sequence: int
    amis: Mapping[tuple[str, str], Base]


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
