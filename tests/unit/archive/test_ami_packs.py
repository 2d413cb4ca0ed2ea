"""AMIs in an archive that is signed and whole, and lies: refused before anything of the lie is put anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bundler.archive.ami_packs import ArchivePacks, read_block_index
from bundler.archive.reader import Archive, open_archive
from bundler.domain.blocks import BlockIndex
from bundler.domain.digest import Digest
from bundler.errors import BundleError, ConflictError, DigestError, FormatError
from bundler.stages.restore import Owner, plan_restore, restore
from tests.fakes.account import Account
from tests.fakes.amis import (
    TWO_DEVICES,
    MadeAmi,
    ami_sample,
    attributes,
    forged,
    frame_seeds,
    index_of,
    restored_blocks,
    with_other_frame,
    with_pack,
)
from tests.fakes.archives import MemorySource

OWNER = Owner(account="111122223333", region="eu-central-1", tags={})
AMI = MadeAmi.of()


class NoProgress:
    def frames(self, snapshots: Mapping[str, str]) -> int:
        return 0

    def put(self, snapshots: Mapping[str, str], frames: int) -> None:
        """Forget it."""


def opened(made: MadeAmi, folder: Path) -> Archive:
    sample = ami_sample(made)
    archive = open_archive(MemorySource(sample.build(folder).read_bytes()), sample.trust)
    archive.verify_all()
    return archive


def restored(archive: Archive, account: Account) -> Mapping[str, str]:
    """Read the index, plan, restore: what install does."""
    (baked,) = archive.lock.bake
    index = read_block_index(archive, baked)
    plan = plan_restore(index, name="workers", owner=OWNER, found=())
    return restore(plan, packs=ArchivePacks.of(archive, baked), writer=account, progress=NoProgress())


def refused(made: MadeAmi, folder: Path, account: Account | None = None) -> BundleError:
    """The archive passes every check of its own, and its AMI is refused."""
    with pytest.raises(BundleError) as caught:
        restored(opened(made, folder), account or Account())
    return caught.value


def test_what_is_right_is_restored(tmp_path: Path) -> None:
    account = Account()
    made = restored(opened(AMI, tmp_path), account)
    for device, blocks in TWO_DEVICES.items():
        assert account.content[made[device]] == restored_blocks(blocks)


ONE_DEVICE = {"root_device": "/dev/xvda", "devices": [{"device": "/dev/xvda", "size": 1}]}
OTHER_NAMES = attributes("/dev/xvda", "/dev/xvdc")


@pytest.mark.parametrize("told", [ONE_DEVICE, OTHER_NAMES, attributes("/dev/xvda", "/dev/xvdb", "/dev/xvdc")])
def test_an_index_of_other_devices_than_the_lock_names_is_refused(told: dict[str, Any], tmp_path: Path) -> None:
    error = refused(MadeAmi.of(attributes=told), tmp_path)
    assert isinstance(error, FormatError)
    assert error.cause == "has other devices than the AMI in the lock"


def test_an_index_of_a_larger_volume_than_the_lock_registers_is_refused(tmp_path: Path) -> None:
    large = replace(AMI.packed.index.volumes[0], gib=2)
    index = BlockIndex(volumes=(large, *AMI.packed.index.volumes[1:]))
    assert "has other devices" in refused(forged(AMI, index=index.raw), tmp_path).cause


def test_an_index_of_a_smaller_volume_than_the_lock_registers_is_taken(tmp_path: Path) -> None:
    """A volume may be larger than the snapshot that it is made of (EC2 API, EbsBlockDevice)."""
    made = MadeAmi.of(attributes=attributes(*TWO_DEVICES, gib=20))
    assert set(restored(opened(made, tmp_path), Account())) == set(TWO_DEVICES)


@pytest.mark.parametrize("blocks", [62, 64])
def test_an_index_with_another_number_of_blocks_than_the_lock_says_is_refused(blocks: int, tmp_path: Path) -> None:
    error = refused(MadeAmi.of(blocks=blocks), tmp_path)
    assert error.cause == "has another number of blocks than the lock says"


def test_an_index_that_is_none_is_refused(tmp_path: Path) -> None:
    assert isinstance(refused(forged(AMI, index=b"{}\n"), tmp_path), FormatError)


def test_an_index_that_names_blocks_no_pack_carries_is_refused_before_a_block_is_put(tmp_path: Path) -> None:
    content = {**TWO_DEVICES, "/dev/xvdb": {3: 1, 9: 7777, 2047: 2}}
    account = Account()
    error = refused(forged(AMI, index=index_of(content).raw), tmp_path, account)
    assert isinstance(error, ConflictError)
    assert "names 1 blocks that no pack of this bundle carries" in error.cause
    assert not [write for write in account.writes if write.startswith("put")]


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_table_that_names_other_packs_than_the_lock_is_refused(count: int, tmp_path: Path) -> None:
    """One that the lock has is left out; one is named twice in the lock."""
    packs = (AMI.baked.packs * 2)[:count]
    baked = AMI.baked.model_copy(update={"packs": packs})
    error = refused(replace(AMI, baked=baked), tmp_path)
    assert error.cause == "names other packs than the lock"


def test_packs_that_are_swapped_in_table_and_lock_are_refused(tmp_path: Path) -> None:
    table = AMI.packed.table
    first, second, *others = table.packs
    account = Account()
    error = refused(forged(AMI, table=replace(table, packs=(second, first, *others))), tmp_path, account)
    assert error.exit_code == 3
    assert error.subject == f"pack {second.short}, frame 0"
    assert not [write for write in account.writes if write.startswith("put")]


def test_packs_that_are_swapped_in_the_lock_alone_are_refused(tmp_path: Path) -> None:
    first, second, *others = AMI.baked.packs
    baked = AMI.baked.model_copy(update={"packs": (second, first, *others)})
    assert refused(replace(AMI, baked=baked), tmp_path).cause == "names other packs than the lock"


@pytest.mark.parametrize("missing", [1, 200])
def test_a_pack_that_is_shorter_than_its_table_says_is_refused(missing: int, tmp_path: Path) -> None:
    last = AMI.packed.packs[AMI.packed.table.packs[-1]]
    error = refused(with_pack(AMI, -1, last[:-missing]), tmp_path)
    assert isinstance(error, FormatError)
    assert f"has {len(last) - missing} bytes, its table asks for {len(last)}" in error.cause


def test_a_pack_that_the_archive_does_not_hold_is_refused(tmp_path: Path) -> None:
    packs = ArchivePacks.of(opened(AMI, tmp_path), AMI.baked)
    with pytest.raises(FormatError, match="holds no blob"):
        packs.read_at(Digest.of(b"another"), 0, 10)


@pytest.mark.parametrize("frame", [0, 3, 7])
def test_a_block_that_is_not_the_one_of_the_table_is_refused_before_its_frame_is_put(
    frame: int, tmp_path: Path
) -> None:
    """The pack has the digest that the lock says: only the block's own tells."""
    seeds = frame_seeds(AMI, frame)
    account = Account()
    error = refused(with_other_frame(AMI, frame, [*seeds[:-1], 9999]), tmp_path, account)
    assert isinstance(error, DigestError)
    assert "holds another block than the table says" in error.cause
    assert f"frame {frame}" in error.subject
    put = {content for blocks in account.content.values() for content in blocks.values()}
    assert not put & set(restored_blocks(dict(enumerate(seeds))).values())
    assert account.made, "snapshots may have been begun"
    assert not [write for write in account.writes if write.startswith("complete")]


