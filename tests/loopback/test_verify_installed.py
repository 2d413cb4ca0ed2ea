"""`bundle verify --installed` against the lab: what somebody changed after the install is found."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.lab.lab import LabFacts
from tests.contract.test_ebs import Ebs
from tests.fakes.amis import block
from tests.restores import RestoreSite, read_blocks

pytestmark = pytest.mark.loopback
TOLD = ("Architecture", "RootDeviceName", "VirtualizationType", "EnaSupport", "BootMode", "ImdsSupport")


@pytest.fixture
def site(lab: LabFacts, tmp_path: Path) -> Iterator[RestoreSite]:
    """A site whose AMI is restored and whose images are pushed, below a prefix of its own."""
    prefix = f"p{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}"
    made = RestoreSite.of(lab, tmp_path, registry={"prefix": prefix})
    made.run()
    made.push()
    yield made
    made.no_faults()


def said(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join(done.stderr.split())


def tampered(site: RestoreSite, device: str, number: int, content: bytes) -> str:
    """Deregister the AMI and register another under its name and tags, one block of which is other; return its id.

    This is what somebody does who may use EC2 and EBS direct: a snapshot that is complete cannot be changed.
    """
    ebs = Ebs(site.facts)
    (image,) = site.images()
    mappings = image["BlockDeviceMappings"]
    for mapping in mappings:
        if mapping["DeviceName"] == device:
            blocks = {**read_blocks(ebs.api, mapping["Ebs"]["SnapshotId"]), number: content}
            mapping["Ebs"]["SnapshotId"] = ebs.made(blocks)
        mapping["Ebs"].pop("Encrypted", None)
    ebs.ec2.deregister_image(ImageId=image["ImageId"])
    made = ebs.ec2.register_image(
        Name=image["Name"],
        Description=image["Description"],
        BlockDeviceMappings=mappings,
        TagSpecifications=[{"ResourceType": "image", "Tags": image["Tags"]}],
        **{key: image[key] for key in TOLD},
    )
    return str(made["ImageId"])


def test_a_site_that_is_as_it_was_installed_is_right(site: RestoreSite) -> None:
    (image,) = site.images()
    writes = site.writes()
    done = site.verify("--progress", "plain")
    assert f"workers amd64 is {image['ImageId']}: 63 blocks, all of them right." in done.stdout
    assert "4 images and charts are what the lock says." in done.stdout
    assert re.search(r"read-back +33\.0 MB", done.stderr)
    found = json.loads(site.verify("-o", "json").stdout)
    assert found["installed"] == {
        "amis": [{"name": "workers", "architecture": "amd64", "ami": image["ImageId"], "blocks": 63}],
        "references": 4,
        "findings": [],
    }
    assert site.writes() == writes


def test_a_block_that_somebody_changed_is_found_and_named(site: RestoreSite) -> None:
    name = tampered(site, "/dev/xvda", 8, block(123456))
    done = site.verify(expect=3)
    assert done.stdout == ""
    words = said(done)
    assert f"AMI: AMI {name} ({site.wanted.name})" in words
    assert "does not hold the blocks that were signed: different: 1 (8)" in words
    assert "1 check failed" in words
    assert "safe: Nothing was written" in words


def test_a_block_that_somebody_added_is_found_and_named(site: RestoreSite) -> None:
    tampered(site, "/dev/xvdb", 77, block(123456))
    assert "additional: 1 (77)" in said(site.verify(expect=3))


def test_an_ami_that_somebody_deregistered_is_found(site: RestoreSite) -> None:
    (image,) = site.images()
    site.aws("ec2").deregister_image(ImageId=image["ImageId"])
    assert f"{site.wanted.name}: is not in account 111122223333" in said(site.verify(expect=8))


def test_images_that_are_gone_from_the_registry_or_are_others_are_found_together_with_blocks(
    site: RestoreSite,
) -> None:
    tampered(site, "/dev/xvda", 0, block(1))
    ecr, prefix = site.aws("ecr"), site.document["registry"]["prefix"]
    names = sorted(one["repositoryName"] for one in ecr.describe_repositories(maxResults=1000)["repositories"])
    ours = [name for name in names if name.startswith(f"{prefix}/")]
    assert len(ours) == 4
    gone = next(name for name in ours if "coredns" in name)
    ecr.delete_repository(repositoryName=gone, force=True)
    done = site.verify("-o", "json", expect=3)
    findings = json.loads(done.stdout)["installed"]["findings"]
    assert [(one["check"], one["exitCode"]) for one in findings] == [("AMI", 3), ("registry", 8)]
    assert findings[1]["subject"].startswith(f"{site.facts.registry_host}/{gone}:")
    assert "2 checks failed" in said(done)


def test_who_may_not_read_blocks_is_told_which_action_is_denied(site: RestoreSite) -> None:
    site.fault("GetSnapshotBlock", "denied", times=1000)
    assert "ebs:GetSnapshotBlock" in said(site.verify(expect=4))


def test_a_damaged_archive_is_refused_before_the_site_is_looked_at(site: RestoreSite) -> None:
    raw = bytearray(site.archive.read_bytes())
    raw[-3000] ^= 1
    site.archive.write_bytes(raw)
    before = site.calls("ListSnapshotBlocks")
    site.verify(expect=3)
    assert site.calls("ListSnapshotBlocks") == before


@pytest.mark.parametrize("given", [["--installed"], ["--site", "site.yaml"]])
def test_one_option_without_the_other_is_a_usage_error(site: RestoreSite, given: list[str]) -> None:
    done = site.workspace.bundle("verify", str(site.archive), *given, expect=2)
    assert "--installed and --site FILE go together" in said(done)
