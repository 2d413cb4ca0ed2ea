"""AMIs and snapshots of the lab through our adapter; boto3 says what is true."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from bundler.adapters.aws.clients import Service
from bundler.adapters.aws.ec2_images import Ec2Images
from bundler.domain.ami import AmiAttributes, AmiDevice
from bundler.domain.machine_image import FoundImage, ImageCopy, NewImage, attributes_of
from bundler.errors import AccessError, NetworkError, RejectedError
from bundler.retry import Patience
from tests.loopback.aws.conftest import Closed, odd_service
from tests.peers import boto_client

pytestmark = pytest.mark.loopback
ATTRIBUTES = AmiAttributes(
    root_device="/dev/xvda",
    devices=(
        AmiDevice(device="/dev/xvda", size=3, volume_type="gp3", iops=4000, throughput=250),
        AmiDevice(device="/dev/xvdb", size=20, volume_type="io2", iops=200),
    ),
    ena_support=True,
    boot_mode="uefi-preferred",
    sriov_net_support="simple",
    imds_support="v2.0",
    tpm_support="v2.0",
    uefi_data="QU1aTlVFRkk=",
)
PLAIN = AmiAttributes(root_device="/dev/sda1", devices=(AmiDevice(device="/dev/sda1", size=1),), ena_support=False)


@pytest.fixture
def images(services: Callable[[str], Service]) -> Ec2Images:
    return Ec2Images(services("ec2"))


@pytest.fixture
def ec2(closed: Closed) -> Any:
    return boto_client(closed.lab, "ec2")


def snapshot(ec2: Any, gib: int = 1) -> str:
    volume = ec2.create_volume(Size=gib, AvailabilityZone=f"{ec2.meta.region_name}a")["VolumeId"]
    made = ec2.create_snapshot(VolumeId=volume, Description="Created by CreateImage(i-0) for ami-0")
    return str(made["SnapshotId"])


def new(ec2: Any, attributes: AmiAttributes = PLAIN, **more: object) -> NewImage:
    """What a lab that others use as well has under this name is this one alone."""
    given = {
        "name": f"ami-{uuid.uuid4().hex}",
        "description": "a test",
        "architecture": "amd64",
        "attributes": attributes,
        "snapshots": {one.device: snapshot(ec2) for one in attributes.devices},
        "tags": {"bundle:test": uuid.uuid4().hex, "empty": ""},
        **more,
    }
    return NewImage(**given)  # type: ignore[arg-type]


def made_of(image: FoundImage) -> list[str]:
    return [one.snapshot for one in image.snapshots]


def made(images: Ec2Images, ec2: Any, attributes: AmiAttributes = PLAIN, **more: object) -> FoundImage:
    found = images.image(images.register(new(ec2, attributes, **more)))
    assert found is not None
    return found


def test_an_image_is_registered_with_every_attribute_and_read_back(images: Ec2Images, ec2: Any, closed: Closed) -> None:
    wanted = new(ec2, ATTRIBUTES, architecture="arm64")
    ami = images.register(wanted)
    (true,) = ec2.describe_images(ImageIds=[ami])["Images"]
    assert (true["Name"], true["Description"], true["Architecture"]) == (wanted.name, "a test", "arm64")
    assert (true["RootDeviceName"], true["VirtualizationType"], true["EnaSupport"]) == ("/dev/xvda", "hvm", True)
    assert (true["BootMode"], true["SriovNetSupport"]) == ("uefi-preferred", "simple")
    assert (true["ImdsSupport"], true["TpmSupport"]) == ("v2.0", "v2.0")
    assert {tag["Key"]: tag["Value"] for tag in true["Tags"]} == wanted.tags
    data = ec2.describe_image_attribute(ImageId=ami, Attribute="uefiData")
    assert data["UefiData"]["Value"] == ATTRIBUTES.uefi_data
    mappings = {item["DeviceName"]: item["Ebs"] for item in true["BlockDeviceMappings"]}
    root, second = mappings["/dev/xvda"], mappings["/dev/xvdb"]
    assert (root["SnapshotId"], root["VolumeSize"], root["VolumeType"]) == (wanted.snapshots["/dev/xvda"], 3, "gp3")
    assert (root["Iops"], root["Throughput"], root["DeleteOnTermination"]) == (4000, 250, True)
    assert (second["VolumeSize"], second["VolumeType"], second["Iops"]) == (20, "io2", 200)
    assert "Throughput" not in second
    found = images.image(ami)
    assert found is not None
    assert attributes_of(found, uefi_data=images.uefi_data(ami)) == ATTRIBUTES
    assert (found.owner, found.architecture, found.state) == (closed.lab.account, "arm64", "available")
    assert (found.tags, found.is_public, found.product_codes) == (wanted.tags, False, ())
    assert {one.device: one.snapshot for one in found.snapshots} == wanted.snapshots


def test_what_an_image_does_not_have_is_not_said(images: Ec2Images, ec2: Any) -> None:
    found = made(images, ec2)
    (true,) = ec2.describe_images(ImageIds=[found.id])["Images"]
    assert not {"BootMode", "TpmSupport", "ImdsSupport", "SriovNetSupport"} & {
        key for key, value in true.items() if value
    }
    assert images.uefi_data(found.id) is None
    assert attributes_of(found, uefi_data=None).devices[0].device == "/dev/sda1"
    assert attributes_of(found, uefi_data=None).ena_support is False


def test_a_name_that_is_taken_and_a_snapshot_that_is_not_there_are_rejected_with_ec2s_word(
    images: Ec2Images, ec2: Any
) -> None:
    wanted = new(ec2)
    images.register(wanted)
    with pytest.raises(RejectedError) as taken:
        images.register(wanted)
    assert taken.value.code == "InvalidAMIName.Duplicate"
    missing = replace(new(ec2), snapshots={"/dev/sda1": "snap-00000000000000000"})
    with pytest.raises(RejectedError) as absent:
        images.register(missing)
    assert absent.value.code == "InvalidSnapshot.NotFound"


def test_images_are_found_by_id_name_and_tag(images: Ec2Images, ec2: Any) -> None:
    tags = {"bundle:test": uuid.uuid4().hex}
    one, other = sorted((made(images, ec2, tags=tags) for _ in range(2)), key=lambda image: (image.created, image.id))
    assert one.created.startswith("20")
    assert images.image(one.id) == one
    assert images.image("ami-00000000000000000") is None
    assert images.own_named(one.name) == one
    assert images.own_named("nobody's") is None
    assert images.own_tagged("bundle:test", tags["bundle:test"]) == (one, other)
    assert images.own_tagged("bundle:test", "none") == ()


def test_an_image_without_snapshot_has_no_devices(images: Ec2Images, ec2: Any) -> None:
    mappings = [{"DeviceName": "/dev/sda1", "VirtualName": "ephemeral0"}]
    ami = ec2.register_image(Name=uuid.uuid4().hex, RootDeviceName="/dev/sda1", BlockDeviceMappings=mappings)["ImageId"]
    found = images.image(ami)
    assert found is not None
    assert found.devices == ()


def copy_of(source: FoundImage, closed: Closed, **more: object) -> ImageCopy:
    return ImageCopy(
        source=source.id,
        region=closed.site.region,
        name=f"copy-{uuid.uuid4().hex}",
        token=uuid.uuid4().hex,
        tags={"bundle:bake": "sha256:1"},
        **more,  # type: ignore[arg-type]
    )


def test_a_copy_has_its_tags_on_image_and_snapshots_and_a_token_gives_it_once(
    images: Ec2Images, ec2: Any, closed: Closed
) -> None:
    source = made(images, ec2, ATTRIBUTES)
    wanted = copy_of(source, closed)
    ami = images.copy(wanted)
    assert images.copy(wanted) == ami
    found = images.image(ami)
    assert found is not None
    assert (found.name, found.tags) == (wanted.name, wanted.tags)
    assert attributes_of(found, uefi_data=images.uefi_data(ami)) == ATTRIBUTES
    ids = [one.snapshot for one in found.snapshots]
    assert not set(ids) & {one.snapshot for one in source.snapshots}
    assert all(one.tags == wanted.tags for one in images.snapshots(ids).values())


def test_a_copy_with_a_key_is_encrypted_with_it(images: Ec2Images, ec2: Any, closed: Closed) -> None:
    key = boto_client(closed.lab, "kms").create_key()["KeyMetadata"]["Arn"]
    found = images.image(images.copy(copy_of(made(images, ec2), closed, kms_key=key)))
    assert found is not None
    (true,) = ec2.describe_snapshots(SnapshotIds=[found.snapshots[0].snapshot])["Snapshots"]
    assert (true["Encrypted"], true["KmsKeyId"]) == (True, key)


def test_snapshots_are_found_with_owner_state_and_tags(images: Ec2Images, ec2: Any, closed: Closed) -> None:
    one, value = snapshot(ec2), uuid.uuid4().hex
    images.tag([one], {"bundle:test": value})
    found = images.snapshots([one, "snap-00000000000000000"])
    assert set(found) == {one}
    assert (found[one].state, found[one].owner, found[one].is_encrypted) == ("completed", closed.lab.account, False)
    assert found[one].tags == {"bundle:test": value}
    assert [item.id for item in images.own_snapshots_tagged("bundle:test", value)] == [one]
    assert images.snapshots([]) == {}


def test_images_and_snapshots_are_tagged_in_one_call(images: Ec2Images, ec2: Any) -> None:
    found = made(images, ec2, tags={"kept": "1"})
    ids = [found.id, found.snapshots[0].snapshot]
    images.tag(ids, {"bundle:bake": "x"})
    tags = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": ids}])["Tags"]
    assert {(tag["ResourceId"], tag["Key"], tag["Value"]) for tag in tags} == {
        (ids[0], "kept", "1"), (ids[0], "bundle:bake", "x"), (ids[1], "bundle:bake", "x"),
    }  # fmt: skip


def test_an_image_goes_with_its_snapshots_and_may_be_gone_already(images: Ec2Images, ec2: Any) -> None:
    found = made(images, ec2, ATTRIBUTES)
    images.remove(found, made_of(found))
    images.remove(found, made_of(found))
    assert images.image(found.id) is None
    assert images.snapshots([one.snapshot for one in found.snapshots]) == {}


def test_own_images_are_found_by_a_part_of_their_name(images: Ec2Images, ec2: Any) -> None:
    base = f"like-{uuid.uuid4().hex}"
    first = made(images, ec2, name=base)
    second = made(images, ec2, name=f"{base}-2")
    assert {one.id for one in images.own_like(f"{base}*")} == {first.id, second.id}
    assert images.own_like(f"{base}-3*") == ()


def test_who_else_may_launch_an_image_is_told(images: Ec2Images, ec2: Any) -> None:
    found = made(images, ec2)
    assert images.launch_permissions(found.id) == ()
    ec2.modify_image_attribute(ImageId=found.id, LaunchPermission={"Add": [{"UserId": "210987654321"}]})
    assert images.launch_permissions(found.id) == ("210987654321",)
    ec2.modify_image_attribute(ImageId=found.id, LaunchPermission={"Add": [{"Group": "all"}]})
    assert set(images.launch_permissions(found.id)) == {"210987654321", "all"}
    assert images.launch_permissions("ami-00000000000000000") == ()


def test_snapshots_that_no_image_has_any_more_are_found_by_their_tag(images: Ec2Images, ec2: Any) -> None:
    value = uuid.uuid4().hex
    used, gone = made(images, ec2), made(images, ec2)
    ids = {one.id: one.snapshots[0].snapshot for one in (used, gone)}
    images.tag(ids.values(), {"bundle:test": value})
    assert images.orphans("bundle:test", value) == ()
    ec2.deregister_image(ImageId=gone.id)
    assert images.orphans("bundle:test", value) == (ids[gone.id],)
    assert images.delete_snapshot(ids[gone.id])
    assert images.delete_snapshot(ids[gone.id]), "gone already"
    assert not images.delete_snapshot(ids[used.id])
    assert images.orphans("bundle:test", value) == ()
    volume = ec2.create_volume(Size=1, AvailabilityZone=f"{ec2.meta.region_name}a")["VolumeId"]
    data = ec2.create_snapshot(VolumeId=volume, Description="what users wrote")["SnapshotId"]
    images.tag([data], {"bundle:test": value})
    assert images.orphans("bundle:test", value) == (), "a tag may have been copied; EC2 did not make it for an AMI"


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.wakes: list[Callable[[], object]] = []

    def patience(self) -> Patience:
        return Patience(clock=lambda: self.now, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        for wake in self.wakes:
            wake()


class HeldService:
    """EC2 that holds snapshots for a moment after DeregisterImage, which the lab does not."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._looks = 0
        self.holds = True

    def release(self, *, after: int) -> None:
        self._looks += 1
        self.holds = self._looks < after

    def call(self, operation: str, **parameters: Any) -> None:
        if operation == "DeleteSnapshot" and self.holds:
            error = RejectedError(str(parameters["about"]), "is currently in use")
            error.code = "InvalidSnapshot.InUse"
            raise error
        self._service.call(operation, **parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)


