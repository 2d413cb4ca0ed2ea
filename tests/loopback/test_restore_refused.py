"""What keeps an AMI from being restored, each with its exit code, what is said, and how the next run goes on."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.lab.kubernetes import free_ports
from bundler.lab.lab import LabFacts
from tests.fakes.amis import MadeAmi, frame_seeds, with_other_frame, with_pack
from tests.peers import lab_control
from tests.restores import RestoreSite, fresh_content

pytestmark = pytest.mark.loopback
KEY = "arn:aws:kms:eu-central-1:111122223333:key/0b5d4c0e-0000-4000-8000-000000000000"


@pytest.fixture
def site(lab: LabFacts, tmp_path: Path) -> Iterator[RestoreSite]:
    made = RestoreSite.of(lab, tmp_path)
    yield made
    made.no_faults()


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What it said, without line breaks."""
    return " ".join(done.stderr.split())


def plan(site: RestoreSite, *, expect: int) -> str:
    """`bundle install --plan`, as far as it comes without a cluster."""
    return said(site.workspace.bundle("install", str(site.archive), "--site", "site.yaml", "--trust", "trust",
                                      "--plan", "--progress", "none", expect=expect))  # fmt: skip


# --- the archive


def assert_refused(site: RestoreSite, ami: MadeAmi, cause: str) -> None:
    """A signed archive that passes `bundle verify`, whose AMI is refused with nothing registered."""
    site.pack(ami)
    site.workspace.bundle("verify", str(site.archive), "--trust", "trust")
    done = site.run(expect=3)
    assert cause in said(done)
    assert "Nothing of it was used" in said(done)
    assert site.images() == []
    assert [one["State"] for one in site.snapshots() if one["State"] == "completed"] == []


def test_a_block_in_a_pack_that_is_not_the_one_of_the_table_is_refused(site: RestoreSite) -> None:
    seeds = frame_seeds(site.ami, 3, site.content)
    assert_refused(site, with_other_frame(site.ami, 3, [*seeds[:-1], 1]), "holds another block than the table says")


def test_blocks_that_have_traded_places_in_a_pack_are_refused(site: RestoreSite) -> None:
    seeds = frame_seeds(site.ami, 3, site.content)
    assert_refused(site, with_other_frame(site.ami, 3, seeds[::-1]), "holds another block than the table says")


def test_a_pack_that_ends_too_early_is_refused(site: RestoreSite) -> None:
    last = site.ami.packed.packs[site.ami.packed.table.packs[-1]]
    assert_refused(site, with_pack(site.ami, -1, last[:-9]), "its table asks for")


def test_a_lock_that_leaves_a_pack_out_is_refused(site: RestoreSite) -> None:
    baked = site.ami.baked.model_copy(update={"packs": site.ami.baked.packs[:-1]})
    ami = MadeAmi(locked=site.ami.locked, baked=baked, packed=site.ami.packed, blobs=site.ami.blobs)
    assert_refused(site, ami, "names other packs than the lock")


# --- the site file, by bundle install itself


@pytest.mark.parametrize(
    ("group", "cause"),
    [
        ({"ami": "absent"}, "is no AMI of this bundle for amd64; it holds workers for amd64"),
        ({"architecture": "arm64", "instanceType": "m7g.large"}, "is no AMI of this bundle for arm64"),
        ({"os": "bottlerocket"}, "is of the kind bake, for os al2023; the group says bottlerocket"),
    ],
)
def test_a_node_group_that_the_ami_does_not_fit_is_a_finding(
    site: RestoreSite, group: dict[str, str], cause: str
) -> None:
    site.write_site(group=group)
    assert cause in plan(site, expect=2)


def test_a_root_volume_that_is_too_small_is_a_finding(lab: LabFacts, tmp_path: Path) -> None:
    devices = [{"device": "/dev/xvda", "size": 50}, {"device": "/dev/xvdb", "size": 1}]
    told = {"root_device": "/dev/xvda", "devices": devices}
    site = RestoreSite.of(lab, tmp_path, MadeAmi.of(fresh_content(), attributes=told))
    assert "needs a root volume of 50 GiB, the group says 40" in plan(site, expect=2)


def test_an_endpoint_for_ebs_direct_that_is_missing_is_a_finding_with_its_name_and_the_key(site: RestoreSite) -> None:
    (port,) = free_ports(1)
    endpoints = site.document["endpoints"] | {"ebs": f"http://127.0.0.1:{port}"}
    site.write_site(endpoints=endpoints)
    words = plan(site, expect=5)
    assert "EBS direct: ebs: no answer from" in words
    assert "com.amazonaws.eu-central-1.ebs" in words
    assert "`endpoints: {ebs: https://vpce-…}`" in words
    assert "1 check failed" in words
    site.write_site(endpoints=endpoints, restore={"route": "copy"})
    assert "EBS direct" not in plan(site, expect=6), "the route copy does not need it; this kubectl does nothing"


# --- AWS


@pytest.mark.parametrize(
    ("service", "operation"),
    [("ebs", "StartSnapshot"), ("ebs", "PutSnapshotBlock"), ("ebs", "CompleteSnapshot"), ("ec2", "RegisterImage")],
)
def test_a_permission_that_is_missing_is_named_and_with_it_the_next_run_finishes(
    site: RestoreSite, service: str, operation: str
) -> None:
    site.fault(operation, "denied", service=service, times=1000)
    words = said(site.run(expect=4))
    assert f"{service}:{operation}" in words
    assert f"Allow {service}:{operation}" in words
    site.no_faults()
    site.run()
    site.assert_whole()


