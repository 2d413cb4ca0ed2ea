"""A bundle against an earlier one, from the account of a builder to that of a site: small, and right byte for byte."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bundler.adapters.archive_file import ArchiveFile
from bundler.adapters.aws.clients import Aws, AwsSettings, site_endpoints
from bundler.adapters.aws.ebs import EbsDirect
from bundler.adapters.aws.ec2_images import Ec2Images
from bundler.adapters.documents import read_document
from bundler.archive.identity import self_consistent
from bundler.archive.reader import Archive
from bundler.domain.blocks import BLOCK_BYTES
from bundler.domain.machine_image import FoundImage
from bundler.domain.site import Restore, Site, parse_site
from bundler.domain.snapshot import FoundSnapshot
from bundler.errors import AccessError, FindingsError
from bundler.journal import Place, Session, hold
from bundler.lab.lab import LabFacts, LabOptions
from bundler.lab.lab import lab as running_lab
from bundler.lab.request_log import mutations
from bundler.retry import Patience, RetryPolicy
from bundler.transfer import Pace, pause
from bundler.workflows.restore import Machines, Restoration
from tests.journey import Workspace, small_definition, workspace
from tests.peers import boto_client, lab_control

pytestmark = pytest.mark.loopback
BUILDER = "444455556666"
REGION = "eu-west-1"
LIMIT = 0.05
Disk = Mapping[int, int]
"""Block number -> what is in it, told by a number."""
FIRST: Mapping[str, Disk] = {
    "/dev/xvda": {number: 1 + number for number in range(400)},
    "/dev/xvdb": {number: 1000 + number for number in range(0, 20, 2)},
}
CHANGED = {number: 5000 + number for number in range(100, 112)}
"""Three blocks of a hundred."""
SECOND: Mapping[str, Disk] = {
    "/dev/xvda": {**{n: s for n, s in FIRST["/dev/xvda"].items() if n < 390}, **CHANGED, 0: 400, 600: 1, 700: 1010},
    "/dev/xvdb": {**FIRST["/dev/xvdb"], 4: 30},
}


def block(seed: int) -> bytes:
    """32 KiB that do not compress, and text that does."""
    noise = hashlib.shake_128(str(seed).encode()).digest(32 << 10)
    return noise + b"text of a file\n\n" * ((BLOCK_BYTES - len(noise)) // 16)


def bytes_of(disk: Disk) -> dict[int, bytes]:
    return {number: block(seed) for number, seed in disk.items()}


@dataclass(frozen=True)
class Builder:
    """The account where AMIs are made; `bundle` runs with its credentials."""

    facts: LabFacts
    work: Workspace

    def ami(self, disks: Mapping[str, Disk]) -> str:
        """Write snapshots and register an AMI of them."""
        ec2 = boto_client(self.facts, "ec2")
        mappings = [
            {"DeviceName": device, "Ebs": {"SnapshotId": self._snapshot(bytes_of(disk))}}
            for device, disk in disks.items()
        ]
        facts = {"Architecture": "x86_64", "RootDeviceName": "/dev/xvda", "VirtualizationType": "hvm"}
        name = hashlib.sha256(str(mappings).encode()).hexdigest()
        return str(ec2.register_image(Name=name, BlockDeviceMappings=mappings, EnaSupport=True, **facts)["ImageId"])

    def _snapshot(self, blocks: Mapping[int, bytes]) -> str:
        api = boto_client(self.facts, "ebs")
        made = str(api.start_snapshot(VolumeSize=1)["SnapshotId"])
        for number, content in blocks.items():
            api.put_snapshot_block(
                SnapshotId=made,
                BlockIndex=number,
                BlockData=content,
                DataLength=len(content),
                Checksum=base64.b64encode(hashlib.sha256(content).digest()).decode(),
                ChecksumAlgorithm="SHA256",
            )
        api.complete_snapshot(SnapshotId=made, ChangedBlocksCount=len(blocks))
        return made

    def lock(self, ami: str) -> None:
        """Lock a bundle whose node image is this AMI."""
        path = self.work.folder / "bundle.yaml"
        path.write_text(re.sub(r"id: ami-\w+", f"id: {ami}", path.read_text()))
        self.work.bundle("lock")

    def build(self, *options: str) -> Path:
        return self.work.build("--out", "out", *options)

    def baked(self) -> dict[str, object]:
        (found,) = json.loads((self.work.folder / "bundle.lock.json").read_bytes())["bake"]
        return dict(found)


@dataclass(frozen=True)
class Inside:
    """The site's account, reached as install reaches it."""

    facts: LabFacts
    site: Site
    folder: Path
    images: Ec2Images
    ebs: EbsDirect

    def restoration(self, archive: Archive, *, kms_key: str | None = None) -> Restoration:
        site = self.site.model_copy(update={"restore": Restore().model_copy(update={"kms_key": kms_key})})
        machines = Machines(images=self.images, blocks=self.ebs)
        return Restoration(archive=archive, site=site, machines=machines, patience=Patience(), pace=Pace())

    def install(self, path: Path) -> FoundImage:
        """Do what install does in its phase `restore`; return the AMI."""
        with opened(path) as archive:
            restoration = self.restoration(archive)
            assert restoration.check() == ()
            place = Place(folder=self.folder, site="x", mirror=None)
            with hold(place, Session(id="1", owner="test", bundle=archive.root.digest)) as journal:
                restoration.run(restoration.observe(), journal)
            (done,) = restoration.observe()
        assert done.ami.there is not None
        return done.ami.there

    def copy_base(self, archive: Archive, key: str) -> None:
        """Encrypt what the site holds of the base, as the finding says."""
        ec2, base = boto_client(self.facts, "ec2"), next(one for one in archive.requires if one.role == "ami-base")
        for one in self.images.own_snapshots_tagged("bundle:ami-index", str(base.digest)):
            tags = [{"Key": name, "Value": one.tags[name]} for name in ("bundle:ami-index", "bundle:ami-device")]
            ec2.copy_snapshot(
                SourceRegion=self.site.region,
                SourceSnapshotId=one.id,
                Encrypted=True,
                KmsKeyId=key,
                TagSpecifications=[{"ResourceType": "snapshot", "Tags": tags}],
            )

    def content(self, image: FoundImage) -> dict[str, dict[int, bytes]]:
        """What the AMI's volumes read as, where it is not zeros."""
        found: dict[str, dict[int, bytes]] = {}
        for one in image.snapshots:
            blocks = self.ebs.blocks(one.snapshot).blocks
            held = {block.number: self.ebs.read(one.snapshot, block, progress=lambda: 0)[0] for block in blocks}
            found[one.device] = {number: content for number, content in held.items() if any(content)}
        return found

    def snapshots(self, path: Path) -> tuple[FoundSnapshot, ...]:
        """The snapshots of the AMI of an archive."""
        with opened(path) as archive:
            (baked,) = archive.lock.bake
        return self.images.own_snapshots_tagged("bundle:ami-index", str(baked.index.digest))

    def fault(self, operation: str, *, nth: int) -> None:
        """From the nth call on nobody may do that."""
        wanted = {"service": "ebs", "operation": operation, "kind": "denied", "nth": nth, "times": 1000}
        lab_control(self.facts, "POST", "faults", wanted)

    def written(self) -> list[str]:
        return [str(line.get("operation", line.get("method"))) for line in mutations(self.facts.requests_file)]


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    with ArchiveFile.open(path) as source:
        archive = self_consistent(source)
        archive.verify_all()
        yield archive


