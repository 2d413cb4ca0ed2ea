"""`bundle build` with a real Packer in a lab with machines: killed, stopped and failing at any moment of the bake.

Whatever happens, one AMI comes of it in the end, nothing else stays in AWS or on the host, and nothing is baked twice.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import packer as python_packer
from bundler.domain.ami import BakedAmi
from bundler.domain.bake import BAKE_TAG
from bundler.domain.digest import Digest
from bundler.domain.lock import Lock, lock_bytes, parse_lock
from bundler.lab.lab import LabFacts, LabOptions
from bundler.lab.lab import lab as running_lab
from bundler.lab.request_log import read_requests
from bundler.stages.bake import TEMPLATE_TAG
from tests.fakes.images import image, index
from tests.fakes.node import tar_layer
from tests.journey import Workspace, small_definition, workspace
from tests.needs import need_machines, need_packer
from tests.peers import boto_client, lab_control, lab_key
from tests.sandbox.test_lab_machines import eventually, mounts_and_loops

pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(300)]
ACCOUNT, REGION = "444455556666", "eu-west-1"
BUILD = ("build", "--key", "keys/bundle.key")
APP = "registry.example/team/app-0:1.0.0"
CANARY = "c4nary-of-a-template"
EKS = "/aws/service/eks/optimized-ami/1.36/amazon-linux-2023/x86_64/standard/recommended/image_id"


def bundle_yaml(folder: Path, amis: str, *, unpacks: bool = True, name: str = "small", builder: str = "") -> str:
    """A definition with one tiny image and some AMIs; an image that does not unpack fails the bake half way."""
    text = small_definition(folder, images=1, name=name)
    if unpacks:
        write_image(folder / "layout")
    site = f'- {{account: "111122223333", region: {REGION}, prefix: closed}}'
    return f"{text}builder: {{region: {REGION}{builder}}}\ntargets:\n  {site}\namis:\n{amis}\n"


def write_image(layout: Path) -> None:
    """Put an image that containerd can unpack in the place of the one that is there."""
    layers = [tar_layer("app", b"app")]
    made = index(image("app", layers=layers), image("app", platform="linux/arm64", layers=layers))
    for digest, content in {**made.blobs, **{key: raw for key, (_, raw) in made.manifests.items()}}.items():
        (layout / "blobs" / "sha256" / digest.hex).write_bytes(content)
    entry = made.descriptor(annotations={"org.opencontainers.image.ref.name": APP})
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def thin(name: str, **more: str) -> str:
    """An AMI of ours that preloads the image."""
    rest = "".join(f", {key}: {value}" for key, value in more.items())
    return f"  - {{name: {name}, architectures: [amd64], preload: ['{APP}']{rest}}}"


@dataclass(kw_only=True)
class Lab:
    """The lab, and what tests ask of it."""

    facts: LabFacts
    ec2: Any
    folder: Path
    before: Mapping[str, object]

    def space(self, name: str, amis: str, **more: Any) -> Workspace:
        """A folder of one's own with a lock."""
        folder = self.folder / name
        made = workspace(folder, self.facts, bundle_yaml(folder, amis, **more))
        made.environment = {**made.environment, "AWS_ENDPOINT_URL": self.facts.aws_url}
        made.bundle("lock")
        return made

    def own(self, name: str) -> list[dict[str, Any]]:
        """The account's AMIs that our bakes of that name made."""
        wanted = [{"Name": "name", "Values": [f"eks-bundler-{name}-*"]}]
        return list(self.ec2.describe_images(Owners=["self"], Filters=wanted)["Images"])

    def amis(self) -> set[str]:
        """Every AMI of the account, whoever made it."""
        return {one["ImageId"] for one in self.ec2.describe_images(Owners=["self"])["Images"]}

    def snapshots(self) -> set[str]:
        """Every snapshot of the account."""
        return {one["SnapshotId"] for one in self.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]}

    @contextmanager
    def slow_images(self, seconds: float) -> Iterator[None]:
        """AMIs that are made meanwhile are pending for some seconds."""
        lab_control(self.facts, "PATCH", "settings", {"image_pending_s": seconds})
        try:
            yield
        finally:
            lab_control(self.facts, "PATCH", "settings", {"image_pending_s": 0.0})

    def left(self) -> dict[str, object]:
        alive = ["pending", "running", "stopping", "stopped", "shutting-down"]
        states = [{"Name": "instance-state-name", "Values": alive}]
        return {
            "instances": self.ec2.describe_instances(Filters=states)["Reservations"],
            "keys": sorted(key["KeyName"] for key in self.ec2.describe_key_pairs()["KeyPairs"]),
            "groups": sorted(group["GroupId"] for group in self.ec2.describe_security_groups()["SecurityGroups"]),
            "mounts": mounts_and_loops(self.facts.state),
        }

    def asked(self, operation: str) -> int:
        """How often an operation succeeded so far."""
        lines = read_requests(self.facts.requests_file)
        return sum(line.get("operation") == operation and int(str(line["status"])) < 400 for line in lines)

    def groups(self) -> set[str]:
        return {group["GroupId"] for group in self.ec2.describe_security_groups()["SecurityGroups"]}

    @property
    def groups_before(self) -> set[str]:
        return set(self.before["groups"])  # type: ignore[call-overload]

    def needs_nothing_left(self, space: Workspace) -> None:
        """Nothing of a bake is in AWS or on this host, but for AMIs and snapshots."""
        assert eventually(lambda: self.left() == self.before), self.left()
        assert packers(space) == []
        runs = space.folder / "cache" / "packer" / "runs"
        assert [path.name for path in runs.glob("*") if path.suffix != ".lock"] == []
        assert list((space.folder / "cache" / "bakes").glob("*/payload")) == []


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    need_machines()
    need_packer()
    folder = tmp_path_factory.mktemp("bakes")
    with running_lab(folder / "lab", LabOptions(source=False, machines=True, account=ACCOUNT, region=REGION)) as facts:
        made = Lab(facts=facts, ec2=boto_client(facts, "ec2"), folder=folder, before={})
        made.before = made.left()
        yield made