@pytest.mark.parametrize("is_released", [True, False])
def test_a_snapshot_that_ec2_holds_a_moment_longer_is_waited_for_a_minute(
    services: Callable[[str], Service], ec2: Any, is_released: bool
) -> None:
    clock, service = Clock(), HeldService(services("ec2"))
    images = Ec2Images(service, clock.patience())  # type: ignore[arg-type]
    found = made(images, ec2)
    (held,) = (one.snapshot for one in found.snapshots)
    if is_released:
        clock.wakes.append(lambda: service.release(after=4))
    assert images.remove(found, made_of(found)) == (() if is_released else (held,))
    assert clock.now == (12.0 if is_released else pytest.approx(63.0))
    assert (images.snapshots([held]) == {}) is is_released


def test_a_snapshot_that_another_image_uses_stays(images: Ec2Images, ec2: Any) -> None:
    wanted = new(ec2)
    first, second = (images.image(images.register(replace(wanted, name=uuid.uuid4().hex))) for _ in range(2))
    assert first is not None
    assert second is not None
    images.remove(first, made_of(first))
    assert images.snapshots([first.snapshots[0].snapshot]), "the other one still begins with it"
    assert images.image(second.id) == second


def test_encryption_by_default_is_the_accounts(images: Ec2Images, ec2: Any) -> None:
    assert images.encrypts_by_default() is False
    ec2.enable_ebs_encryption_by_default()
    try:
        assert images.encrypts_by_default() is True
    finally:
        ec2.disable_ebs_encryption_by_default()


