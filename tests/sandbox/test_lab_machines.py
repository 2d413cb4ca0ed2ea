"""A lab whose EC2 instances are processes: driven with boto3, OpenSSH and the real Packer. Needs root."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from bundler.adapters.packer import Packer, PackerSettings
from bundler.domain.blocks import BLOCK_BYTES
from bundler.domain.packer_log import PackerLine
from bundler.errors import PackerError
from bundler.lab.lab import LabFacts, LabOptions, lab_down, lab_status, lab_up
from bundler.lab.lab import lab as running_lab
from bundler.lab.machines import claim_network
from bundler.lab.node_disk import RawDisk, node_disk, written_blocks
from tests.needs import need_machines, need_packer
from tests.peers import boto_client, lab_key

pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(600)]
EKS, BOTTLEROCKET = "602401143452", "092701018921"
EKS_PARAMETERS = "/aws/service/eks/optimized-ami/1.36/amazon-linux-2023"
BOTTLEROCKET_PARAMETERS = "/aws/service/bottlerocket/aws-k8s-1.36"
SSH = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR")
ACCOUNT, REGION = "444455556666", "us-east-1"


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFacts]:
    need_machines()
    state = tmp_path_factory.mktemp("lab")
    with running_lab(state, LabOptions(source=False, machines=True, account=ACCOUNT, region=REGION)) as found:
        yield found


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """The lab, and what tests do with it again and again."""

    facts: LabFacts
    ec2: Any
    ebs: Any
    ssm: Any

    def parameter(self, name: str) -> str:
        return str(self.ssm.get_parameter(Name=name)["Parameter"]["Value"])

    def image(self, image_id: str) -> dict[str, Any]:
        return dict(self.ec2.describe_images(ImageIds=[image_id])["Images"][0])

    def source(self) -> str:
        return self.parameter(f"{EKS_PARAMETERS}/x86_64/standard/recommended/image_id")

    def run(self, **options: Any) -> dict[str, Any]:
        assert self.facts.machines is not None
        asked = {
            "ImageId": self.source(), "InstanceType": "m6i.large", "SubnetId": self.facts.machines.subnet,
            "SecurityGroupIds": [self.facts.machines.security_group], **options,
        }  # fmt: skip
        return dict(self.ec2.run_instances(MinCount=1, MaxCount=1, **asked)["Instances"][0])

    def state(self, instance: str) -> str:
        found = self.ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
        return str(found["State"]["Name"])

    def read_disk(self, snapshot: str, path: Path) -> Path:
        """Write what EBS direct reads of a snapshot into a sparse file."""
        page = self.ebs.list_snapshot_blocks(SnapshotId=snapshot)
        with path.open("wb") as file:
            for block in page["Blocks"]:
                file.seek(block["BlockIndex"] * BLOCK_BYTES)
                file.write(self.ebs.get_snapshot_block(SnapshotId=snapshot, **block)["BlockData"].read())
            file.truncate(page["VolumeSize"] << 30)
        return path


@pytest.fixture(scope="module")
def cloud(facts: LabFacts) -> Cloud:
    return Cloud(**{name: boto_client(facts, name) for name in ("ec2", "ebs", "ssm")}, facts=facts)


@dataclass(frozen=True, kw_only=True)
class Session:
    """An instance and the key that opens it."""

    id: str
    address: str
    key: Path

    def ssh(self, command: str) -> subprocess.CompletedProcess[str]:
        return self._run("ssh", "-i", str(self.key), f"ec2-user@{self.address}", command)

    def copy(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("scp", "-i", str(self.key), *arguments)

    def remote(self, path: str) -> str:
        return f"ec2-user@{self.address}:{path}"

    @staticmethod
    def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [program, *SSH, *arguments]
        return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, check=False)


def new_key(cloud: Cloud, folder: Path) -> tuple[str, Path]:
    name = f"key-{uuid.uuid4().hex}"
    made = cloud.ec2.create_key_pair(KeyName=name)
    path = folder / name
    path.touch(mode=0o600)
    path.write_text(made["KeyMaterial"])
    return name, path


@pytest.fixture
def session(cloud: Cloud, tmp_path: Path) -> Iterator[Session]:
    name, path = new_key(cloud, tmp_path)
    instance = cloud.run(KeyName=name)
    yield Session(id=instance["InstanceId"], address=instance["PrivateIpAddress"], key=path)
    cloud.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as failed:
        call()
    return str(failed.value.response["Error"]["Code"])


def mounts_and_loops(state: Path) -> str:
    """Mounts anywhere on this machine and loop devices that have to do with this lab."""
    found = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    for process in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            found.append(process.read_text())
        except OSError:
            continue
    return "\n".join(line for text in found for line in text.splitlines() if str(state) in line)


def processes(state: Path) -> list[str]:
    """Command lines that name this lab's folder, but for the daemon's own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"{state}/machines" in words:
            found.append(words)
    return found


