"""`bundle install` of a bundle with an AMI, killed all through its restore phase: one AMI, and nodes that run it."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from bundler.adapters.archive_file import ArchiveFile
from bundler.archive.identity import self_consistent
from bundler.archive.layout import plan_layout
from bundler.archive.metadata import closure_report, provenance, sbom
from bundler.archive.writer import ArchiveWriter
from bundler.domain.restored import AMI_TAG, WantedAmi
from bundler.envelope import Signer
from bundler.stages.restore import INDEX_TAG
from tests.closed import GROUP, Closed, Site, Writes
from tests.cluster.test_install_killed import Moment, run_until
from tests.fakes.amis import TWO_DEVICES, MadeAmi, block
from tests.restores import read_blocks

pytestmark = [pytest.mark.cluster, pytest.mark.loopback, pytest.mark.slow, pytest.mark.timeout(900)]
MOMENTS = (
    Moment(phase="push", writes=1000),
    Moment(phase="restore", writes=1),
    Moment(phase="restore", writes=2),
    Moment(phase="restore", writes=15),
    Moment(phase="restore", writes=40, signal=signal.SIGTERM),
    Moment(phase="restore", writes=30),
    Moment(phase="restore", writes=50, signal=signal.SIGINT),
    Moment(phase="identity"),
    Moment(phase="nodes", writes=1),
)
AMI = MadeAmi.of()


def with_ami(closed: Closed, ami: MadeAmi) -> str:
    """Seal the bundle once more, with an AMI; return the name of the archive."""
    folder = closed.place.folder
    with ArchiveFile.open(folder / "closed-minimal-1.tar") as source:
        old = self_consistent(source)
        lock = old.lock.model_copy(update={"name": "with-ami", "amis": (ami.locked,), "bake": (ami.baked,)})
        layout = plan_layout(
            lock,
            generated={
                "trust.json": (folder / "keys" / "trust.json").read_bytes(),
                "closure.json": closure_report(lock),
                "sbom.cdx.json": sbom(lock),
                "provenance.json": provenance(lock, definition=lock.definition, tool_version="0.0.0"),
            },
        )
        with ArchiveWriter(folder / "with-ami-1.tar", layout) as writer:
            for member in writer.missing():
                place = writer.write_at(member)
                held = ami.blobs.get(member.digest)
                for chunk in [memoryview(held)] if held is not None else old.stream(member.digest):
                    place.write(chunk)
                place.commit()
            writer.seal(Signer.load(folder / "keys" / "bundle.key"))
    return "with-ami-1.tar"


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A site whose install was ended again and again, then left alone."""

    site: Site
    ended: list[tuple[Moment, str]]

    @property
    def images(self) -> list[dict[str, Any]]:
        wanted = [{"Name": "tag-key", "Values": [AMI_TAG]}]
        return list(self.site.closed.aws("ec2").describe_images(Owners=["self"], Filters=wanted)["Images"])


@pytest.fixture(scope="module")
def finished(closed: Closed) -> Finished:
    site = closed.site("restored", with_ami(closed, AMI))
    (group,) = site.document["nodeGroups"]
    site = site.with_changes("site.yaml", nodeGroups=[{**group, "ami": "workers"}])
    ended = []
    for number, moment in enumerate(MOMENTS):
        _, phase = run_until(site, moment, site.file.with_name(f"run-{number}"))
        ended.append((moment, phase))
    site.install()
    return Finished(site=site, ended=ended)


def test_most_runs_were_ended_while_they_restored(finished: Finished) -> None:
    assert sum(phase == "restore" for _, phase in finished.ended) >= 5


def test_there_is_one_ami_of_one_snapshot_for_each_device_with_every_block(finished: Finished) -> None:
    ec2, ebs = (finished.site.closed.aws(name) for name in ("ec2", "ebs"))
    (image,) = finished.images
    assert image["Name"] == WantedAmi(baked=AMI.baked).name
    used = {one["DeviceName"]: one["Ebs"]["SnapshotId"] for one in image["BlockDeviceMappings"]}
    wanted = [{"Name": "tag-key", "Values": [INDEX_TAG]}]
    found = ec2.describe_snapshots(OwnerIds=["self"], Filters=wanted)["Snapshots"]
    assert {one["SnapshotId"]: one["State"] for one in found} == dict.fromkeys(used.values(), "completed")
    for device, blocks in TWO_DEVICES.items():
        assert read_blocks(ebs, used[device]) == {number: block(seed) for number, seed in blocks.items()}


def test_the_nodes_are_launched_from_it(finished: Finished) -> None:
    ec2 = finished.site.closed.aws("ec2")
    (version,) = ec2.describe_launch_template_versions(LaunchTemplateName=GROUP)["LaunchTemplateVersions"]
    (image,) = finished.images
    assert version["LaunchTemplateData"]["ImageId"] == image["ImageId"]


def test_the_next_run_writes_nothing(finished: Finished) -> None:
    writes = Writes(finished.site.closed.facts)
    assert "Nothing to do" in finished.site.install().stdout
    assert writes.seen() == []


def test_what_stands_there_is_what_was_signed(finished: Finished) -> None:
    site, writes = finished.site, Writes(finished.site.closed.facts)
    verify = ("verify", site.archive, "--installed", "--site", str(site.file), "--trust", "trust")
    done = site.place.bundle(*verify)
    (image,) = finished.images
    assert f"workers amd64 is {image['ImageId']}: 63 blocks, all of them right." in done.stdout
    assert "11 images and charts are what the lock says." in done.stdout
    assert writes.seen() == []


def test_a_site_without_a_way_to_ebs_direct_is_found_before_anything_is_written(finished: Finished) -> None:
    site = finished.site
    endpoints: Mapping[str, str] = {**site.document["endpoints"], "ebs": "http://127.0.0.1:9"}
    lacking, writes = site.with_changes("lacking.yaml", endpoints=endpoints), Writes(site.closed.facts)
    done = lacking.install(expect=5)
    assert "com.amazonaws.eu-central-1.ebs" in " ".join(done.stderr.split())
    assert writes.seen() == []