CALLS: Mapping[str, Callable[[Ec2Images, FoundImage], object]] = {
    "DescribeImages": lambda images, found: images.image(found.id),
    "DescribeImageAttribute": lambda images, found: images.uefi_data(found.id),
    "DescribeSnapshots": lambda images, found: images.snapshots([found.snapshots[0].snapshot]),
    "GetEbsEncryptionByDefault": lambda images, found: images.encrypts_by_default(),
    "CreateTags": lambda images, found: images.tag([found.id], {"a": "b"}),
    "CopyImage": lambda images, found: images.copy(
        ImageCopy(
            source=found.id, region="eu-central-1", name=uuid.uuid4().hex, token=uuid.uuid4().hex, tags={"a": "b"}
        )
    ),
    "DeregisterImage": lambda images, found: images.remove(found, made_of(found)),
    "DeleteSnapshot": lambda images, found: images.remove(found, made_of(found)),
}


@pytest.mark.parametrize("operation", CALLS)
def test_who_is_denied_is_told_the_permission(closed: Closed, images: Ec2Images, ec2: Any, operation: str) -> None:
    found = made(images, ec2)
    closed.fault("ec2", operation, "denied", times=100)
    with pytest.raises(AccessError, match=f"ec2:{operation}") as caught:
        CALLS[operation](images, found)
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["throttled", "reset", "unavailable"])
@pytest.mark.parametrize("operation", CALLS)
def test_a_service_that_stumbles_is_asked_again(
    closed: Closed, images: Ec2Images, ec2: Any, operation: str, kind: str
) -> None:
    found = made(images, ec2)
    closed.fault("ec2", operation, kind)
    CALLS[operation](images, found)