def test_blocks_whose_digests_are_right_and_whose_order_is_swapped_are_refused(tmp_path: Path) -> None:
    seeds = frame_seeds(AMI, 2)
    error = refused(with_other_frame(AMI, 2, [seeds[1], seeds[0], *seeds[2:]]), tmp_path)
    assert isinstance(error, DigestError)


@pytest.mark.parametrize("more", [-1, 1])
def test_a_frame_of_more_or_fewer_blocks_than_its_table_says_is_refused(more: int, tmp_path: Path) -> None:
    seeds = [*frame_seeds(AMI, 1), 8888][: 4 + more]
    error = refused(with_other_frame(AMI, 1, seeds), tmp_path)
    assert isinstance(error, FormatError)
    assert f"does not hold {4 * 524288} bytes" in error.cause


def test_a_byte_of_a_pack_that_changed_on_the_way_is_refused_when_its_frame_is_read(tmp_path: Path) -> None:
    """A stretch of a pack is read without the rest of it: the zstd checksum or the block's digest tells."""
    sample = ami_sample(AMI)
    raw = bytearray(sample.build(tmp_path).read_bytes())
    archive = open_archive(MemorySource(raw), sample.trust)
    packs = ArchivePacks.of(archive, AMI.baked)
    frame = packs.table.frames[5]
    raw[archive.blob(packs.table.packs[frame.pack]).offset + frame.offset + frame.length // 2] ^= 1
    account = Account()
    with pytest.raises(BundleError) as caught:
        restored(archive, account)
    assert caught.value.exit_code == 3
    assert "frame 5" in caught.value.subject
