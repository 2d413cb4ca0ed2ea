"""A baked AMI is the same disk in another account and Region, and the containerd on it has what pods ask for.

The real Packer bakes it in one lab, the restore phase brings it into another; the disk is then opened, and the
containerd that is on it started.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from bundler.adapters.archive_file import ArchiveFile
from bundler.adapters.documents import read_document
from bundler.adapters.helm import Helm, HelmSettings
from bundler.archive.identity import self_consistent
from bundler.archive.reader import Archive
from bundler.domain.bake import BAKE_TAG
from bundler.domain.blocks import BLOCK_BYTES
from bundler.domain.image_map import PrivateRegistry, image_map
from bundler.domain.restored import AMI_TAG
from bundler.domain.site import Site, parse_site
from bundler.lab.lab import LabFacts, LabOptions
from bundler.lab.lab import lab as running_lab
from bundler.lab.tools import Tools
from bundler.stages.push import plan_push, pushes_of
from bundler.stages.release import SiteFacts, prepare
from tests.closed import write_definition
from tests.journey import Workspace, clean_environment, workspace
from tests.needs import need_machines, need_packer
from tests.peers import boto_client
from tests.restores import RESTORING, ROOT, read_blocks

pytestmark = [pytest.mark.sandbox, pytest.mark.loopback, pytest.mark.slow, pytest.mark.timeout(900)]
SITE_ACCOUNT, SITE_REGION = "111122223333", "eu-central-1"
BUILDER_ACCOUNT, BUILDER_REGION = "444455556666", "eu-west-1"
SNAPSHOTTER = {"CONTAINERD_SNAPSHOTTER": "native"}
"""What the lab's disk is configured for: an overlay cannot lie on an overlay."""
PAUSE = "localhost/kubernetes/pause:latest"
AMIS = {
    "builder": {"region": BUILDER_REGION},
    "targets": [{"account": SITE_ACCOUNT, "region": SITE_REGION, "prefix": "closed"}],
    "amis": [
        {"name": "al2023", "architectures": ["amd64"], "floors": {"containerd": "1.6.0", "runc": "1.1.0"}},
    ],
}
OPEN = r"""
set -eu
mount --make-rprivate /
mkdir -p "$WORK/lower" "$WORK/layers" "$WORK/root"
mount -o loop,ro "$DISK" "$WORK/lower"
mount -t tmpfs layers "$WORK/layers"
mkdir "$WORK/layers/upper" "$WORK/layers/work"
mount -t overlay -o "lowerdir=$WORK/lower,upperdir=$WORK/layers/upper,workdir=$WORK/layers/work" overlay "$WORK/root"
mount -t proc proc "$WORK/root/proc"
mount -t tmpfs run "$WORK/root/run"
mount -t tmpfs tmp "$WORK/root/tmp"
mount --rbind /dev "$WORK/root/dev"
exec chroot "$WORK/root" /bin/sh -c '
  systemctl start containerd
  tries=0
  until ctr version >/dev/null 2>&1; do tries=$((tries + 1)); test $tries -lt 200; sleep 0.1; done
  ctr --namespace k8s.io images ls
  echo ---
  ctr --namespace k8s.io images check
  systemctl stop containerd
'
"""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What was baked outside, and what became of it inside.

    Attributes:
        baked: number -> SHA-256 of every block of the snapshot that Packer's AMI was made of.
        disk: the blocks of the restored snapshot as a file.
    """

    place: Workspace
    inside: LabFacts
    site: Site
    baked: Mapping[int, str]
    disk: Path

    @property
    def archive(self) -> Path:
        return self.place.folder / "closed-minimal-1.tar"


def root_snapshot(facts: LabFacts, tag: str) -> str:
    """The snapshot of the one AMI of the account that has a tag."""
    wanted = [{"Name": "tag-key", "Values": [tag]}]
    (image,) = boto_client(facts, "ec2").describe_images(Owners=["self"], Filters=wanted)["Images"]
    (device,) = image["BlockDeviceMappings"]
    return str(device["Ebs"]["SnapshotId"])


def digests(blocks: Mapping[int, bytes]) -> dict[int, str]:
    return {number: hashlib.sha256(content).hexdigest() for number, content in blocks.items()}


@pytest.fixture(scope="module")
def restored(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restored]:
    need_machines()
    need_packer()
    folder = tmp_path_factory.mktemp("restored")
    options = LabOptions(account=BUILDER_ACCOUNT, region=BUILDER_REGION, machines=True)
    with running_lab(folder / "outside", options) as outside:
        definition = yaml.safe_load(write_definition(tools)) | AMIS
        place = workspace(folder / "place", outside, yaml.safe_dump(definition, sort_keys=False))
        place.build(AWS_ENDPOINT_URL=outside.aws_url)
        baked = digests(read_blocks(boto_client(outside, "ebs"), root_snapshot(outside, BAKE_TAG)))
    with running_lab(folder / "inside", LabOptions(account=SITE_ACCOUNT, region=SITE_REGION, source=False)) as inside:
        site = write_site(inside, place.folder / "site.yaml")
        restore(place, inside)
        blocks = read_blocks(boto_client(inside, "ebs"), root_snapshot(inside, AMI_TAG))
        disk = write_disk(folder / "disk", blocks, gib=20)
        yield Restored(place=place, inside=inside, site=site, baked=baked, disk=disk)


def write_site(facts: LabFacts, path: Path) -> Site:
    document = yaml.safe_load(facts.site_file.read_text())
    document["nodeGroups"][0]["ami"] = "al2023"
    path.write_text(yaml.safe_dump(document, sort_keys=False, width=4096))
    return parse_site(read_document(path))


def restore(place: Workspace, facts: LabFacts) -> None:
    environment = {
        **clean_environment(),
        **facts.environment(),
        "XDG_STATE_HOME": str(place.folder / "state"),
        "PYTHONPATH": str(ROOT),
    }
    place.accept(place.folder / "keys" / "trust.json")
    argv = [*RESTORING, "restore", "closed-minimal-1.tar", "site.yaml", "trust"]
    done = subprocess.run(
        argv, cwd=place.folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr


def write_disk(path: Path, blocks: Mapping[int, bytes], *, gib: int) -> Path:
    """Write blocks as the sparse image of a volume."""
    with path.open("wb") as file:
        for number, content in blocks.items():
            file.seek(number * BLOCK_BYTES)
            file.write(content)
        file.truncate(gib << 30)
    return path


def open_disk(disk: Path, work: Path) -> str:
    """Start the containerd of a disk in namespaces of its own, over which nothing outlives this call; what ctr says."""
    work.mkdir()
    environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DISK": str(disk), "WORK": str(work), **SNAPSHOTTER}
    argv = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", OPEN]
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True, kw_only=True)
class Image:
    """One line of `ctr images ls`."""

    name: str
    digest: str
    labels: str


def listed(text: str) -> dict[str, Image]:
    """By name; the names that containerd's CRI plugin gives each image by its id are left out."""
    lines = [re.split(r" +", line.strip()) for line in text.partition("\n---\n")[0].splitlines()[1:]]
    found = {words[0]: Image(name=words[0], digest=words[2], labels=words[-1]) for words in lines}
    return {name: image for name, image in found.items() if not name.startswith("sha256:")}