def eventually(is_so: Callable[[], bool]) -> bool:
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        if is_so():
            return True
        time.sleep(0.1)
    return False


def debugfs(disk: Path, request: str) -> str:
    program = shutil.which("debugfs", path="/usr/sbin:/sbin")
    assert program is not None
    return subprocess.run([program, "-R", request, str(disk)], capture_output=True, text=True, check=True).stdout


def test_account_and_region_are_those_that_were_asked_for(cloud: Cloud) -> None:
    assert (cloud.facts.account, cloud.facts.region) == (ACCOUNT, REGION)
    assert boto_client(cloud.facts, "sts").get_caller_identity()["Account"] == ACCOUNT


@pytest.mark.parametrize("architecture", ["x86_64", "arm64"])
def test_the_eks_image_is_found_by_parameter_and_belongs_to_amazon(cloud: Cloud, architecture: str) -> None:
    head = f"{EKS_PARAMETERS}/{architecture}/standard/recommended"
    image = cloud.image(cloud.parameter(f"{head}/image_id"))
    name = f"amazon-eks-node-al2023-{architecture}-standard-1.36-v20261101"
    assert (image["Name"], image["Architecture"], image["OwnerId"]) == (name, architecture, EKS)
    assert (image["ImageOwnerAlias"], image["Public"], image["EnaSupport"]) == ("amazon", True, True)
    assert (image["ImdsSupport"], image["RootDeviceName"]) == ("v2.0", "/dev/xvda")
    assert image["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 8
    assert cloud.parameter(f"{head}/image_name") == name
    assert cloud.parameter(f"{head}/release_version") == "1.36.0-20261101"
    assert json.loads(cloud.parameter(head))["image_id"] == image["ImageId"]
    assert cloud.parameter(f"{EKS_PARAMETERS}/{architecture}/standard/{name}/image_id") == image["ImageId"]


def test_bottlerocket_has_two_devices_and_variables_that_only_its_owner_may_read(cloud: Cloud) -> None:
    image_id = cloud.parameter(f"{BOTTLEROCKET_PARAMETERS}/x86_64/latest/image_id")
    assert cloud.parameter(f"{BOTTLEROCKET_PARAMETERS}/x86_64/1.50.0/image_id") == image_id
    assert cloud.parameter(f"{BOTTLEROCKET_PARAMETERS}/x86_64/latest/image_version") == "1.50.0-abcdef12"
    image = cloud.image(image_id)
    assert (image["OwnerId"], image["TpmSupport"], image["BootMode"]) == (BOTTLEROCKET, "v2.0", "uefi-preferred")
    sizes = {item["DeviceName"]: item["Ebs"]["VolumeSize"] for item in image["BlockDeviceMappings"]}
    assert sizes == {"/dev/xvda": 2, "/dev/xvdb": 20}
    assert "UefiData" not in image
    asked = {"ImageId": image_id, "Attribute": "uefiData"}
    assert code_of(lambda: cloud.ec2.describe_image_attribute(**asked)) == "AuthFailure"
    instance = cloud.run(ImageId=image_id)["InstanceId"]
    assert cloud.ec2.get_instance_uefi_data(InstanceId=instance)["UefiData"]


def test_parameters_that_do_not_exist_are_not_found_and_those_below_a_path_are_listed(cloud: Cloud) -> None:
    asked = cloud.ssm.get_parameters(Names=[f"{EKS_PARAMETERS}/x86_64/standard/recommended/image_id", "/aws/none"])
    assert (len(asked["Parameters"]), asked["InvalidParameters"]) == (1, ["/aws/none"])
    assert asked["Parameters"][0]["ARN"].startswith(f"arn:aws:ssm:{REGION}::parameter/aws/service/")
    head = f"{BOTTLEROCKET_PARAMETERS}/arm64/latest"
    listed = cloud.ssm.get_parameters_by_path(Path=head)["Parameters"]
    assert {item["Name"] for item in listed} == {f"{head}/image_id", f"{head}/image_version"}
    assert code_of(lambda: cloud.parameter("/aws/service/eks/optimized-ami/1.0/x")) == "ParameterNotFound"


def test_a_public_snapshot_is_seen_but_not_read_until_the_image_is_copied(cloud: Cloud, tmp_path: Path) -> None:
    snapshot = cloud.image(cloud.source())["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    (found,) = cloud.ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"]
    assert (found["OwnerId"], found["State"]) == (EKS, "completed")
    own = cloud.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    assert snapshot not in {item["SnapshotId"] for item in own}
    assert code_of(lambda: cloud.ebs.list_snapshot_blocks(SnapshotId=snapshot)) == "ValidationException"
    copied = cloud.ec2.copy_image(SourceImageId=cloud.source(), SourceRegion=REGION, Name="own-eks-node")["ImageId"]
    own_snapshot = cloud.image(copied)["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    disk = cloud.read_disk(own_snapshot, tmp_path / "disk")
    assert dict(written_blocks(disk)) == dict(written_blocks(node_disk("v1.36.0").path))


def test_only_the_key_of_the_instance_is_let_in(cloud: Cloud, session: Session, tmp_path: Path) -> None:
    _, other = new_key(cloud, tmp_path)
    assert session.ssh("true").returncode == 0
    stranger = Session(id=session.id, address=session.address, key=other)
    assert "Permission denied" in stranger.ssh("true").stderr


def test_commands_run_on_the_disk_of_the_instance_in_namespaces_of_their_own(session: Session) -> None:
    said = session.ssh("cat /etc/os-release; hostname; ls /etc/debian_version; echo $$; exit 7")
    assert said.returncode == 7
    assert "Amazon Linux 2023 (lab stand-in)" in said.stdout
    assert f"ip-{session.address.replace('.', '-')}.ec2.internal" in said.stdout
    assert "No such file" in said.stderr
    assert int(said.stdout.split()[-1]) < 1000
    assert session.ssh("kubelet --version").stdout == "Kubernetes v1.36.0\n"


def test_containerd_is_real_and_holds_the_pause_image_pinned(session: Session) -> None:
    assert session.ssh("systemctl is-active containerd").stdout == "inactive\n"
    said = session.ssh(
        "sudo systemctl start containerd && systemctl is-active containerd && sudo ctr -n k8s.io images ls"
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("active\n")
    assert "localhost/kubernetes/pause:latest" in said.stdout
    assert "io.cri-containerd.pinned=pinned" in said.stdout
    assert session.ssh("sudo systemctl stop containerd; systemctl is-active containerd").stdout == "inactive\n"


def test_sudo_takes_the_environment_away_but_for_what_is_named(session: Session) -> None:
    assert session.ssh("A=1 sudo env").stdout.count("A=1") == 0
    assert "A=1" in session.ssh("A=1 sudo -E env").stdout
    assert "A=b c" in session.ssh('sudo A="b c" env').stdout
    assert "CONTAINERD_SNAPSHOTTER=native" in session.ssh("sudo env").stdout


@pytest.mark.parametrize("protocol", [(), ("-O",)], ids=["sftp", "scp"])
def test_what_is_roots_needs_sudo(session: Session, tmp_path: Path, protocol: tuple[str, ...]) -> None:
    ids = session.ssh("id -u; id -g; sudo id -u; sudo sh -c 'id -u; id -g'").stdout.split()
    assert ids == ["1000", "1000", "0", "0", "0"]
    assert session.ssh("echo x > /etc/x").returncode != 0
    assert session.ssh("sudo systemctl start containerd && ctr version").returncode != 0
    (tmp_path / "up").write_bytes(b"x")
    assert session.copy(*protocol, str(tmp_path / "up"), session.remote("/etc/x")).returncode != 0
    assert session.copy(*protocol, str(tmp_path / "up"), session.remote("x")).returncode == 0
    assert session.ssh("stat -c %U:%G x; ls /etc/x").stdout == "ec2-user:ec2-user\n"


@pytest.mark.parametrize("protocol", [(), ("-O",)], ids=["sftp", "scp"])
def test_files_go_up_and_come_down(session: Session, tmp_path: Path, protocol: tuple[str, ...]) -> None:
    (tmp_path / "up").write_bytes(os.urandom(3 << 20))
    assert session.copy(*protocol, str(tmp_path / "up"), session.remote("/var/tmp/up")).returncode == 0
    assert session.copy(*protocol, session.remote("/var/tmp/up"), str(tmp_path / "down")).returncode == 0
    assert (tmp_path / "down").read_bytes() == (tmp_path / "up").read_bytes()


def test_a_stopped_instance_keeps_its_disk_and_goes_on_with_it(cloud: Cloud, session: Session) -> None:
    session.ssh(
        "echo kept | sudo tee /var/lib/note; sudo systemctl start containerd; setsid sleep 600 >/dev/null 2>&1 &"
    )
    cloud.ec2.stop_instances(InstanceIds=[session.id])
    assert cloud.state(session.id) == "stopped"
    assert processes(cloud.facts.state) == []
    assert mounts_and_loops(cloud.facts.state) == ""
    assert session.ssh("true").returncode == 255
    cloud.ec2.start_instances(InstanceIds=[session.id])
    assert session.ssh("cat /var/lib/note").stdout == "kept\n"


def test_an_image_of_an_instance_has_its_blocks_and_what_its_own_image_had(
    cloud: Cloud, session: Session, tmp_path: Path
) -> None:
    session.ssh("echo baked | sudo tee /etc/baked")
    tags = [{"ResourceType": kind, "Tags": [{"Key": "bundle:of", "Value": kind}]} for kind in ("image", "snapshot")]
    name = f"baked-{uuid.uuid4().hex}"
    made = cloud.ec2.create_image(InstanceId=session.id, Name=name, TagSpecifications=tags)["ImageId"]
    assert session.ssh("cat /etc/baked").stdout == "baked\n", "it was started again"
    image, source = cloud.image(made), cloud.image(cloud.source())
    kept = ("Architecture", "BootMode", "EnaSupport", "ImdsSupport", "RootDeviceName", "VirtualizationType")
    assert {name: image[name] for name in kept} == {name: source[name] for name in kept}
    assert (image["OwnerId"], image["Public"], image["Tags"][0]["Value"]) == (ACCOUNT, False, "image")
    assert code_of(lambda: cloud.ec2.create_image(InstanceId=session.id, Name=name)) == "InvalidAMIName.Duplicate"
    (snapshot,) = cloud.ec2.describe_snapshots(Filters=[{"Name": "tag:bundle:of", "Values": ["snapshot"]}])["Snapshots"]
    assert snapshot["SnapshotId"] == image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    disk = cloud.read_disk(snapshot["SnapshotId"], tmp_path / "disk")
    assert debugfs(disk, "cat /etc/baked") == "baked\n"


def test_a_larger_volume_is_a_larger_file_system_and_a_smaller_one_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    def mapping(gib: int) -> list[dict[str, Any]]:
        return [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": gib, "VolumeType": "gp3"}}]

    name, key = new_key(cloud, tmp_path)
    instance = cloud.run(KeyName=name, BlockDeviceMappings=mapping(12))
    session = Session(id=instance["InstanceId"], address=instance["PrivateIpAddress"], key=key)
    assert int(session.ssh("df --output=size -BM / | tail -1").stdout.strip(" M\n")) > 11_000
    image = cloud.ec2.create_image(InstanceId=session.id, Name=f"large-{uuid.uuid4().hex}")["ImageId"]
    assert cloud.image(image)["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 12
    cloud.ec2.terminate_instances(InstanceIds=[session.id])
    asked = {"KeyName": name, "BlockDeviceMappings": mapping(4)}
    assert code_of(lambda: cloud.run(**asked)) == "InvalidBlockDeviceMapping"


def test_an_instance_in_any_other_vpc_is_reached_too(cloud: Cloud, tmp_path: Path) -> None:
    name, key = new_key(cloud, tmp_path)
    asked = {"ImageId": cloud.source(), "KeyName": name, "InstanceType": "m6i.large", "MinCount": 1, "MaxCount": 1}
    instance = cloud.ec2.run_instances(**asked)["Instances"][0]
    session = Session(id=instance["InstanceId"], address=instance["PrivateIpAddress"], key=key)
    assert session.ssh("true").returncode == 0
    cloud.ec2.terminate_instances(InstanceIds=[session.id])
    assert cloud.state(session.id) == "terminated"
    assert not any(session.id in words for words in processes(cloud.facts.state))


def test_what_the_lab_cannot_run_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    name, _ = new_key(cloud, tmp_path)
    arm = cloud.parameter(f"{EKS_PARAMETERS}/arm64/standard/recommended/image_id")
    assert code_of(lambda: cloud.run(ImageId=arm, KeyName=name)) == "Unsupported"
    assert code_of(lambda: cloud.run(KeyName="nobody's")) == "InvalidKeyPair.NotFound"
    assert code_of(lambda: cloud.run(ImageId="ami-00000000000000000")) == "InvalidAMIID.NotFound"


def template(cloud: Cloud, folder: Path, name: str) -> Path:
    assert cloud.facts.machines is not None
    (folder / "greeting").write_text("hello from outside\n")
    builder = {
        "type": "amazon-ebs", "name": "worker", "region": REGION, "custom_endpoint_ec2": cloud.facts.aws_url,
        "source_ami": cloud.source(), "instance_type": "m6i.large", "ami_name": name, "ssh_username": "ec2-user",
        "ssh_interface": "private_ip", "subnet_id": cloud.facts.machines.subnet,
        "launch_block_device_mappings": [
            {
                "device_name": "/dev/xvda", "volume_type": "gp3", "iops": 3000, "throughput": 125, "volume_size": 10,
                "delete_on_termination": True,
            }
        ],
        "tags": {"bundle:digest": "sha256:1"}, "snapshot_tags": {"bundle:digest": "sha256:2"},
        "run_tags": {"Name": "bake"}, "aws_polling": {"delay_seconds": 1, "max_attempts": 60},
    }  # fmt: skip
    provisioners = [
        {"type": "shell", "inline": ["sudo systemctl start containerd", "sudo ctr -n k8s.io images ls"]},
        {"type": "file", "source": str(folder / "greeting"), "destination": "/tmp/greeting"},
        {"type": "shell", "inline": ["sudo install -m 644 /tmp/greeting /etc/greeting", "uname -r > /tmp/facts"]},
        {"type": "file", "direction": "download", "source": "/tmp/facts", "destination": str(folder / "facts")},
    ]
    path = folder / "template.json"
    path.write_text(json.dumps({"builders": [builder], "provisioners": provisioners}))
    return path


def left_over(cloud: Cloud) -> dict[str, object]:
    """What a builder could leave behind."""
    ec2, alive = cloud.ec2, ("pending", "running", "stopping", "stopped")
    states = [{"Name": "instance-state-name", "Values": list(alive)}, {"Name": "tag:Name", "Values": ["bake"]}]
    volumes = ec2.describe_volumes(Filters=[{"Name": "status", "Values": ["in-use"]}])["Volumes"]
    return {
        "instances": ec2.describe_instances(Filters=states)["Reservations"],
        "keys": sorted(key["KeyName"] for key in ec2.describe_key_pairs()["KeyPairs"]),
        "groups": sorted(group["GroupId"] for group in ec2.describe_security_groups()["SecurityGroups"]),
        "volumes": sorted(volume["VolumeId"] for volume in volumes),
        "mounts": mounts_and_loops(cloud.facts.state),
        "processes": processes(cloud.facts.state),
    }


@pytest.fixture
def packer(cloud: Cloud, tmp_path: Path) -> Packer:
    program = need_packer()
    key, secret = lab_key(cloud.facts)
    environ = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    return Packer(PackerSettings(binary=program, work=tmp_path / "packer", environ=environ))


def test_packer_bakes_an_image_whose_snapshot_holds_what_it_put_there(
    cloud: Cloud, packer: Packer, tmp_path: Path
) -> None:
    before = left_over(cloud)
    name, heard = f"bundle-{uuid.uuid4().hex}", list[PackerLine]()
    made = packer.build(template(cloud, tmp_path, name), {}, hear=heard.append)
    assert any("localhost/kubernetes/pause:latest" in line.said for line in heard)
    assert (tmp_path / "facts").read_text().strip() == os.uname().release
    image = cloud.image(made[REGION])
    assert (image["Name"], image["OwnerId"], image["Tags"]) == (
        name,
        ACCOUNT,
        [{"Key": "bundle:digest", "Value": "sha256:1"}],
    )
    snapshot = image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    (found,) = cloud.ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"]
    assert (found["VolumeSize"], found["Tags"][0]["Value"]) == (10, "sha256:2")
    disk = cloud.read_disk(snapshot, tmp_path / "disk")
    assert debugfs(disk, "cat /etc/greeting") == "hello from outside\n"
    assert left_over(cloud) == before


def test_packer_encrypts_and_shares_what_it_bakes(cloud: Cloud, packer: Packer, tmp_path: Path) -> None:
    """It copies the image it made with the key, takes tags and permissions there, and removes the first."""
    before, other = left_over(cloud), "210987654321"
    key = boto_client(cloud.facts, "kms").create_key()["KeyMetadata"]
    path = template(cloud, tmp_path, f"bundle-{uuid.uuid4().hex}")
    document = json.loads(path.read_text())
    document["builders"][0] |= {
        "encrypt_boot": True, "kms_key_id": key["KeyId"], "ami_users": [other], "snapshot_users": [other],
        "ami_description": "a bake", "ena_support": True, "temporary_security_group_source_cidrs": ["127.0.0.0/8"],
    }  # fmt: skip
    path.write_text(json.dumps(document))
    image = cloud.image(packer.build(path, {}, hear=lambda line: None)[REGION])
    snapshot = image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    (found,) = cloud.ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"]
    assert (found["Encrypted"], found["KmsKeyId"], found["Tags"][0]["Value"]) == (True, key["Arn"], "sha256:2")
    asked = {"ImageId": image["ImageId"], "Attribute": "launchPermission"}
    assert cloud.ec2.describe_image_attribute(**asked)["LaunchPermissions"] == [{"UserId": other}]
    assert (image["Description"], image["BootMode"]) == ("a bake", "uefi-preferred")
    own = cloud.ec2.describe_images(Owners=["self"])["Images"]
    assert image["SourceImageId"] not in {item["ImageId"] for item in own}
    assert left_over(cloud) == before


def test_a_build_that_fails_leaves_nothing_and_no_image(cloud: Cloud, packer: Packer, tmp_path: Path) -> None:
    before = left_over(cloud)
    path = template(cloud, tmp_path, "never-made")
    document = json.loads(path.read_text())
    document["provisioners"].append({"type": "shell", "inline": ["exit 3"]})
    path.write_text(json.dumps(document))
    with pytest.raises(PackerError, match="non-zero exit status: 3"):
        packer.build(path, {}, hear=lambda line: None)
    assert cloud.ec2.describe_images(Filters=[{"Name": "name", "Values": ["never-made"]}])["Images"] == []
    assert left_over(cloud) == before


@pytest.mark.parametrize("end", ["down", "kill"])
def test_nothing_outlives_the_lab(tmp_path: Path, end: str) -> None:
    need_machines()
    state = tmp_path / "lab"
    facts = lab_up(state, LabOptions(source=False, machines=True))
    try:
        cloud = Cloud(**{name: boto_client(facts, name) for name in ("ec2", "ebs", "ssm")}, facts=facts)
        name, key = new_key(cloud, tmp_path)
        instance = cloud.run(KeyName=name)
        session = Session(id=instance["InstanceId"], address=instance["PrivateIpAddress"], key=key)
        session.ssh("sudo systemctl start containerd; setsid sleep 6000 >/dev/null 2>&1 &")
        assert processes(state)
        assert mounts_and_loops(state)
        if end == "kill":
            os.kill(facts.pid, signal.SIGKILL)
    finally:
        lab_down(state)
    assert eventually(lambda: not processes(state) and not mounts_and_loops(state))
    assert "sleep 6000" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_two_labs_have_addresses_of_their_own() -> None:
    need_machines()
    first, second = claim_network(), claim_network()
    assert first.cidr != second.cidr
    first.close()
    second.close()


def test_the_command_starts_a_lab_with_machines_and_says_where_they_are(tmp_path: Path) -> None:
    need_machines()
    state = tmp_path / "lab"
    argv = [sys.executable, "-m", "bundler", "lab", "up", "--machines", "--no-kubernetes", "--state", str(state)]
    try:
        done = subprocess.run([*argv, "-o", "json"], capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        machines = json.loads(done.stdout)["machines"]
        facts = lab_status(state)
        assert facts is not None
        (subnet,) = boto_client(facts, "ec2").describe_subnets(
            Filters=[{"Name": "tag:Name", "Values": ["lab-builder"]}]
        )["Subnets"]
        assert (subnet["SubnetId"], subnet["VpcId"]) == (machines["subnet"], machines["vpc"])
        assert subnet["CidrBlock"].startswith("127.")
    finally:
        lab_down(state)


def test_the_node_disk_is_made_once_and_is_small() -> None:
    need_machines()
    disk: RawDisk = node_disk("v1.36.0")
    before = disk.path.stat().st_mtime_ns
    assert node_disk("v1.36.0").path.stat().st_mtime_ns == before
    assert len(disk.blocks) * BLOCK_BYTES < 200 << 20
