"""The lab's AMIs and snapshots, driven with boto3 (EC2 API reference); instances here are no machines."""

from __future__ import annotations

import base64
import hashlib
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from bundler.domain.blocks import BLOCK_BYTES
from bundler.lab.lab import LabFacts
from tests.peers import boto_client, lab_control

pytestmark = pytest.mark.loopback
OTHER = "210987654321"
UEFI = base64.b64encode(b"AMZNUEFI").decode()
TRAITS: dict[str, Any] = {
    "Architecture": "x86_64",
    "BootMode": "uefi-preferred",
    "EnaSupport": True,
    "ImdsSupport": "v2.0",
    "TpmSupport": "v2.0",
    "SriovNetSupport": "simple",
    "VirtualizationType": "hvm",
    "RootDeviceName": "/dev/xvda",
}


class Cloud:
    """boto3's clients, and what tests do again and again."""

    def __init__(self, facts: LabFacts) -> None:
        self.facts = facts
        self.ec2 = boto_client(facts, "ec2")
        self.ebs = boto_client(facts, "ebs")

    def snapshot(self, text: str = "x", gib: int = 1) -> str:
        content = (text.encode() * BLOCK_BYTES)[:BLOCK_BYTES]
        snapshot = self.ebs.start_snapshot(VolumeSize=gib)["SnapshotId"]
        sha256 = base64.b64encode(hashlib.sha256(content).digest()).decode()
        asked = {"DataLength": BLOCK_BYTES, "Checksum": sha256, "ChecksumAlgorithm": "SHA256"}
        self.ebs.put_snapshot_block(SnapshotId=snapshot, BlockIndex=3, BlockData=content, **asked)
        self.ebs.complete_snapshot(SnapshotId=snapshot, ChangedBlocksCount=1)
        return str(snapshot)

    def registered(self, **more: Any) -> str:
        mapping = {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": self.snapshot(), "VolumeType": "gp3"}}
        asked = {"Name": unique(), "BlockDeviceMappings": [mapping], **TRAITS, **more}
        return str(self.ec2.register_image(**asked)["ImageId"])

    def image(self, image_id: str) -> dict[str, Any]:
        return dict(self.ec2.describe_images(ImageIds=[image_id])["Images"][0])

    def snapshot_of(self, image_id: str) -> str:
        return str(self.image(image_id)["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"])

    def attribute(self, image_id: str, attribute: str) -> dict[str, Any]:
        answer = self.ec2.describe_image_attribute(ImageId=image_id, Attribute=attribute)
        return {name: value for name, value in answer.items() if name not in ("ImageId", "ResponseMetadata")}

    def read(self, snapshot: str) -> dict[int, bytes]:
        listed = self.ebs.list_snapshot_blocks(SnapshotId=snapshot)["Blocks"]
        return {
            block["BlockIndex"]: self.ebs.get_snapshot_block(SnapshotId=snapshot, **block)["BlockData"].read()
            for block in listed
        }

    def volume_permissions(self, snapshot: str) -> list[dict[str, str]]:
        asked = {"SnapshotId": snapshot, "Attribute": "createVolumePermission"}
        return list(self.ec2.describe_snapshot_attribute(**asked)["CreateVolumePermissions"])


@pytest.fixture(scope="module")
def cloud(lab: LabFacts) -> Cloud:
    return Cloud(lab)


def unique() -> str:
    return f"image-{uuid.uuid4().hex}"


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as failed:
        call()
    return str(failed.value.response["Error"]["Code"])


def test_a_registered_image_reads_back_as_it_was_written(cloud: Cloud) -> None:
    image_id = cloud.registered(UefiData=UEFI, Description="a test")
    image = cloud.image(image_id)
    assert {name: image[name] for name in TRAITS} == TRAITS
    assert (image["OwnerId"], image["Public"], image["Description"]) == (cloud.facts.account, False, "a test")
    assert "UefiData" not in image
    values = {
        "uefiData": {"UefiData": {"Value": UEFI}},
        "tpmSupport": {"TpmSupport": {"Value": "v2.0"}},
        "imdsSupport": {"ImdsSupport": {"Value": "v2.0"}},
        "bootMode": {"BootMode": {"Value": "uefi-preferred"}},
        "sriovNetSupport": {"SriovNetSupport": {"Value": "simple"}},
        "description": {"Description": {"Value": "a test"}},
        "launchPermission": {"LaunchPermissions": []},
    }
    assert {name: cloud.attribute(image_id, name) for name in values} == values


def test_what_was_not_registered_is_not_made_up(cloud: Cloud) -> None:
    mapping = {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": cloud.snapshot()}}
    asked = {"Name": unique(), "RootDeviceName": "/dev/xvda", "BlockDeviceMappings": [mapping]}
    image_id = cloud.ec2.register_image(**asked)["ImageId"]
    assert not {"BootMode", "TpmSupport", "ImdsSupport", "SriovNetSupport"} & cloud.image(image_id).keys()
    assert cloud.attribute(image_id, "uefiData") in ({}, {"UefiData": {}})


def test_an_image_brings_no_snapshot_but_its_own(cloud: Cloud) -> None:
    before = {item["SnapshotId"] for item in cloud.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]}
    image_id = cloud.registered()
    after = {item["SnapshotId"] for item in cloud.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]}
    assert after - before == {cloud.snapshot_of(image_id)}


