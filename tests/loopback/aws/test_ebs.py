"""Snapshots through the EBS direct APIs of the lab: exported, restored, compared; and what goes wrong on the way."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from bundler.adapters.aws.clients import Aws, AwsSettings
from bundler.adapters.aws.ebs import EbsDirect
from bundler.adapters.aws.ec2_images import Ec2Images
from bundler.cache import Cache
from bundler.domain.blocks import BLOCK_BYTES
from bundler.domain.digest import Digest
from bundler.domain.packs import PackTable
from bundler.domain.snapshot import DeviceSnapshot, ListedBlock, NewSnapshot
from bundler.errors import AccessError, BundleError, ConflictError, NetworkError
from bundler.exports import ExportFolder
from bundler.retry import RetryPolicy
from bundler.stages.export import Exported, export
from bundler.stages.restore import Owner, plan_restore, restore
from bundler.transfer import pause
from tests.fakes.scripted_server import Reply, ScriptedServer
from tests.loopback.aws.conftest import Closed

pytestmark = pytest.mark.loopback
BLOCKS = {number: f"block {number % 70}".encode().ljust(BLOCK_BYTES, b".") for number in range(0, 180, 2)}


def ebs(closed: Closed, *, url: str = "", sleep: Callable[[float], None] = pause) -> EbsDirect:
    endpoints = {"ebs": url or closed.lab.aws_url}
    aws = Aws(AwsSettings(region=closed.site.region, endpoints=endpoints, connections=64, sleep=sleep))
    return EbsDirect(service=aws.service("ebs"), policy=RetryPolicy(sleep=sleep))


def snapshot(closed: Closed, blocks: Mapping[int, bytes], name: str, *, kms_key: str | None = None) -> str:
    """Write a snapshot with these blocks."""
    api, token = ebs(closed), hashlib.sha256(name.encode()).hexdigest()
    made = api.start(NewSnapshot(gib=1, description=name, tags={}, token=token, kms_key=kms_key))
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


def exported(closed: Closed, cache: Cache, name: str, *, reader: EbsDirect | None = None) -> Exported:
    devices = [DeviceSnapshot(device="/dev/xvda", snapshot=snapshot(closed, BLOCKS, name))]
    return export(devices, reader=reader or ebs(closed), place=ExportFolder(cache, key=name))


def restored(closed: Closed, cache: Cache, made: Exported, key: str, *, writer: EbsDirect | None = None) -> str:
    owner = Owner(account=closed.site.account, region=closed.site.region, tags={"test": key})
    plan = plan_restore(made.index, name="workers", owner=owner, found=())
    plan = replace(plan, wanted={device: replace(one, token=key) for device, one in plan.wanted.items()})
    packs = Packs(cache, made.table)
    return restore(plan, packs=packs, writer=writer or ebs(closed), progress=NoProgress())["/dev/xvda"]


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


def encrypted(closed: Closed, name: str) -> DeviceSnapshot:
    """A snapshot that EC2 says is encrypted with a key of the account's own."""
    site = closed.site
    key = f"arn:{site.partition}:kms:{site.region}:{site.account}:key/0d4c3b2a-0000-4000-8000-{name:0>12.12}"
    made = snapshot(closed, BLOCKS, name, kms_key=key)
    found = Ec2Images(closed.aws.service("ec2")).snapshots([made])[made]
    assert (found.is_encrypted, found.kms_key, found.state) == (True, key, "completed")
    return DeviceSnapshot(device="/dev/xvda", snapshot=made)