@pytest.fixture
def builder(tmp_path: Path) -> Iterator[Builder]:
    with running_lab(tmp_path / "outside", LabOptions(account=BUILDER, region=REGION, source=False)) as facts:
        text = small_definition(tmp_path / "work", images=1) + (
            f"builder: {{region: {REGION}}}\n"
            "amis:\n  - {name: workers, architectures: [amd64], ami: {id: ami-00000000}}\n"
        )
        made = workspace(tmp_path / "work", facts, text)
        yield Builder(facts, replace(made, environment={**made.environment, "AWS_ENDPOINT_URL": facts.aws_url}))


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inside]:
    with running_lab(tmp_path / "inside", LabOptions(source=False)) as facts:
        for name, value in facts.environment().items():
            monkeypatch.setenv(name, value)
        site = parse_site(read_document(facts.site_file))
        group = site.node_groups[0].model_copy(update={"ami": "workers"})
        aws = Aws(AwsSettings(region=site.region, endpoints=site_endpoints(site), connections=64))
        ebs = EbsDirect(service=aws.service("ebs"), policy=RetryPolicy(sleep=pause))
        wanted = site.model_copy(update={"node_groups": (group,)})
        yield Inside(facts, wanted, tmp_path / "state", Ec2Images(aws.service("ec2")), ebs)


def ami_bytes(path: Path) -> int:
    with opened(path) as archive:
        return sum(member.size for member in archive.members if member.role.startswith("ami-"))


def test_a_bundle_against_the_first_is_small_and_installs_where_the_first_is(builder: Builder, inside: Inside) -> None:
    builder.lock(builder.ami(FIRST))
    first = builder.build()
    builder.lock(builder.ami(SECOND))
    second = builder.build("--against", str(first))
    ratio = ami_bytes(second) / ami_bytes(first)
    print(f"{ami_bytes(second)} of {ami_bytes(first)} bytes: {ratio:.2%}")  # noqa: T201
    assert ratio < LIMIT

    before = inside.written()
    with opened(second) as archive:
        (finding,) = {replace(finding, cause="") for finding in inside.restoration(archive).check()}
        assert finding.exit_code == 7
        assert "Install small-1" in finding.hint
        with pytest.raises(FindingsError, match="carries only what differs from its base"):
            inside.restoration(archive).observe()
    assert inside.written() == before, "nothing is written where the base is not"

    assert inside.content(inside.install(first)) == {device: bytes_of(disk) for device, disk in FIRST.items()}
    before = inside.written()
    with opened(second) as archive:
        key = "arn:aws:kms:eu-central-1:111122223333:key/0123"
        (root, data) = inside.restoration(archive, kms_key=key).check()
        assert "is not encrypted" in root.cause
        assert f"--encrypted --kms-key-id {key}" in data.hint
        assert inside.written() == before
        inside.copy_base(archive, key)
        assert inside.restoration(archive, kms_key=key).check() == (), "the copy that the hint names fits"
    inside.fault("PutSnapshotBlock", nth=7)
    with pytest.raises(AccessError, match="ebs:PutSnapshotBlock"):
        inside.install(second)
    lab_control(inside.facts, "DELETE", "faults")
    before = inside.written()
    made = inside.install(second)
    assert len(inside.snapshots(second)) == 2, "those that were begun are finished"
    assert inside.content(made) == {device: bytes_of(disk) for device, disk in SECOND.items()}
    puts = inside.written()[len(before) :].count("PutSnapshotBlock")
    assert puts == len(CHANGED) + 10 + 3 + 1, "changed, gone, and moved: on the root device and on the other"
    before = inside.written()
    assert inside.install(second) == made
    assert inside.written() == before, "installed again, there is nothing to do"


