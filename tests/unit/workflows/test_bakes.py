"""The bakes of a build: what is recorded, kept or found is not made again, and is checked whenever it is used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from bundler.archive.payload import folder_digest
from bundler.cache import Cache
from bundler.domain.bake import bake_inputs, with_bakes
from bundler.domain.blob import Blob
from bundler.domain.definition import Definition
from bundler.domain.digest import Digest
from bundler.domain.events import Event, Noted
from bundler.domain.lock import Lock
from bundler.domain.machine_image import FoundImage
from bundler.domain.packer_job import PackerJob
from bundler.errors import FindingsError, LockChangedError, PackerError, StoppedError
from bundler.exports import ExportFolder
from bundler.retry import Patience
from bundler.stages.bake import Bakery, Packer
from bundler.stages.pin import Sights
from bundler.transfer import Pace, pause
from bundler.workflows.bakes import BakeRun, Foundry
from tests.fakes.bakes import SOURCE
from tests.fakes.memory_ec2 import ACCOUNT, AWS, MemoryEc2, MemoryPacker
from tests.fakes.preloads import ami_of, lock_of
from tests.unit.stages.test_export import Snapshots
from tests.unit.stages.test_pin import definition

LINES = {
    "os": "Amazon Linux 2023", "architecture": "amd64", "kernel": "6.12", "containerd": "2.1.5", "runc": "1.3.3",
    "kubelet": "1.36.0", "nodeadm": "v1", "kubelet_sha256": "3" * 64, "credential_provider_sha256": "1" * 64,
    "sandbox_image": "localhost/kubernetes/pause",
}  # fmt: skip
TOLD = "".join(f"{key}={value}\n" for key, value in LINES.items())
TOLD += f"image\tlocalhost/kubernetes/pause\tsha256:{'2' * 64}\tpinned\n"


def no_fetch(lock: Lock, blobs: tuple[Blob, ...]) -> None:
    assert blobs == ()


@dataclass
class World:
    """A lock with one AMI, an empty account, and a cache."""

    folder: Path
    ec2: MemoryEc2 = field(default_factory=MemoryEc2)
    heard: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.source = self.ec2.add("aws", owner=AWS)
        self.packer = MemoryPacker(ec2=self.ec2, facts=TOLD.encode())
        self.at_work: Packer = self.packer
        self.template = self.folder / "template"
        self.template.mkdir()
        for name in ("template.json", "bake.sh", "facts.sh", "cleanup.sh"):
            (self.template / name).write_text(name)
        source = SOURCE.model_copy(update={"id": self.source.id})
        self.ami = ami_of(lock_of(), source=source, volume_size=20)
        self.lock = lock_of().model_copy(update={"amis": (self.ami,), "kubernetes_version": "1.36"})
        self.reader = Snapshots(**{self.snapshot(number): {0: 1, 7: 2} for number in range(1, 9)})

    @staticmethod
    def snapshot(number: int) -> str:
        return f"{number:017x}"

    @property
    def cache(self) -> Cache:
        return Cache(self.folder / "cache")

    @property
    def own(self) -> list[FoundImage]:
        return [one for one in self.ec2.images.values() if one.owner == ACCOUNT]

    @property
    def said(self) -> str:
        return "\n".join(event.text for event in self.heard if isinstance(event, Noted))

    @property
    def foundry(self) -> Foundry:
        calm = Patience(sleep=lambda _: None)
        bakery = Bakery(images=self.ec2, builders=self.ec2, packer=self.at_work, patience=calm)
        return Foundry(
            sights=self._no_sights,
            account=lambda: ACCOUNT,
            region="eu-west-1",
            bakery=lambda: bakery,
            reader=lambda: self.reader,
            place=lambda key: ExportFolder(self.cache, key=key),
            template=self.template,
        )

    def run(self, lock: Lock | None = None, *, again: bool = False, whole: bool = False) -> BakeRun:
        return BakeRun(
            definition=self.definition(),
            lock=lock or self.lock,
            folder=self.folder,
            cache=self.cache,
            foundry=self.foundry,
            fetch=no_fetch,
            again=again,
            whole=whole,
            pace=Pace(emit=self.heard.append),
        )

    @staticmethod
    def definition() -> Definition:
        return definition("  - {name: workers}")

    @staticmethod
    def _no_sights(folder: Path) -> Sights:
        raise AssertionError(folder)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_bake_is_recorded_with_all_that_the_archive_carries_of_it(world: World) -> None:
    lock = world.run().complete()
    (baked,) = lock.bake
    assert (baked.name, baked.architecture, baked.account, baked.region) == ("workers", "amd64", ACCOUNT, "eu-west-1")
    assert baked.facts is not None
    assert baked.facts.kubelet == "1.36.0"
    assert (baked.blocks, baked.packed_with is not None) == (2, True)
    assert all(world.cache.has(blob.digest) for blob in baked.blobs)
    assert baked.inputs == bake_inputs(lock, world.ami, template=folder_digest(world.template))
    assert world.packer.jobs[0].variables["volume_size"] == "20"
    assert not list(world.folder.rglob("payload")), "images that are in the cache anyway"


def test_a_lock_that_records_its_bakes_is_left_alone(world: World) -> None:
    lock = world.run().complete()
    before = list(world.ec2.done)
    assert world.run(lock).complete() is lock
    assert world.ec2.done == before


def test_the_same_inputs_are_taken_from_the_cache_though_the_lock_was_lost(world: World) -> None:
    lock = world.run().complete()
    before = list(world.ec2.done)
    assert world.run().complete() == lock
    assert world.ec2.done == before
    assert "its packs are in the cache" in world.said


def test_packs_that_are_lost_are_read_from_the_ami_again(world: World) -> None:
    lock = world.run().complete()
    (baked,) = lock.bake
    world.cache.path(baked.packs[0].digest).unlink()
    assert world.run().complete() == lock
    assert world.cache.has(baked.packs[0].digest)
    assert len(world.packer.jobs) == 1


def test_a_template_of_ours_that_changed_bakes_again(world: World) -> None:
    world.run().complete()
    (world.template / "bake.sh").write_text("better")
    world.run().complete()
    assert len(world.packer.jobs) == 2


def test_rebake_bakes_again_and_takes_the_place_of_the_record(world: World) -> None:
    lock = world.run().complete()
    again = world.run(lock, again=True).complete()
    assert len(world.packer.jobs) == 2
    assert [one.name for one in again.bake] == ["workers"]
    assert again.bake[0].ami != lock.bake[0].ami


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("is_recorded", [True, False])
def test_rebake_whose_outcome_the_lock_never_got_is_finished_by_the_next_build(
    world: World, again: bool, is_recorded: bool
) -> None:
    first = world.run().complete()
    lock = first if is_recorded else world.lock
    lost = world.run(lock, again=True).complete()
    assert world.run(lock, again=again).complete() == lost
    assert len(world.packer.jobs) == 2, "what was baked is adopted"
    assert [image.id for image in world.own] == [lost.bake[0].ami]
    assert world.run(lost).complete() is lost
    third = world.run(lost, again=True).complete()
    assert len(world.packer.jobs) == 3, "another one"
    assert [image.id for image in world.own] == [third.bake[0].ami]


def test_rebake_that_makes_nothing_leaves_the_ami_that_the_lock_records(world: World) -> None:
    lock = world.run().complete()
    world.packer.error = PackerError("workers", "a script failed")
    with pytest.raises(PackerError):
        world.run(lock, again=True).complete()
    assert world.run(lock).complete() == lock
    assert [image.id for image in world.own] == [lock.bake[0].ami]
    before = list(world.ec2.done)
    assert world.run(lock).complete() is lock
    assert world.ec2.done == before


@pytest.mark.parametrize("lost", ["cache", "lock"])
def test_what_was_baked_before_is_checked_against_what_the_bundle_asks_for_now(world: World, lost: str) -> None:
    lock = world.run().complete()
    older = (lock if lost == "cache" else world.lock).model_copy(update={"kubernetes_version": "1.35"})
    with pytest.raises(FindingsError, match=r"kubelet: is 1\.36\.0, which does not fit Kubernetes 1\.35"):
        world.run(older).complete()
    assert len(world.packer.jobs) == 1


def mended(world: World, **change: object) -> None:
    lock = world.run().complete()
    (baked,) = lock.bake
    changed = baked.model_copy(update=change)
    world.run(with_bakes(lock, (changed,))).mend(changed)


def test_mending_reads_the_recorded_ami_without_the_host_that_baked_it(world: World) -> None:
    lock = world.run().complete()
    for path in world.folder.rglob("facts"):
        path.unlink()
    for blob in lock.bake[0].blobs:
        world.cache.path(blob.digest).unlink()
    world.run(lock).mend(lock.bake[0])
    assert all(world.cache.has(blob.digest) for blob in lock.bake[0].blobs)
    assert len(world.packer.jobs) == 1


def test_packs_of_another_zstandard_name_both_versions(world: World) -> None:
    table = Blob(media_type="x/y", digest=Digest.of(b"other"), size=5)
    with pytest.raises(
        LockChangedError, match=r"made with zstandard 0\.1\.0, and this host's zstandard [0-9]"
    ) as caught:
        mended(world, table=table, packed_with="0.1.0")
    assert "--whole" in caught.value.hint


def test_packs_that_are_lost_are_recorded_anew_where_all_of_it_is_to_be_carried(world: World) -> None:
    lock = world.run().complete()
    for blob in lock.bake[0].packs:
        world.cache.path(blob.digest).unlink()
    other = lock.bake[0].model_copy(update={"packs": (Blob(media_type="x/y", digest=Digest.of(b"other"), size=5),)})
    found = world.run(with_bakes(lock, (other,)), whole=True).complete()
    assert found.bake == lock.bake
    assert len(world.packer.jobs) == 1


def test_a_rebake_ends_with_the_lock_and_the_next_one_bakes_again(world: World) -> None:
    first = world.run().complete()
    run = world.run(first, again=True)
    second = run.complete()
    run.recorded(second)
    assert world.run(first).complete() == first, "an old lock builds what it records, from its packs"
    third = world.run(first, again=True).complete()
    assert len({lock.bake[0].ami for lock in (first, second, third)}) == 3


def test_a_lock_that_records_a_bake_with_another_key_says_so(world: World) -> None:
    lock = world.run().complete()
    run = world.run(lock)
    builder = run.definition.builder.model_copy(update={"kms_key": "arn:aws:kms:eu-west-1:444455556666:key/1"})
    keyed = replace(run, definition=run.definition.model_copy(update={"builder": builder}))
    assert keyed.complete() == lock
    assert "recorded as baked with another builder.kmsKey" in world.said
    assert replace(keyed, lock=world.lock).complete().bake[0].ami != lock.bake[0].ami


def test_an_ami_that_holds_something_else_now_is_told(world: World) -> None:
    index = Blob(media_type="x/y", digest=Digest.of(b"other"), size=5)
    with pytest.raises(LockChangedError, match="holds other blocks than those of ami-"):
        mended(world, index=index)


def test_an_ami_that_is_gone_is_not_baked_anew(world: World) -> None:
    lock = world.run().complete()
    world.ec2.remove(world.ec2.images[lock.bake[0].ami])
    with pytest.raises(LockChangedError, match=f"AMI {lock.bake[0].ami}"):
        world.run(lock).mend(lock.bake[0])
    assert len(world.packer.jobs) == 1


@dataclass
class Packers:
    """A Packer for each run, all at the same time; `before` is called in each build, with its job."""

    ec2: MemoryEc2
    before: Callable[[PackerJob], object]
    of: dict[Digest, MemoryPacker] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def need(self) -> None:
        """It can build AMIs."""

    def build(self, job: PackerJob) -> str:
        self.before(job)
        told = TOLD.replace("amd64", "arm64") if "arm64" in job.name else TOLD
        with self._lock:
            self.of[job.run].facts = told.encode()
            return self.of[job.run].build(job)

    def alone(self, run: Digest) -> AbstractContextManager[None]:
        return self.of.setdefault(run, MemoryPacker(ec2=self.ec2)).alone(run)


def both(world: World) -> Lock:
    """The lock with the AMI for both architectures."""
    source = SOURCE.model_copy(update={"id": world.ec2.add("aws", owner=AWS, architecture="arm64").id})
    arm = ami_of(lock_of(), source=source, volume_size=20, architecture="arm64")
    return world.lock.model_copy(update={"amis": (world.ami, arm)})


def test_both_architectures_are_baked_at_the_same_time(world: World) -> None:
    barrier = threading.Barrier(2)
    world.at_work = Packers(world.ec2, before=lambda job: barrier.wait(timeout=10))
    lock = world.run(both(world)).complete()
    assert [(one.name, one.architecture) for one in lock.bake] == [("workers", "amd64"), ("workers", "arm64")]
    assert [one.facts and one.facts.architecture for one in lock.bake] == ["amd64", "arm64"]
    assert len({one.ami for one in lock.bake}) == 2


def test_the_failure_of_one_bake_calls_off_the_other(world: World) -> None:
    barrier, ended = threading.Barrier(2), list[BaseException]()

    def before(job: PackerJob) -> None:
        barrier.wait(timeout=10)
        if "arm64" in job.name:
            raise PackerError(job.name, "no such instance type")
        wait_to_be_called_off(ended)

    world.at_work = Packers(world.ec2, before=before)
    with pytest.raises(PackerError, match="no such instance type"):
        world.run(both(world)).complete()
    assert [type(error) for error in ended] == [StoppedError]
    assert not list(world.folder.rglob("baked*.json"))


def wait_to_be_called_off(ended: list[BaseException]) -> None:
    """What a long bake does; keeps what ends it."""
    try:
        pause(20)
    except StoppedError as error:
        ended.append(error)
        raise
