"""The lab's EBS direct APIs, driven with boto3 (EBS direct APIs reference; EBS user guide, "Use EBS direct APIs")."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from botocore.exceptions import ClientError

from bundler.domain.blocks import BLOCK_BYTES
from bundler.lab.lab import LabFacts
from tests.peers import boto_client

pytestmark = pytest.mark.loopback


class Ebs:
    """boto3's client, and what tests do again and again."""

    def __init__(self, facts: LabFacts) -> None:
        self.api = boto_client(facts, "ebs")
        self.ec2 = boto_client(facts, "ec2")

    def start(self, gib: int = 1, **options: Any) -> str:
        return str(self.api.start_snapshot(VolumeSize=gib, Description="a test", **options)["SnapshotId"])

    def put(self, snapshot: str, number: int, content: bytes, **wrong: Any) -> None:
        asked = {"DataLength": len(content), "Checksum": checksum(content), "ChecksumAlgorithm": "SHA256", **wrong}
        self.api.put_snapshot_block(SnapshotId=snapshot, BlockIndex=number, BlockData=content, **asked)

    def complete(self, snapshot: str, blocks: Mapping[int, bytes], **wrong: Any) -> None:
        digests = b"".join(hashlib.sha256(blocks[number]).digest() for number in sorted(blocks))
        asked = {
            "ChangedBlocksCount": len(blocks),
            "Checksum": checksum(digests),
            "ChecksumAlgorithm": "SHA256",
            "ChecksumAggregationMethod": "LINEAR",
        }
        self.api.complete_snapshot(SnapshotId=snapshot, **{**asked, **wrong})

    def made(self, blocks: Mapping[int, bytes], **options: Any) -> str:
        snapshot = self.start(**options)
        for number, content in blocks.items():
            self.put(snapshot, number, content)
        self.complete(snapshot, blocks)
        return snapshot

    def listed(self, snapshot: str, **options: Any) -> list[dict[str, Any]]:
        return list(self.api.list_snapshot_blocks(SnapshotId=snapshot, **options)["Blocks"])

    def read(self, snapshot: str) -> dict[int, bytes]:
        return {
            item["BlockIndex"]: self.api.get_snapshot_block(SnapshotId=snapshot, **item)["BlockData"].read()
            for item in self.listed(snapshot)
        }

    def state(self, snapshot: str) -> str:
        return str(self.ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"])


def checksum(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


def block(text: str) -> bytes:
    return (text.encode() * BLOCK_BYTES)[:BLOCK_BYTES]


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as failed:
        call()
    return str(failed.value.response["Error"]["Code"])


@pytest.fixture(scope="module")
def ebs(lab: LabFacts) -> Ebs:
    return Ebs(lab)


BLOCKS = {7: block("a"), 0: block("b"), 2047: block("a")}


def test_blocks_are_read_as_they_were_put(ebs: Ebs) -> None:
    assert ebs.read(ebs.made(BLOCKS)) == BLOCKS


def test_a_block_has_512_kib_and_its_checksum_is_stated(ebs: Ebs) -> None:
    snapshot = ebs.made(BLOCKS)
    answer = ebs.api.list_snapshot_blocks(SnapshotId=snapshot)
    assert (answer["BlockSize"], answer["VolumeSize"]) == (BLOCK_BYTES, 1)
    got = ebs.api.get_snapshot_block(SnapshotId=snapshot, **answer["Blocks"][0])
    assert (got["Checksum"], got["ChecksumAlgorithm"], got["DataLength"]) == (
        checksum(block("b")),
        "SHA256",
        BLOCK_BYTES,
    )


def test_a_list_is_sorted_and_comes_in_pages(ebs: Ebs) -> None:
    snapshot = ebs.made({number: block("x") for number in (250, 3, 7, *range(300, 500))})
    first = ebs.api.list_snapshot_blocks(SnapshotId=snapshot, MaxResults=100)
    second = ebs.api.list_snapshot_blocks(SnapshotId=snapshot, MaxResults=100, NextToken=first["NextToken"])
    third = ebs.api.list_snapshot_blocks(SnapshotId=snapshot, MaxResults=100, NextToken=second["NextToken"])
    numbers = [item["BlockIndex"] for page in (first, second, third) for item in page["Blocks"]]
    assert numbers == [3, 7, 250, *range(300, 500)]
    assert "NextToken" not in third
    assert [item["BlockIndex"] for item in ebs.listed(snapshot, StartingBlockIndex=499)] == [499]


def test_a_block_put_again_counts_as_it_was_put_last(ebs: Ebs) -> None:
    snapshot = ebs.start()
    ebs.put(snapshot, 1, block("x"))
    ebs.put(snapshot, 1, block("y"))
    ebs.complete(snapshot, {1: block("y")})
    assert ebs.read(snapshot) == {1: block("y")}


def test_a_snapshot_is_pending_until_it_is_complete(ebs: Ebs) -> None:
    snapshot = ebs.start()
    assert ebs.state(snapshot) == "pending"
    assert code_of(lambda: ebs.listed(snapshot)) == "ValidationException"
    ebs.complete(snapshot, {}, Checksum=checksum(b""))
    assert ebs.state(snapshot) == "completed"


@pytest.mark.parametrize(
    "wrong",
    [{"Checksum": checksum(b"other")}, {"ChecksumAlgorithm": "SHA1"}, {"DataLength": 512}],
    ids=["checksum", "algorithm", "length"],
)
def test_a_block_that_is_not_what_is_said_of_it_is_refused(ebs: Ebs, wrong: dict[str, Any]) -> None:
    snapshot = ebs.start()
    with pytest.raises(ClientError):
        ebs.put(snapshot, 0, block("x"), **wrong)


def test_a_short_block_and_one_beyond_the_volume_are_refused(ebs: Ebs) -> None:
    snapshot = ebs.start()
    assert code_of(lambda: ebs.put(snapshot, 0, b"short")) == "ValidationException"
    assert code_of(lambda: ebs.put(snapshot, 2048, block("x"))) == "ValidationException"


@pytest.mark.parametrize(
    "wrong", [{"ChangedBlocksCount": 2}, {"Checksum": checksum(b"other")}], ids=["count", "aggregate"]
)
def test_a_snapshot_is_not_completed_with_a_wrong_account_of_it(ebs: Ebs, wrong: dict[str, Any]) -> None:
    snapshot = ebs.start()
    ebs.put(snapshot, 0, block("x"))
    assert code_of(lambda: ebs.complete(snapshot, {0: block("x")}, **wrong)) == "ValidationException"
    ebs.complete(snapshot, {0: block("x")})


def test_nothing_is_put_into_a_complete_snapshot(ebs: Ebs) -> None:
    snapshot = ebs.made(BLOCKS)
    assert code_of(lambda: ebs.put(snapshot, 1, block("x"))) == "ValidationException"
    assert code_of(lambda: ebs.complete(snapshot, BLOCKS)) == "ValidationException"


def test_a_client_token_gives_the_same_snapshot_and_no_other_request(ebs: Ebs) -> None:
    token = uuid.uuid4().hex
    first = ebs.start(ClientToken=token)
    assert ebs.start(ClientToken=token) == first
    assert code_of(lambda: ebs.start(gib=2, ClientToken=token)) == "ConflictException"
    assert ebs.start(ClientToken=uuid.uuid4().hex) != first


def test_a_block_is_given_for_its_own_token_only(ebs: Ebs) -> None:
    snapshot = ebs.made(BLOCKS)
    first, second, _ = ebs.listed(snapshot)
    asked = {"SnapshotId": snapshot, "BlockIndex": first["BlockIndex"], "BlockToken": second["BlockToken"]}
    assert code_of(lambda: ebs.api.get_snapshot_block(**asked)) == "ValidationException"
    asked = {"SnapshotId": snapshot, "BlockIndex": 9, "BlockToken": second["BlockToken"]}
    assert code_of(lambda: ebs.api.get_snapshot_block(**asked)) == "ResourceNotFoundException"


def test_a_snapshot_that_does_not_exist_is_not_found(ebs: Ebs) -> None:
    assert code_of(lambda: ebs.listed("snap-00000000000000000")) == "ResourceNotFoundException"


def test_a_child_has_its_parents_blocks_and_counts_its_own(ebs: Ebs) -> None:
    parent = ebs.made(BLOCKS)
    child = ebs.made({7: block("c"), 9: block("d")}, ParentSnapshotId=parent)
    assert ebs.read(child) == {**BLOCKS, 7: block("c"), 9: block("d")}
    assert ebs.read(parent) == BLOCKS


@pytest.mark.parametrize("wrong", [{"Encrypted": True}, {"KmsKeyArn": "arn:aws:kms:eu-central-1:111122223333:key/x"}])
def test_encryption_is_not_asked_for_beside_a_parent(ebs: Ebs, wrong: dict[str, Any]) -> None:
    parent = ebs.made(BLOCKS)
    assert code_of(lambda: ebs.start(ParentSnapshotId=parent, **wrong)) == "ValidationException"


def test_a_child_is_encrypted_as_its_parent_is(ebs: Ebs) -> None:
    key = "arn:aws:kms:eu-central-1:111122223333:key/0123"
    parent = ebs.made(BLOCKS, Encrypted=True, KmsKeyArn=key)
    child = ebs.made({}, ParentSnapshotId=parent)
    (found,) = ebs.ec2.describe_snapshots(SnapshotIds=[child])["Snapshots"]
    assert (found["Encrypted"], found["KmsKeyId"]) == (True, key)
    (plain,) = ebs.ec2.describe_snapshots(SnapshotIds=[ebs.made({}, ParentSnapshotId=ebs.made(BLOCKS))])["Snapshots"]
    assert not plain["Encrypted"]


def test_an_account_that_encrypts_by_default_takes_no_parent_that_is_not(ebs: Ebs) -> None:
    plain = ebs.made(BLOCKS)
    ebs.ec2.enable_ebs_encryption_by_default()
    try:
        assert code_of(lambda: ebs.start(ParentSnapshotId=plain)) == "ValidationException"
        encrypted = ebs.made(BLOCKS)
        assert ebs.read(ebs.made({}, ParentSnapshotId=encrypted)) == BLOCKS
    finally:
        ebs.ec2.disable_ebs_encryption_by_default()


def test_a_child_may_be_larger_than_its_parent_and_not_smaller(ebs: Ebs) -> None:
    parent = ebs.made(BLOCKS, gib=2)
    assert code_of(lambda: ebs.start(gib=1, ParentSnapshotId=parent)) == "ValidationException"
    assert ebs.read(ebs.made({5000: block("d")}, gib=3, ParentSnapshotId=parent)) == {**BLOCKS, 5000: block("d")}


def test_changed_blocks_are_those_that_differ_added_and_removed_ones_too(ebs: Ebs) -> None:
    old = ebs.made({0: block("a"), 1: block("b"), 2: block("c")})
    new = ebs.made({1: block("b"), 2: block("x"), 3: block("d")})
    changed = ebs.api.list_changed_blocks(FirstSnapshotId=old, SecondSnapshotId=new)["ChangedBlocks"]
    assert [(item["BlockIndex"], "FirstBlockToken" in item, "SecondBlockToken" in item) for item in changed] == [
        (0, True, False),
        (2, True, True),
        (3, False, True),
    ]
    all_of_it = ebs.api.list_changed_blocks(SecondSnapshotId=new)["ChangedBlocks"]
    assert [item["BlockIndex"] for item in all_of_it] == [1, 2, 3]


def test_tags_and_key_are_those_of_the_snapshot_in_ec2(ebs: Ebs) -> None:
    key = "arn:aws:kms:eu-central-1:111122223333:key/0123"
    snapshot = ebs.start(Tags=[{"Key": "bundle:ami", "Value": "x"}], Encrypted=True, KmsKeyArn=key)
    (found,) = ebs.ec2.describe_snapshots(Filters=[{"Name": "tag:bundle:ami", "Values": ["x"]}])["Snapshots"]
    assert (found["SnapshotId"], found["Encrypted"], found["VolumeSize"]) == (snapshot, True, 1)


def test_an_image_is_registered_from_complete_snapshots_only(ebs: Ebs) -> None:
    def register(snapshot: str) -> str:
        mapping = {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot}}
        name = f"image-{uuid.uuid4().hex}"
        asked = {"RootDeviceName": "/dev/xvda", "BlockDeviceMappings": [mapping], "Architecture": "x86_64"}
        return str(ebs.ec2.register_image(Name=name, **asked)["ImageId"])

    pending = ebs.start()
    assert code_of(lambda: register(pending)) == "IncorrectState"
    ebs.complete(pending, {}, Checksum=checksum(b""))
    (image,) = ebs.ec2.describe_images(ImageIds=[register(pending)])["Images"]
    assert image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"] == pending