def test_block_devices_are_no_attribute_any_more(cloud: Cloud) -> None:
    image_id = cloud.registered()
    assert code_of(lambda: cloud.attribute(image_id, "blockDeviceMapping")) == "AuthFailure"


def test_images_are_found_by_owner_filter_and_tag(cloud: Cloud) -> None:
    name = unique()
    tags = [{"ResourceType": "image", "Tags": [{"Key": "bundle:ami", "Value": name}]}]
    image_id = cloud.registered(Name=name, TagSpecifications=tags)
    for asked in (
        {"Owners": ["self"], "Filters": [{"Name": "name", "Values": [name]}]},
        {"Owners": [cloud.facts.account], "Filters": [{"Name": "tag:bundle:ami", "Values": [name]}]},
        {"Filters": [{"Name": "name", "Values": [f"{name[:-1]}*"]}, {"Name": "is-public", "Values": ["false"]}]},
    ):
        assert [item["ImageId"] for item in cloud.ec2.describe_images(**asked)["Images"]] == [image_id]
    for owner in ("amazon", OTHER):
        assert image_id not in {item["ImageId"] for item in cloud.ec2.describe_images(Owners=[owner])["Images"]}
    assert cloud.ec2.describe_images(ImageIds=[image_id], Owners=["amazon"])["Images"] == []


def test_tags_may_come_later(cloud: Cloud) -> None:
    image_id = cloud.registered()
    resources = [image_id, cloud.snapshot_of(image_id)]
    cloud.ec2.create_tags(Resources=resources, Tags=[{"Key": "bundle:late", "Value": image_id}])
    assert cloud.image(image_id)["Tags"] == [{"Key": "bundle:late", "Value": image_id}]
    found = cloud.ec2.describe_snapshots(Filters=[{"Name": "tag:bundle:late", "Values": [image_id]}])["Snapshots"]
    assert [item["SnapshotId"] for item in found] == resources[1:]


def test_a_name_is_taken_once(cloud: Cloud) -> None:
    name = unique()
    image_id = cloud.registered(Name=name)
    copying = {"SourceImageId": image_id, "SourceRegion": cloud.facts.region, "Name": name}
    assert code_of(lambda: cloud.registered(Name=name)) == "InvalidAMIName.Duplicate"
    assert code_of(lambda: cloud.ec2.copy_image(**copying)) == "InvalidAMIName.Duplicate"
    cloud.ec2.deregister_image(ImageId=image_id)
    cloud.registered(Name=name)


def test_an_image_that_is_deregistered_is_gone_and_its_snapshot_is_free(cloud: Cloud) -> None:
    image_id = cloud.registered()
    snapshot = cloud.snapshot_of(image_id)
    assert code_of(lambda: cloud.ec2.delete_snapshot(SnapshotId=snapshot)) == "InvalidSnapshot.InUse"
    cloud.ec2.deregister_image(ImageId=image_id)
    assert code_of(lambda: cloud.image(image_id)) == "InvalidAMIID.NotFound"
    cloud.ec2.delete_snapshot(SnapshotId=snapshot)
    assert code_of(lambda: cloud.ec2.describe_snapshots(SnapshotIds=[snapshot])) == "InvalidSnapshot.NotFound"