def test_the_lock_records_what_is_carried_until_all_of_it_is_asked_for(builder: Builder) -> None:
    builder.lock(builder.ami(FIRST))
    first = builder.build()
    builder.work.bundle("build", "--key", "keys/bundle.key", "--out", "out", "--against", str(first), expect=2)
    both = builder.work.bundle("build", "--key", "keys/bundle.key", "--against", str(first), "--whole", expect=2)
    assert "says the opposite" in both.stderr
    builder.lock(builder.ami(SECOND))
    whole = builder.build().read_bytes()
    assert "base" not in builder.baked()
    delta = builder.build("--against", str(first)).read_bytes()
    assert dict(builder.baked())["base"]["bundle"] == "small-1"  # type: ignore[index]
    assert builder.build("--against", str(first)).read_bytes() == delta, "the same lock and base, the same bytes"
    assert builder.build("--whole").read_bytes() == whole
    assert builder.build("--against", str(first)).read_bytes() == delta, "out of the cache"
    for blob in (builder.work.folder / "cache" / "blobs").rglob("*"):
        if blob.is_file() and blob.stat().st_size > 100_000:
            blob.unlink()
    (builder.work.folder / "out" / "small-2.tar").unlink()
    again = builder.build()
    with opened(again) as archive:
        assert [one.role for one in archive.requires] == ["ami-base"], "the lock records it; images are carried again"
    assert builder.build("--against", str(first)).read_bytes() == delta, "read from the AMI again"
    shown = builder.work.bundle("inspect", "out/small-2.tar", "--trust", "trust")
    needed = "needs on site: the snapshots of workers amd64 that small-1 brings"
    assert needed in shown.stdout
    assert needed in builder.work.bundle("verify", "out/small-2.tar", "--trust", "trust").stdout
    told = builder.work.bundle("inspect", "out/small-2.tar", "--trust", "trust", "-o", "json").stdout
    assert json.loads(told)["requires"][0]["index"] == dict(builder.baked())["base"]["index"]["digest"]  # type: ignore[index]


def test_an_ami_that_has_not_changed_carries_no_block(builder: Builder, inside: Inside) -> None:
    builder.lock(builder.ami(FIRST))
    first = builder.build()
    path = builder.work.folder / "bundle.yaml"
    path.write_text(path.read_text().replace("reason: a test", "reason: another", 1))
    builder.work.bundle("lock")
    second = builder.build("--against", str(first))
    with opened(second) as archive:
        assert archive.lock.sequence == 2
        assert not [member for member in archive.members if member.role == "ami-pack"]
        assert {required.role for required in archive.requires} == {"ami-base", "config", "layer"}
    made = inside.install(first)
    assert inside.install(second) == made


def test_a_receipt_of_the_site_serves_where_this_host_still_knows_what_an_index_means(
    builder: Builder, inside: Inside, tmp_path: Path
) -> None:
    builder.lock(builder.ami(FIRST))
    inside.install(builder.build())
    place = Workspace(folder=tmp_path, environment=inside.facts.environment())
    told = place.bundle("receipt", "--site", str(inside.facts.site_file), "--out", "r.json")
    assert "1 AMI" in told.stdout
    receipt = str(tmp_path / "r.json")
    builder.lock(builder.ami(SECOND))
    second = builder.build("--against", receipt)
    base = builder.baked()["base"]
    assert isinstance(base, dict)
    assert base["bundle"].startswith("the receipt of ")
    with opened(second) as archive:
        assert [one.role for one in archive.requires] == ["ami-base"], "its registry holds nothing yet"
    assert inside.content(inside.install(second)) == {device: bytes_of(disk) for device, disk in SECOND.items()}
    for blob in (builder.work.folder / "cache" / "blobs").rglob(str(base["index"]["digest"]).removeprefix("sha256:")):
        blob.unlink()
    whole = builder.build("--rebake", "--against", receipt)
    with opened(whole) as archive:
        assert archive.requires == (), "what nobody here knows is carried"