def odd(answer: object) -> Ec2Images:
    return Ec2Images(odd_service(answer))


LEAST = {"ImageId": "ami-1", "OwnerId": "111122223333", "Architecture": "x86_64"}


@pytest.mark.parametrize("lost", LEAST)
def test_an_answer_without_what_the_api_promises_is_a_network_error(lost: str) -> None:
    answer = {"Images": [{key: value for key, value in LEAST.items() if key != lost}]}
    with pytest.raises(NetworkError, match="lacks what the API promises"):
        odd(answer).image("ami-1")


@pytest.mark.parametrize(
    "mapping",
    [{"Ebs": {"SnapshotId": "snap-1", "VolumeSize": 1}}, {"DeviceName": "/dev/x", "Ebs": {"SnapshotId": "snap-1"}}],
)
def test_a_device_without_name_or_size_is_a_network_error(mapping: object) -> None:
    with pytest.raises(NetworkError):
        odd({"Images": [{**LEAST, "BlockDeviceMappings": [mapping]}]}).image("ami-1")


def test_what_ec2_leaves_out_is_what_it_means() -> None:
    found = odd({"Images": [{**LEAST, "Architecture": "i386", "ProductCodes": [{"ProductCodeId": "abc"}]}]}).image("x")
    assert found is not None
    assert (found.architecture, found.product_codes, found.is_public) == ("i386", ("abc",), False)
    assert (found.boot_mode, found.tags, found.devices, found.state) == (None, {}, (), "unknown")
    assert odd({}).image("x") is None
    assert odd({"UefiData": {}}).uefi_data("x") is None


def test_of_several_images_the_newest_comes_last() -> None:
    dates = ("2026-03-01T00:00:00.000Z", "2026-01-01T00:00:00.000Z", "2026-02-01T00:00:00.000Z")
    found = [{**LEAST, "ImageId": f"ami-{number}", "CreationDate": date} for number, date in enumerate(dates)]
    assert [one.id for one in odd({"Images": found}).own_tagged("a", "b")] == ["ami-1", "ami-2", "ami-0"]