def test_launch_permissions_change_in_both_forms(cloud: Cloud) -> None:
    image_id = cloud.registered()
    cloud.ec2.modify_image_attribute(ImageId=image_id, LaunchPermission={"Add": [{"UserId": OTHER}]})
    assert cloud.attribute(image_id, "launchPermission") == {"LaunchPermissions": [{"UserId": OTHER}]}
    form = {"Attribute": "launchPermission", "UserIds": [OTHER]}
    cloud.ec2.modify_image_attribute(ImageId=image_id, OperationType="remove", **form)
    assert cloud.attribute(image_id, "launchPermission") == {"LaunchPermissions": []}
    cloud.ec2.modify_image_attribute(ImageId=image_id, LaunchPermission={"Add": [{"Group": "all"}]})
    assert cloud.image(image_id)["Public"] is True


def test_a_copy_has_the_same_attributes_and_blocks_and_snapshots_of_its_own(cloud: Cloud) -> None:
    source = cloud.registered(UefiData=UEFI)
    copied = cloud.ec2.copy_image(SourceImageId=source, SourceRegion=cloud.facts.region, Name=unique())["ImageId"]
    image = cloud.image(copied)
    assert {name: image[name] for name in TRAITS} == TRAITS
    assert cloud.attribute(copied, "uefiData") == {"UefiData": {"Value": UEFI}}
    assert (image["SourceImageId"], image["SourceImageRegion"]) == (source, cloud.facts.region)
    assert cloud.snapshot_of(copied) != cloud.snapshot_of(source)
    assert cloud.read(cloud.snapshot_of(copied)) == cloud.read(cloud.snapshot_of(source))


def test_a_copy_is_encrypted_on_request_and_made_once_for_a_token(cloud: Cloud) -> None:
    key = boto_client(cloud.facts, "kms").create_key()["KeyMetadata"]
    asked = {
        "SourceImageId": cloud.registered(),
        "SourceRegion": cloud.facts.region,
        "Name": unique(),
        "Encrypted": True,
        "KmsKeyId": key["KeyId"],
        "ClientToken": uuid.uuid4().hex,
    }
    copied = cloud.ec2.copy_image(**asked)["ImageId"]
    assert cloud.ec2.copy_image(**asked)["ImageId"] == copied
    (snapshot,) = cloud.ec2.describe_snapshots(SnapshotIds=[cloud.snapshot_of(copied)])["Snapshots"]
    assert (snapshot["Encrypted"], snapshot["KmsKeyId"]) == (True, key["Arn"])
    assert cloud.image(copied)["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True


def test_a_copy_has_the_tags_that_are_asked_for(cloud: Cloud) -> None:
    source = cloud.registered(TagSpecifications=[{"ResourceType": "image", "Tags": [{"Key": "a", "Value": "1"}]}])
    asked = {"SourceImageId": source, "SourceRegion": cloud.facts.region}
    plain = cloud.ec2.copy_image(**asked, Name=unique())["ImageId"]
    assert cloud.image(plain).get("Tags", []) == []
    own = [{"ResourceType": kind, "Tags": [{"Key": "b", "Value": kind}]} for kind in ("image", "snapshot")]
    tagged = cloud.ec2.copy_image(**asked, Name=unique(), CopyImageTags=True, TagSpecifications=own)["ImageId"]
    tags = {tag["Key"]: tag["Value"] for tag in cloud.image(tagged)["Tags"]}
    assert tags == {"a": "1", "b": "image"}
    (snapshot,) = cloud.ec2.describe_snapshots(SnapshotIds=[cloud.snapshot_of(tagged)])["Snapshots"]
    assert snapshot["Tags"] == [{"Key": "b", "Value": "snapshot"}]


def test_a_copied_snapshot_has_the_blocks_of_its_source(cloud: Cloud) -> None:
    source = cloud.snapshot("y")
    asked = {"SourceSnapshotId": source, "SourceRegion": cloud.facts.region}
    copied = cloud.ec2.copy_snapshot(**asked, Encrypted=True, Description="a copy")["SnapshotId"]
    assert cloud.read(copied) == cloud.read(source)
    (found,) = cloud.ec2.describe_snapshots(SnapshotIds=[copied])["Snapshots"]
    assert (found["Encrypted"], found["Description"], found["OwnerId"]) == (True, "a copy", cloud.facts.account)


def test_snapshots_are_found_by_owner(cloud: Cloud) -> None:
    snapshot = cloud.snapshot()
    for owner, is_found in (("self", True), (cloud.facts.account, True), (OTHER, False), ("amazon", False)):
        found = {item["SnapshotId"] for item in cloud.ec2.describe_snapshots(OwnerIds=[owner])["Snapshots"]}
        assert (snapshot in found) is is_found
    by_filter = cloud.ec2.describe_snapshots(Filters=[{"Name": "owner-id", "Values": [OTHER]}])["Snapshots"]
    assert by_filter == []


def test_volume_permissions_change_in_both_forms(cloud: Cloud) -> None:
    snapshot = cloud.snapshot()
    cloud.ec2.modify_snapshot_attribute(
        SnapshotId=snapshot, Attribute="createVolumePermission", CreateVolumePermission={"Add": [{"UserId": OTHER}]}
    )
    assert cloud.volume_permissions(snapshot) == [{"UserId": OTHER}]
    form = {"Attribute": "createVolumePermission", "OperationType": "remove", "UserIds": [OTHER]}
    cloud.ec2.modify_snapshot_attribute(SnapshotId=snapshot, **form)
    assert cloud.volume_permissions(snapshot) == []


def test_volume_permissions_change_as_packer_asks_for_it_in_both_forms_at_once(cloud: Cloud) -> None:
    snapshot, about = cloud.snapshot(), {"Attribute": "createVolumePermission", "UserIds": [OTHER]}
    both = {**about, "CreateVolumePermission": {"Add": [{"UserId": OTHER}]}}
    cloud.ec2.modify_snapshot_attribute(SnapshotId=snapshot, **both)
    assert cloud.volume_permissions(snapshot) == [{"UserId": OTHER}]
    assert code_of(lambda: cloud.ec2.modify_snapshot_attribute(SnapshotId=snapshot, **about)) == "MissingParameter"


def test_an_instance_has_the_volumes_of_its_image_and_an_image_of_it_has_their_blocks(cloud: Cloud) -> None:
    source = cloud.registered()
    instance = cloud.ec2.run_instances(ImageId=source, MinCount=1, MaxCount=1, InstanceType="m6i.large")["Instances"][0]
    (device,) = instance["BlockDeviceMappings"]
    (volume,) = cloud.ec2.describe_volumes(VolumeIds=[device["Ebs"]["VolumeId"]])["Volumes"]
    assert (device["DeviceName"], volume["SnapshotId"], volume["Size"]) == ("/dev/xvda", cloud.snapshot_of(source), 1)
    made = cloud.ec2.create_image(InstanceId=instance["InstanceId"], Name=unique())["ImageId"]
    image = cloud.image(made)
    assert {name: image[name] for name in TRAITS} == TRAITS
    assert cloud.read(cloud.snapshot_of(made)) == cloud.read(cloud.snapshot_of(source))
    cloud.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])