def test_an_encrypted_snapshot_is_read_in_clear_and_carried_as_any_other(closed: Closed, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    made = export([encrypted(closed, "a1")], reader=ebs(closed), place=ExportFolder(cache, key="encrypted"))
    assert made.index == exported(closed, cache, "in-clear").index
    assert content(closed, restored(closed, cache, made, "encrypted")) == BLOCKS


def test_who_may_not_use_the_key_of_an_encrypted_snapshot_is_told_so(closed: Closed, tmp_path: Path) -> None:
    """What AWS says then: AccessDeniedException, with the reason DEPENDENCY_ACCESS_DENIED."""
    source, place = encrypted(closed, "b2"), ExportFolder(Cache(tmp_path), key="key-denied")
    closed.fault("ebs", "GetSnapshotBlock", "denied", nth=20, times=1000)
    with pytest.raises(AccessError) as caught:
        export([source], reader=ebs(closed), place=place)
    assert caught.value.exit_code == 4
    assert caught.value.subject.startswith("ebs:GetSnapshotBlock on block ")
    assert source.snapshot in caught.value.subject
    assert "if it is encrypted, kms:Decrypt on its key, too" in caught.value.hint
    closed.no_faults()
    assert len(export([source], reader=ebs(closed), place=place).table) == 35, "allowed, the same command goes on"


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


def hurried(seconds: float) -> None:
    """A hundred times as fast."""
    pause(seconds / 100)


@pytest.mark.parametrize("kind", ["throttled", "unavailable"])
def test_a_storm_in_which_one_call_of_five_gets_through_is_weathered(closed: Closed, tmp_path: Path, kind: str) -> None:
    """Most blocks are refused eight times in a row; others that get through renew their budget."""
    cache, key, hasty = Cache(tmp_path), f"storm-{kind}", ebs(closed, sleep=hurried)
    source = exported(closed, cache, f"{key}-source")
    closed.fault("ebs", "GetSnapshotBlock", kind, times=100_000, spare=5)
    hard = exported(closed, Cache(tmp_path / "other"), f"{key}-again", reader=hasty)
    assert hard.index == source.index
    closed.fault("ebs", "PutSnapshotBlock", kind, times=100_000, spare=5)
    made = restored(closed, cache, source, key, writer=hasty)
    closed.no_faults()
    assert content(closed, made) == BLOCKS


def test_a_storm_in_which_nothing_gets_through_ends(closed: Closed, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    made = exported(closed, cache, "hurricane")
    closed.fault("ebs", "PutSnapshotBlock", "throttled", nth=20, times=100_000)
    with pytest.raises(NetworkError, match="the service is busy"):
        restored(closed, cache, made, "hurricane", writer=ebs(closed, sleep=hurried))


def test_a_block_that_comes_damaged_is_asked_for_again(closed: Closed, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    closed.fault("ebs", "GetSnapshotBlock", "damaged", nth=3, times=5)
    made = exported(closed, cache, "damaged-get")
    closed.no_faults()
    assert content(closed, restored(closed, cache, made, "damaged-get")) == BLOCKS


def test_a_block_that_always_comes_damaged_is_never_taken(closed: Closed, tmp_path: Path) -> None:
    closed.fault("ebs", "GetSnapshotBlock", "damaged", times=100_000)
    with pytest.raises(NetworkError, match="came damaged: 524288 bytes that are not what their checksum says"):
        exported(closed, Cache(tmp_path), "damaged-for-ever", reader=ebs(closed, sleep=hurried))


def test_a_block_that_arrives_damaged_is_refused_by_its_checksum_and_the_next_run_goes_on(
    closed: Closed, tmp_path: Path
) -> None:
    cache = Cache(tmp_path)
    made = exported(closed, cache, "damaged-put")
    closed.fault("ebs", "PutSnapshotBlock", "damaged", nth=30)
    with pytest.raises(ConflictError, match="checksum does not match") as caught:
        restored(closed, cache, made, "damaged-put")
    assert "Run the same command again" in caught.value.hint
    assert content(closed, restored(closed, cache, made, "damaged-put")) == BLOCKS


def listing(**changes: object) -> bytes:
    known = {"BlockSize": BLOCK_BYTES, "VolumeSize": 1, "Blocks": [], "ExpiryTime": 1, **changes}
    return json.dumps(known).encode()


@pytest.mark.parametrize("size", [512, 0, 1 << 20, None])
def test_a_list_of_blocks_of_another_size_is_no_answer_of_this_api(closed: Closed, size: int | None) -> None:
    server = ScriptedServer(lambda _: Reply(body=listing(BlockSize=size)))
    with server, pytest.raises(NetworkError, match="lacks what the API promises") as caught:
        ebs(closed, url=server.url).blocks("snap-1")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("length", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES + 1, 2 * BLOCK_BYTES])
def test_a_block_of_another_length_is_never_taken_although_its_checksum_is_right(closed: Closed, length: int) -> None:
    body = bytes(length)
    headers = {
        "x-amz-Checksum": base64.b64encode(hashlib.sha256(body).digest()).decode(),
        "x-amz-Checksum-Algorithm": "SHA256",
        "x-amz-Data-Length": str(length),
    }
    with ScriptedServer(lambda _: Reply(headers=headers, body=body)) as server:
        api = replace(ebs(closed, url=server.url), policy=RetryPolicy(tries=2, sleep=hurried))
        with pytest.raises(NetworkError, match=f"came damaged: {length} bytes"):
            api.read("snap-1", ListedBlock(0, "token"), progress=lambda: 0)


def test_a_snapshot_that_is_not_known_yet_is_waited_for_and_then_missed(closed: Closed) -> None:
    api = ebs(closed, sleep=hurried)
    with pytest.raises(ConflictError, match="block 0 of snap-00000000000000000: does not exist") as caught:
        api.put("snap-00000000000000000", 0, BLOCKS[0], hashlib.sha256(BLOCKS[0]).digest())
    assert caught.value.exit_code == 7
    assert closed.written().count("PutSnapshotBlock") >= 8