def canonical(reference: str) -> str:
    """What containerd's CRI plugin looks a reference up by: where there is a digest, the tag says nothing."""
    return re.sub(r":[^:/@]+@", "@", reference)


@pytest.fixture(scope="module")
def said(restored: Restored, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the containerd of the restored disk says."""
    return open_disk(restored.disk, tmp_path_factory.mktemp("opened") / "work")


@pytest.fixture(scope="module")
def archive(restored: Restored) -> Iterator[Archive]:
    with ArchiveFile.open(restored.archive) as source:
        yield self_consistent(source)


def test_the_restored_snapshot_is_the_baked_one_byte_for_byte(restored: Restored) -> None:
    blocks = read_blocks(boto_client(restored.inside, "ebs"), root_snapshot(restored.inside, AMI_TAG))
    zeros = hashlib.sha256(bytes(BLOCK_BYTES)).hexdigest()
    written = {number: digest for number, digest in restored.baked.items() if digest != zeros}
    assert digests(blocks) == written
    assert len(written) > 300


def test_the_containerd_of_the_disk_lists_every_preloaded_image_with_its_digest_and_pinned(
    archive: Archive, said: str
) -> None:
    images = listed(said)
    (baked,) = archive.lock.bake
    assert baked.facts is not None
    assert {name: image.digest for name, image in images.items()} == {
        one.name: str(one.digest) for one in baked.facts.images
    }
    assert all("io.cri-containerd.pinned=pinned" in image.labels for image in images.values())
    assert len(images) == 13


def test_its_pause_image_is_there_and_is_what_containerd_starts_pods_with(archive: Archive, said: str) -> None:
    (baked,) = archive.lock.bake
    assert baked.facts is not None
    assert baked.facts.sandbox_image == PAUSE
    assert PAUSE in listed(said)


def test_the_content_of_every_image_is_complete_and_unpacked(said: str) -> None:
    lines = [line.split() for line in said.partition("\n---\n")[2].splitlines()[1:]]
    assert {words[0] for words in lines} >= set(listed(said))
    for words in lines:
        assert "complete" in words, words
        assert words[-1] == "true", words


def test_what_rendered_core_charts_ask_for_is_what_containerd_has(
    restored: Restored, archive: Archive, said: str, tools: Tools, tmp_path: Path
) -> None:
    """The same render as install's: the private reference of each image, by digest, is a name in containerd."""
    site, lock, images = restored.site, archive.lock, listed(said)
    private = PrivateRegistry(host=site.registry_host, prefix=site.registry.prefix)
    pushes = pushes_of(lock, image_target=private.image, chart_target=private.chart)
    references = plan_push(pushes, present={}, immutable=True).references
    helm = Helm(HelmSettings(binary=tools.helm4.path, work=tmp_path, kubeconfig=tmp_path / "none", environ=os.environ))
    prepared = prepare(
        lock,
        read=archive.read,
        images=image_map(lock, references, host=site.registry_host),
        facts=SiteFacts(endpoint=site.cluster.endpoint, service_cidr=site.cluster.service_cidr),
        charts=helm,
    )
    asked = {
        name
        for release in prepared
        if release.locked.role == "core"
        for name in re.findall(rf"{re.escape(private.host)}/[^\s\"']+", release.manifests)
    }
    assert len(asked) == 5
    for name in map(canonical, asked):
        assert re.fullmatch(rf"{re.escape(private.host)}/closed/[^@:]+@sha256:[0-9a-f]{{64}}", name)
        assert images[name].digest == name.partition("@")[2]


def test_nothing_that_opened_the_disk_is_left(restored: Restored, said: str) -> None:
    assert said
    loops = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    assert not [text for text in loops if str(restored.disk) in text]
    assert str(restored.disk.parent) not in Path("/proc/self/mountinfo").read_text()
