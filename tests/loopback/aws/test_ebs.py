"""Snapshots through the EBS direct APIs of the lab: exported, restored, compared; and what goes wrong on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from bundler.adapters.aws.clients import Aws, AwsSettings
from bundler.adapters.aws.ebs import EbsDirect
from bundler.cache import Cache
from bundler.domain.blocks import BLOCK_BYTES
from bundler.domain.digest import Digest
from bundler.domain.packs import PackTable
from bundler.domain.snapshot import DeviceSnapshot, NewSnapshot
from bundler.errors import AccessError, BundleError, ConflictError, NetworkError
from bundler.exports import ExportFolder
from bundler.retry import RetryPolicy
from bundler.stages.export import Exported, export
from bundler.stages.restore import Owner, plan_restore, restore
from bundler.transfer import pause
from tests.loopback.aws.conftest import Closed

pytestmark = pytest.mark.loopback
BLOCKS = {number: f"block {number % 70}".encode().ljust(BLOCK_BYTES, b".") for number in range(0, 180, 2)}


def ebs(closed: Closed) -> EbsDirect:
    endpoints = {"ebs": closed.lab.aws_url}
    aws = Aws(AwsSettings(region=closed.site.region, endpoints=endpoints, connections=64))
    return EbsDirect(service=aws.service("ebs"), policy=RetryPolicy(sleep=pause))


def snapshot(closed: Closed, blocks: Mapping[int, bytes], name: str) -> str:
    """Write a snapshot with these blocks."""
    api = ebs(closed)
    made = api.start(NewSnapshot(gib=1, description=name, tags={}, token=hashlib.sha256(name.encode()).hexdigest()))
    digests = {number: hashlib.sha256(content).digest() for number, content in blocks.items()}
    for number, content in blocks.items():
        api.put(made, number, content, digests[number])
    whole = hashlib.sha256(b"".join(digests[number] for number in sorted(digests)))
    api.complete(made, len(blocks), whole.digest())
    return made


def content(closed: Closed, snapshot: str) -> dict[int, bytes]:
    api = ebs(closed)
    listed = api.blocks(snapshot)
    return {block.number: api.read(snapshot, block, progress=lambda: 0)[0] for block in listed.blocks}


class Packs:
    """Packs of the cache, as restore reads those of an archive."""

    def __init__(self, cache: Cache, table: PackTable) -> None:
        self._cache = cache
        self.table = table

    def read_at(self, pack: Digest, offset: int, length: int) -> bytes:
        with self._cache.path(pack).open("rb") as file:
            file.seek(offset)
            return file.read(length)


class NoProgress:
    def frames(self, snapshots: Mapping[str, str]) -> int:
        return 0

    def put(self, snapshots: Mapping[str, str], frames: int) -> None:
        """Forget it."""


def exported(closed: Closed, cache: Cache, name: str) -> Exported:
    devices = [DeviceSnapshot(device="/dev/xvda", snapshot=snapshot(closed, BLOCKS, name))]
    return export(devices, reader=ebs(closed), place=ExportFolder(cache, key=name))


def restored(closed: Closed, cache: Cache, made: Exported, key: str) -> str:
    owner = Owner(account=closed.site.account, region=closed.site.region, tags={"test": key})
    plan = plan_restore(made.index, name="workers", owner=owner, found=())
    plan = replace(plan, wanted={device: replace(one, token=key) for device, one in plan.wanted.items()})
    packs = Packs(cache, made.table)
    return restore(plan, packs=packs, writer=ebs(closed), progress=NoProgress())["/dev/xvda"]


def test_a_restored_snapshot_is_the_exported_one_byte_for_byte(closed: Closed, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    made = exported(closed, cache, "whole")
    assert content(closed, restored(closed, cache, made, "whole")) == BLOCKS
    assert len(made.table) == 35, "equal blocks are carried once"


@pytest.mark.parametrize("kind", ["throttled", "reset"])
@pytest.mark.parametrize(
    "operation", ["ListSnapshotBlocks", "GetSnapshotBlock", "PutSnapshotBlock", "CompleteSnapshot"]
)
def test_a_service_that_stumbles_is_asked_again(closed: Closed, tmp_path: Path, operation: str, kind: str) -> None:
    cache, key = Cache(tmp_path), f"{operation}-{kind}"
    closed.fault("ebs", operation, kind)
    made = exported(closed, cache, key)
    assert content(closed, restored(closed, cache, made, key)) == BLOCKS


@pytest.mark.parametrize("operation", ["ListSnapshotBlocks", "GetSnapshotBlock"])
def test_who_may_not_read_is_told_which_action_is_denied(closed: Closed, tmp_path: Path, operation: str) -> None:
    source = snapshot(closed, BLOCKS, f"denied-{operation}")
    closed.fault("ebs", operation, "denied", times=1000)
    with pytest.raises(AccessError, match=f"ebs:{operation}"):
        export(
            [DeviceSnapshot(device="/dev/xvda", snapshot=source)],
            reader=ebs(closed),
            place=ExportFolder(Cache(tmp_path), key="x"),
        )


def test_who_may_not_write_is_told_and_the_next_run_goes_on_in_the_same_snapshot(
    closed: Closed, tmp_path: Path
) -> None:
    cache = Cache(tmp_path)
    made = exported(closed, cache, "denied-put")
    closed.fault("ebs", "PutSnapshotBlock", "denied", nth=50, times=1000)
    with pytest.raises(AccessError, match="ebs:PutSnapshotBlock"):
        restored(closed, cache, made, "denied-put")
    closed.no_faults()
    before = closed.written().count("StartSnapshot")
    result = restored(closed, cache, made, "denied-put")
    assert content(closed, result) == BLOCKS
    assert closed.written().count("StartSnapshot") == before + 1, "which gave the snapshot that was there"


def test_a_snapshot_that_does_not_exist_is_a_conflict_that_says_so(closed: Closed) -> None:
    with pytest.raises(ConflictError, match="does not exist in this account and Region") as caught:
        ebs(closed).blocks("snap-00000000000000000")
    assert "copy the image into this account first" in caught.value.hint


def test_a_snapshot_is_not_sealed_with_other_blocks_than_were_put(closed: Closed) -> None:
    api = ebs(closed)
    made = api.start(NewSnapshot(gib=1, description="x", tags={}, token="other-blocks"))
    api.put(made, 0, BLOCKS[0], hashlib.sha256(BLOCKS[0]).digest())
    with pytest.raises(ConflictError, match="aggregate"):
        api.complete(made, 1, b"\0" * 32)
    with pytest.raises(BundleError):
        api.put(made, 1, BLOCKS[0], b"\0" * 32)


def test_a_service_that_is_not_there_is_a_network_error(closed: Closed) -> None:
    aws = Aws(AwsSettings(region=closed.site.region, endpoints={"ebs": "http://127.0.0.1:9"}, quick=True))
    with pytest.raises(NetworkError, match="no answer from http"):
        EbsDirect(service=aws.service("ebs"), policy=RetryPolicy()).blocks("snap-1")