def packers(space: Workspace) -> list[int]:
    """The processes that hold or name this workspace's folder for Packer."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"packer") and str(space.folder / "cache").encode() in b" ".join(words):
                found.append(int(path.name))
    return sorted(found)


def kill_packer(space: Workspace) -> None:
    """Kill Packer, its wrapper and its plugins at once: they are one process group."""
    signal_packer(space, signal.SIGKILL)


def signal_packer(space: Workspace, number: signal.Signals) -> None:
    """Signal Packer, its wrapper and its plugins at once: they are one process group."""
    for group in {os.getpgid(pid) for pid in packers(space)}:
        os.killpg(group, number)


@contextmanager
def building(
    space: Workspace, *arguments: str, **more: str
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    """A build at work, and what it has said so far."""
    log = space.folder / "said"
    with log.open("wb") as out:
        process = space.start(*BUILD, *arguments, stderr=out.fileno(), **more)
    try:
        yield process, log.read_text
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(is_so: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until something is so; the process must not end before."""
    ends = time.monotonic() + 120
    while not is_so():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < ends
        time.sleep(0.02)


def lock_of(space: Workspace) -> Lock:
    return parse_lock((space.folder / "bundle.lock.json").read_bytes(), source="lock")


def needs_one_ami(cloud: Lab, space: Workspace, name: str) -> BakedAmi:
    """One AMI came of it, which the lock records and the tags of image and snapshot name; the archive is whole."""
    (true,) = cloud.own(name)
    (baked,) = lock_of(space).bake
    assert (true["ImageId"], true["State"]) == (baked.ami, "available")
    wanted = [{"Name": f"tag:{BAKE_TAG}", "Values": [str(baked.inputs)]}]
    tagged = cloud.ec2.describe_images(Owners=["self"], Filters=wanted)["Images"]
    assert [one["ImageId"] for one in tagged] == [baked.ami]
    snapshots = cloud.ec2.describe_snapshots(OwnerIds=["self"], Filters=wanted)["Snapshots"]
    assert [one["SnapshotId"] for one in snapshots] == [true["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]]
    space.bundle("verify", "small-1.tar", "--trust", "trust")
    cloud.needs_nothing_left(space)
    return baked


class Watch:
    """Reads every command line on this host for as long as it is held."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    self.seen.add(path.read_bytes())


def recording_packer(folder: Path) -> Path:
    """A folder with a `packer` that writes its words down, and becomes the real one."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "packer"
    real = shutil.which("packer")
    program.write_text(f'#!/bin/sh\nprintf \'%s\\037\' "$@" >>{folder}/argv; echo >>{folder}/argv\nexec {real} "$@"\n')
    program.chmod(0o755)
    return folder / "bin"


class Words:
    """What python-packer uses of its executor; the words that it puts together are kept."""

    def __init__(self, made: list[list[str]], words: tuple[str, ...] = ()) -> None:
        self.exit_code, self.stdout, self.succeeded = 0, "", True
        self._made = made
        self._words = words

    def __getattr__(self, name: str) -> Words:
        return Words(self._made, (*self._words, name))

    def bake(self, *words: str, **_: object) -> Words:
        return Words(self._made, (*self._words, *words))

    def __call__(self) -> Words:
        self._made.append(list(self._words))
        return self


def words_of_python_packer(ran: list[str], folder: Path) -> list[str]:
    """What python-packer's class makes of the same call: same command, some template and some file of variables."""
    template, variables, made = folder / "template.json", folder / "variables.json", list[list[str]]()
    for path in (template, variables):
        path.write_text("{}")
    has_variables = any(word.startswith("-var-file=") for word in ran)
    maker = python_packer.Packer(str(template), var_file=str(variables) if has_variables else None)
    maker.packer = Words(made)
    options = {"parallel": False, "machine_readable": True} if ran[0] == "build" else {}
    getattr(maker, ran[0])(**options)
    return made[-1]


def normal(words: list[str]) -> list[str]:
    """The words without what differs from run to run, and without the one that is ours."""
    plain = [re.sub(r"/\S+/[^/ ]+\.(pkrvars\.)?json$", "FILE", word) for word in words]
    return [word for word in plain if word != "-on-error=cleanup"]


def test_a_bake_is_made_once_with_command_lines_of_python_packer_and_without_secrets_in_them(
    cloud: Lab, tmp_path: Path
) -> None:
    space = cloud.space("once", thin("once"))
    path = f"{recording_packer(tmp_path)}:{os.environ['PATH']}"
    with Watch() as watch:
        first = space.bundle(*BUILD, PATH=path)
    baked = needs_one_ami(cloud, space, "once")
    lines = [line.split("\037")[:-1] for line in (tmp_path / "argv").read_text().splitlines()]
    assert {words[0] for words in lines[:-2]} == {"version"}
    assert [words[0] for words in lines[-2:]] == ["validate", "build"]
    for words in lines[-2:]:
        assert normal(words) == normal(words_of_python_packer(words, tmp_path))
    assert "-on-error=cleanup" in lines[-1]
    assert "-machine-readable" in lines[-1]
    key, secret = lab_key(cloud.facts)
    command_lines = b"\n".join(watch.seen)
    assert b"packer\0build" in command_lines
    for canary in (key.encode(), secret.encode()):
        assert canary not in command_lines
        assert canary.decode() not in first.stdout + first.stderr
        assert all(canary not in file.read_bytes() for file in (space.folder / "cache").rglob("*") if file.is_file())
        assert canary not in (space.folder / "small-1.tar").read_bytes()
    for line in first.stderr.splitlines():
        assert str(space.folder) not in line, "paths tell nobody anything"
    assert "once amd64: launching the instance" in first.stderr
    again_costs_nothing(cloud, space)
    lost_packs_are_read_again(cloud, space, baked)
    other_packs_name_both_versions(cloud, space, baked)


def again_costs_nothing(cloud: Lab, space: Workspace) -> None:
    """The same inputs never bake twice, with the archive or without it."""
    runs, archive = cloud.asked("RunInstances"), space.folder / "small-1.tar"
    before, lock = archive.read_bytes(), (space.folder / "bundle.lock.json").read_bytes()
    space.bundle(*BUILD)
    archive.unlink()
    space.bundle(*BUILD)
    assert archive.read_bytes() == before
    assert (space.folder / "bundle.lock.json").read_bytes() == lock
    assert cloud.asked("RunInstances") == runs


def lost_packs_are_read_again(cloud: Lab, space: Workspace, baked: BakedAmi) -> None:
    """From the AMI that the lock records, to the same bytes; nothing is baked."""
    runs, archive = cloud.asked("RunInstances"), space.folder / "small-1.tar"
    before = Digest.of(archive.read_bytes())
    archive.unlink()
    shutil.rmtree(space.folder / "cache")
    done = space.bundle(*BUILD)
    assert "its packs are lost: reading them from the AMI again" in done.stderr
    assert Digest.of(archive.read_bytes()) == before
    assert cloud.asked("RunInstances") == runs
    assert [one["ImageId"] for one in cloud.own("once")] == [baked.ami]


def other_packs_name_both_versions(cloud: Lab, space: Workspace, baked: BakedAmi) -> None:
    """Another zstandard makes other packs of the same blocks; and where the AMI is gone, that is said."""
    path, archive = space.folder / "bundle.lock.json", space.folder / "small-1.tar"
    kept, lock = path.read_bytes(), lock_of(space)
    table = replace(baked.table, digest=Digest.of(b"other packs"))
    other = baked.model_copy(update={"table": table, "packed_with": "0.1.0"})
    path.write_bytes(lock_bytes(lock.model_copy(update={"bake": (other,)})))
    archive.unlink()
    shutil.rmtree(space.folder / "cache")
    refused = space.bundle(*BUILD, expect=2)
    assert "they were made with zstandard 0.1.0, and this host's" in " ".join(refused.stderr.split())
    assert f"zstandard {baked.packed_with} makes others" in " ".join(refused.stderr.split())
    path.write_bytes(kept)
    cloud.ec2.deregister_image(ImageId=baked.ami)
    shutil.rmtree(space.folder / "cache")
    for file in space.folder.glob("small-1.tar*"):
        file.unlink()
    runs = cloud.asked("RunInstances")
    gone = space.bundle(*BUILD, expect=2)
    assert f"AMI {baked.ami}" in gone.stderr
    assert "bundle build --rebake" in gone.stderr
    assert cloud.asked("RunInstances") == runs


KILLS: Mapping[str, tuple[str, str, str]] = {
    "both-key": ("both", "CreateKeyPair", "removing"),
    "both-script": ("both", "running a script", "removing instance"),
    "us-upload": ("us", "uploading payload", "removing|is baked already"),
    "packer-script": ("packer", "running a script", ""),
    "both-image": ("both", "CreateImage", "is baked already"),
    "us-image": ("us", "CreateImage", "is baked already"),
    "us-export": ("us", "GetSnapshotBlock", "is baked already"),
}


@pytest.mark.parametrize("name", KILLS)
def test_a_build_that_is_killed_goes_on_and_leaves_one_ami(cloud: Lab, name: str) -> None:
    who, moment, said = KILLS[name]
    space = cloud.space(name, thin(name))
    before, runs = cloud.asked(moment), cloud.asked("RunInstances")
    with building(space) as (process, log):
        wait_for(lambda: moment in log() or cloud.asked(moment) > before, process)
        if who != "packer":
            os.killpg(process.pid, signal.SIGKILL)
        if who != "us":
            kill_packer(space)
        process.wait(120)
        text = log()
    if who == "packer":
        assert process.returncode == 6, text
        assert "killed by signal 9" in text
        cloud.needs_nothing_left(space)
    second = space.bundle(*BUILD)
    assert re.search(said, " ".join(second.stderr.split())), second.stderr
    needs_one_ami(cloud, space, name)
    assert cloud.asked("RunInstances") - runs <= 2
    if moment in ("CreateImage", "GetSnapshotBlock"):
        assert cloud.asked("RunInstances") - runs == 1, "what was baked is adopted"


@pytest.mark.parametrize(
    ("who", "number"),
    [
        ("us", signal.SIGKILL), ("both", signal.SIGKILL), ("packer", signal.SIGKILL),
        ("us", signal.SIGTERM), ("us", signal.SIGINT), ("both", signal.SIGTERM), ("packer", signal.SIGTERM),
    ],
)  # fmt: skip
def test_whoever_ends_while_the_ami_is_pending_the_next_build_leaves_one_ami(
    cloud: Lab, who: str, number: signal.Signals
) -> None:
    name = f"wait-{who}-{number.value}"
    space = cloud.space(name, thin(name))
    images, snapshots = cloud.amis(), cloud.snapshots()
    with building(space) as (process, log):
        with cloud.slow_images(6.0):
            wait_for(lambda: [one["State"] for one in cloud.own(name)] == ["pending"], process)
        if who != "us":
            signal_packer(space, number)
        if who != "packer":
            process.send_signal(number)
        process.wait(60)
        said = log()
    if number != signal.SIGKILL and who == "us":
        assert process.returncode == 128 + number, said
        cloud.needs_nothing_left(space)
    elif who == "packer":
        assert process.returncode == 6, said
        cloud.needs_nothing_left(space)
    space.bundle(*BUILD)
    baked = needs_one_ami(cloud, space, name)
    assert cloud.amis() - images == {baked.ami}
    assert len(cloud.snapshots() - snapshots) == 1


REBAKES: Mapping[str, tuple[str, bool]] = {
    "script": ("running a script", False),
    "image": ("CreateImage", True),
    "snapshot": ("DeregisterImage", True),
    "export": ("GetSnapshotBlock", True),
}
"""When it is killed, and whether the new AMI has been made then."""


@pytest.mark.parametrize("name", REBAKES)
def test_rebake_that_is_killed_ends_with_one_ami_and_none_before_the_new_one_is_there(cloud: Lab, name: str) -> None:
    moment, is_made = REBAKES[name]
    space = cloud.space(f"again-{name}", thin(f"again-{name}"))
    images, snapshots = cloud.amis(), cloud.snapshots()
    space.bundle(*BUILD)
    old = needs_one_ami(cloud, space, f"again-{name}")
    before, runs = cloud.asked(moment), cloud.asked("RunInstances")
    if name == "snapshot":
        fault = {"service": "ec2", "operation": "DeleteSnapshot", "kind": "unavailable", "times": 1000}
        lab_control(cloud.facts, "POST", "faults", fault)
    try:
        with building(space, "--rebake") as (process, log):
            wait_for(lambda: moment in log() or cloud.asked(moment) > before, process)
            os.killpg(process.pid, signal.SIGKILL)
            kill_packer(space)
            process.wait(60)
    finally:
        lab_control(cloud.facts, "DELETE", "faults")
    if name in ("script", "image"):
        assert old.ami in cloud.amis()
    space.bundle(*BUILD)
    baked = needs_one_ami(cloud, space, f"again-{name}")
    assert (baked.ami != old.ami) is is_made
    assert cloud.asked("RunInstances") - runs == 1
    assert cloud.amis() - images == {baked.ami}
    assert len(cloud.snapshots() - snapshots) == 1


@pytest.mark.parametrize("who", ["nobody", "both"])
def test_a_bake_with_a_key_makes_one_ami_whose_snapshot_bears_that_key_whoever_is_killed(cloud: Lab, who: str) -> None:
    key = boto_client(cloud.facts, "kms").create_key()["KeyMetadata"]
    name = f"key-{who}"
    space = cloud.space(name, thin(name), builder=f", kmsKey: {key['Arn']}")
    before, images = cloud.asked("CreateImage"), cloud.amis()
    if who == "both":
        with building(space) as (process, _):
            wait_for(lambda: cloud.asked("CreateImage") > before, process)
            os.killpg(process.pid, signal.SIGKILL)
            kill_packer(space)
    space.bundle(*BUILD)
    baked = needs_one_ami(cloud, space, name)
    assert cloud.amis() - images == {baked.ami}
    (true,) = cloud.own(name)
    snapshot = true["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    (found,) = cloud.ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"]
    assert (found["Encrypted"], found["KmsKeyId"]) == (True, key["Arn"])
    assert cloud.asked("CreateImage") - before == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_build_that_is_stopped_ends_with_its_code_and_leaves_nothing(
    cloud: Lab, number: signal.Signals, code: int
) -> None:
    name = f"stop{code}"
    space = cloud.space(name, thin(name))
    with building(space) as (process, log):
        wait_for(lambda: "uploading payload" in log(), process)
        process.send_signal(number)
        process.wait(60)
        assert process.returncode == code, log()
    assert cloud.own(name) == []
    cloud.needs_nothing_left(space)


def test_a_second_host_that_bakes_the_same_refuses_and_the_first_is_not_disturbed(cloud: Lab) -> None:
    space = cloud.space("twice", thin("twice"))
    runs = cloud.asked("RunInstances")
    with building(space) as (process, log):
        wait_for(lambda: "running a script" in log(), process)
        elsewhere = {"BUNDLE_CACHE_DIR": str(space.folder / "elsewhere")}
        refused = space.bundle(*BUILD, "--out", "other", expect=7, **elsewhere)
        process.wait(120)
        assert process.returncode == 0, log()
    said = " ".join(refused.stderr.split())
    assert "is being baked by" in said
    assert "last heard of" in said
    assert cloud.asked("RunInstances") - runs == 1
    needs_one_ami(cloud, space, "twice")


def test_a_floor_that_the_ami_does_not_reach_is_told_and_nothing_stays(cloud: Lab) -> None:
    space = cloud.space("floor", thin("floor", floors="{containerd: '99.0', runc: '1.1'}"))
    done = space.bundle(*BUILD, expect=3)
    assert re.search(r"containerd: is [0-9.]+, below the floor 99\.0", " ".join(done.stderr.split()))
    assert "Take a newer source AMI (release), or lower the floor." in " ".join(done.stderr.split())
    assert "runc" not in done.stderr
    assert cloud.own("floor") == []
    cloud.needs_nothing_left(space)


def test_a_script_that_fails_half_way_is_told_with_its_step_and_nothing_stays(cloud: Lab) -> None:
    space = cloud.space("broken", thin("broken"), unpacks=False)
    done = space.bundle(*BUILD, expect=6)
    said = " ".join(done.stderr.split())
    assert "Packer failed: AMI broken amd64" in said
    assert "running a script: Script exited with non-zero exit status" in said
    assert re.search(r"bake: failed at: importing [0-9a-f]{64}\.tar", said)
    assert cloud.own("broken") == []
    cloud.needs_nothing_left(space)


def test_without_packer_the_build_says_how_to_get_it_and_the_way_round(cloud: Lab) -> None:
    space = cloud.space("absent", thin("absent"))
    done = space.bundle(*BUILD, expect=6, PATH="/nonexistent")
    said = " ".join(done.stderr.split())
    assert "Install Packer 1.6 or newer" in said
    assert "one for each architecture: architectures: [amd64], ami: {id: ami-" in said
    cloud.needs_nothing_left(space)


def team_template(folder: Path, cloud: Lab, *inline: str) -> None:
    """A team's own template in the legacy form: a greeting goes onto AWS's AMI."""
    folder.mkdir(parents=True)
    source = boto_client(cloud.facts, "ssm").get_parameter(Name=EKS)["Parameter"]["Value"]
    assert cloud.facts.machines is not None
    builder = {
        "type": "amazon-ebs", "region": REGION, "custom_endpoint_ec2": cloud.facts.aws_url, "source_ami": source,
        "instance_type": "m6i.large", "ami_name": "the-teams-{{user `version`}}", "ssh_username": "ec2-user",
        "ssh_interface": "private_ip", "subnet_id": cloud.facts.machines.subnet, "tags": {"team": "a"},
    }  # fmt: skip
    document = {
        "variables": {"version": "", "password": ""},
        "sensitive-variables": ["password"],
        "builders": [builder],
        "provisioners": [
            {"type": "shell", "inline": list(inline) or ["sudo touch /etc/greeting", "echo {{user `password`}}"]}
        ],
    }
    (folder / "worker.json").write_text(json.dumps(document))


def team_ami(name: str, version: str) -> str:
    variables = f"{{version: '{version}', password: {CANARY}}}"
    return thin(name, ami=f"{{template: {{folder: packer, file: worker.json, variables: {variables}}}}}")


def test_a_teams_own_template_is_built_once_and_baked_upon_and_its_secrets_do_not_show(cloud: Lab) -> None:
    team_template(cloud.folder / "team" / "packer", cloud)
    space = cloud.space("team", team_ami("team", "1"))
    with Watch() as watch:
        first = space.bundle(*BUILD)
    (theirs,) = cloud.ec2.describe_images(Owners=["self"], Filters=[{"Name": "name", "Values": ["the-teams-1"]}])[
        "Images"
    ]
    tags = {tag["Key"]: tag["Value"] for tag in theirs["Tags"]}
    (ami,) = lock_of(space).amis
    assert (tags["team"], tags[TEMPLATE_TAG]) == ("a", str(ami.template))
    (ours,) = cloud.own("team")
    assert {tag["Key"]: tag["Value"] for tag in ours["Tags"]}["bundle:source-ami"] == theirs["ImageId"]
    cloud.needs_nothing_left(space)
    assert CANARY.encode() not in b"\n".join(watch.seen)
    assert CANARY not in first.stdout + first.stderr
    assert all(
        CANARY.encode() not in file.read_bytes() for file in (space.folder / "cache").rglob("*") if file.is_file()
    )
    assert CANARY.encode() not in (space.folder / "small-1.tar").read_bytes()
    runs = cloud.asked("RunInstances")
    space.bundle(*BUILD)
    assert cloud.asked("RunInstances") == runs


def test_a_teams_ami_that_is_pending_when_all_are_killed_is_adopted_and_its_builder_is_removed(cloud: Lab) -> None:
    team_template(cloud.folder / "cut" / "packer", cloud)
    space = cloud.space("cut", team_ami("cut", "3"))
    images, before = cloud.amis(), cloud.asked("CreateImage")
    with building(space) as (process, _):
        with cloud.slow_images(3.0):
            wait_for(lambda: cloud.asked("CreateImage") > before and list(space.folder.rglob("*.ami")) != [], process)
        assert len(cloud.groups() - cloud.groups_before) == 1, "Packer made none of its own"
        os.killpg(process.pid, signal.SIGKILL)
        kill_packer(space)
    (pending,) = cloud.amis() - images
    said = " ".join(space.bundle(*BUILD).stderr.split())
    assert f"your template made AMI {pending} before" in said
    (ours,) = cloud.own("cut")
    assert cloud.amis() - images == {pending, ours["ImageId"]}
    assert cloud.asked("CreateImage") - before == 2
    cloud.needs_nothing_left(space)


def test_a_teams_template_that_fails_or_is_none_is_told_and_nothing_stays(cloud: Lab) -> None:
    team_template(
        cloud.folder / "faulty" / "packer", cloud, "echo out of room >&2", "sleep 0.5", "exit 3"
    )  # packer may drop what comes with the exit
    space = cloud.space("faulty", team_ami("faulty", "2"))
    said = " ".join(space.bundle(*BUILD, expect=6).stderr.split())
    assert "running a script: Script exited with non-zero exit status: 3" in said
    assert "out of room" in said
    cloud.needs_nothing_left(space)
    (space.folder / "packer" / "worker.json").write_text("{")
    said = space.bundle(*BUILD, expect=2).stderr
    assert "is another template than the lock pins" in " ".join(said.split())
    space.bundle("lock")
    said = " ".join(space.bundle(*BUILD, expect=2).stderr.split())
    assert "worker.json" in said
    assert "is no Packer template" in said
    cloud.needs_nothing_left(space)


def test_public_amis_are_copied_once_and_carried_bottlerocket_with_both_devices(cloud: Lab) -> None:
    source = boto_client(cloud.facts, "ssm").get_parameter(Name=EKS)["Parameter"]["Value"]
    amis = (
        f"  - {{name: carried, architectures: [amd64], ami: {{id: {source}}}}}\n"
        "  - {name: rocket, architectures: [amd64], ami: {bottlerocket: {version: 1.50.0}}}"
    )
    space = cloud.space("carried", amis)
    runs, copies = cloud.asked("RunInstances"), cloud.asked("CopyImage")
    space.bundle(*BUILD, PATH="/nonexistent")
    assert (cloud.asked("RunInstances"), cloud.asked("CopyImage") - copies) == (runs, 2)
    baked = {one.name: one for one in lock_of(space).bake}
    assert [len(cloud.own(name)) for name in ("carried", "rocket")] == [1, 1]
    assert baked["carried"].ami != source
    assert [(one.device, one.size) for one in baked["rocket"].attributes.devices] == [
        ("/dev/xvda", 2),
        ("/dev/xvdb", 20),
    ]
    assert baked["rocket"].attributes.uefi_data
    assert baked["rocket"].attributes.tpm_support == "v2.0"
    assert all(one.facts is None for one in baked.values())
    archive = space.folder / "small-1.tar"
    before = Digest.of(archive.read_bytes())
    archive.unlink()
    shutil.rmtree(space.folder / "cache")
    space.bundle(*BUILD)
    assert Digest.of(archive.read_bytes()) == before
    assert cloud.asked("CopyImage") - copies == 2
    space.bundle("verify", "small-1.tar", "--trust", "trust")
    cloud.needs_nothing_left(space)