@pytest.mark.parametrize("moment", [("ebs", "StartSnapshot"), ("ec2", "RegisterImage")])
def test_a_key_that_may_not_be_used_is_named(lab: LabFacts, tmp_path: Path, moment: tuple[str, str]) -> None:
    """AWS says of a key that it may not use what it says of a missing permission (EBS user guide, encryption)."""
    site = RestoreSite.of(lab, tmp_path, restore={"kmsKey": KEY})
    site.fault(moment[1], "denied", service=moment[0], times=1000)
    assert f"{moment[0]}:{moment[1]}" in said(site.run(expect=4))
    site.no_faults()
    site.run()
    site.assert_whole()
    assert {one["KmsKeyId"] for one in site.snapshots()} == {KEY}


def test_an_account_that_encrypts_by_default_gets_encrypted_snapshots_of_the_same_blocks(site: RestoreSite) -> None:
    ec2 = site.aws("ec2")
    ec2.enable_ebs_encryption_by_default()
    try:
        site.run()
    finally:
        ec2.disable_ebs_encryption_by_default()
    site.assert_whole()
    assert all(one["Encrypted"] for one in site.snapshots())


@pytest.mark.parametrize("kind", ["throttled", "unavailable", "reset"])
def test_a_storm_is_weathered(site: RestoreSite, kind: str) -> None:
    for operation in ("StartSnapshot", "PutSnapshotBlock", "CompleteSnapshot"):
        site.fault(operation, kind, times=60, spare=3)
    site.fault("RegisterImage", kind, service="ec2", times=2)
    site.run()
    site.assert_whole()


def test_a_block_that_arrives_damaged_is_a_conflict_and_the_next_run_finishes(site: RestoreSite) -> None:
    site.fault("PutSnapshotBlock", "damaged", nth=40)
    words = said(site.run(expect=7))
    assert "The checksum does not match the data" in words
    assert "Run the same command again" in words
    site.run()
    site.assert_whole()


def test_a_snapshot_that_goes_to_error_while_it_is_written_is_begun_anew_and_the_next_run_says_so(
    site: RestoreSite,
) -> None:
    assert site.run(die="put:30:after", expect=None).returncode == -9
    failed = fail_snapshot(site, "/dev/xvda", "the key is disabled")
    done = site.run()
    assert f"anew: {failed} went to error" in done.stdout
    (image,) = site.images()
    used = {one["Ebs"]["SnapshotId"] for one in image["BlockDeviceMappings"]}
    states = {one["SnapshotId"]: one["State"] for one in site.snapshots()}
    assert states == {failed: "error", **dict.fromkeys(used, "completed")}
    assert len(used) == 2


def test_a_snapshot_that_goes_to_error_under_the_run_ends_it_and_the_next_one_finishes(site: RestoreSite) -> None:
    site.fault("PutSnapshotBlock", "slow", nth=40, times=10, delay_s=3)
    before = site.calls("PutSnapshotBlock")
    with site.started() as process:
        while site.calls("PutSnapshotBlock") < before + 20:
            assert process.poll() is None
            time.sleep(0.05)
        fail_snapshot(site, "/dev/xvda", "gone")
        assert process.wait(60) == 7
    site.no_faults()
    site.run()
    (image,) = site.images()
    assert len(image["BlockDeviceMappings"]) == 2


def fail_snapshot(site: RestoreSite, device: str, why: str) -> str:
    """Let the snapshot of a device go to error; return its id."""
    (name,) = [
        one["SnapshotId"]
        for one in site.snapshots()
        if {"Key": "bundle:ami-device", "Value": device} in one["Tags"] and one["State"] == "pending"
    ]
    lab_control(site.facts, "POST", "snapshots/fail", {"id": name, "why": why})
    (found,) = site.aws("ec2").describe_snapshots(SnapshotIds=[name])["Snapshots"]
    assert (found["State"], found["StateMessage"]) == ("error", why)
    return str(name)


def test_a_name_that_another_ami_has_is_a_conflict_that_says_whose_and_how_to_give_it_back(site: RestoreSite) -> None:
    ec2 = site.aws("ec2")
    other = ec2.register_image(Name=site.wanted.name, Architecture="x86_64", RootDeviceName="/dev/xvda")["ImageId"]
    writes = site.writes()
    words = said(site.run(expect=7))
    assert f"AMI name {site.wanted.name} cause: is taken by {other}, which this tool did not register" in words
    assert f"aws ec2 deregister-image --image-id {other}" in words
    assert site.writes() == writes, "it is noticed before a block is put"
    ec2.deregister_image(ImageId=other)
    site.run()
    site.assert_whole()


def test_an_ami_and_snapshots_that_somebody_removed_are_made_again(site: RestoreSite) -> None:
    """Their client tokens give the old ids for as long as AWS knows them."""
    site.run()
    ec2 = site.aws("ec2")
    (image,) = site.images()
    ec2.deregister_image(ImageId=image["ImageId"])
    for one in image["BlockDeviceMappings"]:
        ec2.delete_snapshot(SnapshotId=one["Ebs"]["SnapshotId"])
    done = site.run("--visible", "2")
    assert "is not there any more: beginning another one" in done.stderr
    site.assert_whole()


def test_snapshots_of_a_route_that_shares_are_not_needed(lab: LabFacts, tmp_path: Path) -> None:
    site = RestoreSite.of(lab, tmp_path, restore={"route": "share"})
    words = said(site.run(expect=2))
    assert "was built in eu-west-1; the route share uses it there only" in words