def test_encryption_by_default_is_off_and_then_copies_are_encrypted(fresh_lab: LabFacts) -> None:
    cloud = Cloud(fresh_lab)
    assert cloud.ec2.get_ebs_encryption_by_default()["EbsEncryptionByDefault"] is False
    assert cloud.ec2.get_ebs_default_kms_key_id()["KmsKeyId"] == "alias/aws/ebs"
    cloud.ec2.enable_ebs_encryption_by_default()
    asked = {"SourceSnapshotId": cloud.snapshot(), "SourceRegion": fresh_lab.region}
    copied = cloud.ec2.copy_snapshot(**asked)["SnapshotId"]
    assert cloud.ec2.describe_snapshots(SnapshotIds=[copied])["Snapshots"][0]["Encrypted"] is True


def test_an_image_is_pending_for_as_long_as_the_lab_is_told_and_nothing_starts_from_it(
    cloud: Cloud, lab: LabFacts
) -> None:
    lab_control(lab, "PATCH", "settings", {"image_pending_s": 2.0})
    try:
        made = cloud.registered()
    finally:
        lab_control(lab, "PATCH", "settings", {"image_pending_s": 0.0})
    assert cloud.image(made)["State"] == "pending"
    with pytest.raises(ClientError, match=r"InvalidAMIID\.Unavailable"):
        cloud.ec2.run_instances(ImageId=made, MinCount=1, MaxCount=1)
    assert cloud.image(cloud.registered())["State"] == "available", "those that are made later"
    deadline = time.monotonic() + 10
    while cloud.image(made)["State"] == "pending":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert cloud.image(made)["State"] == "available"
