"""EC2 and Packer in memory, as a bake sees them; what is done to them is written down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bundler.domain.bake import BAKE_TAG
from bundler.domain.digest import Digest
from bundler.domain.leftover import Leftover
from bundler.domain.machine_image import FoundDevice, FoundImage, ImageCopy
from bundler.domain.packer_job import PackerJob
from bundler.domain.snapshot import FoundSnapshot
from bundler.errors import ConflictError, MissingToolError, PackerError

ACCOUNT, AWS, OTHERS = "444455556666", "602401143452", "999988887777"


def snapshot_id(number: int) -> str:
    return f"snap-{number:017x}"


@dataclass(kw_only=True)
class MemoryEc2:
    """AMIs, snapshots, instances and security groups of one account; other accounts' AMIs are seen, too.

    Attributes:
        later: state of an AMI -> the states that it takes at each further look.
        hidden: AMI -> how often it is not seen yet.
        fail: operation -> what it raises.
        done: what was changed, in order.
    """

    images: dict[str, FoundImage] = field(default_factory=dict)
    snapshot_owners: dict[str, str] = field(default_factory=dict)
    leftover: list[Leftover] = field(default_factory=list)
    later: dict[str, list[str]] = field(default_factory=dict)
    hidden: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    fail: dict[str, Exception] = field(default_factory=dict)
    uefi: str | None = None
    done: list[str] = field(default_factory=list)
    next_copy: Callable[[FoundImage], FoundImage] = lambda image: image
    _made: int = 0

    def add(self, name: str, *, owner: str = ACCOUNT, snapshot_owner: str | None = None, **more: object) -> FoundImage:
        """Put an AMI with one snapshot there."""
        self._made += 1
        snapshot = snapshot_id(self._made)
        self.snapshot_owners[snapshot] = snapshot_owner or owner
        given = {"state": "available", "architecture": "amd64", **more}
        devices = (FoundDevice(device="/dev/xvda", snapshot=snapshot, gib=20),)
        made = FoundImage(id=f"ami-{self._made:017x}", name=name, owner=owner, devices=devices, **given)  # type: ignore[arg-type]
        self.images[made.id] = made
        return made

    def _look(self, ami: str) -> FoundImage | None:
        if self.hidden.get(ami, 0):
            self.hidden[ami] -= 1
            return None
        found = self.images.get(ami)
        if found is not None and self.later.get(ami):
            found = self.images[ami] = replace(found, state=self.later[ami].pop(0))
        return found

    def image(self, ami: str) -> FoundImage | None:
        return self._look(ami)

    def own_named(self, name: str) -> FoundImage | None:
        own = (one for one in self.images.values() if (one.name, one.owner) == (name, ACCOUNT))
        return next(own, None)

    def own_tagged(self, key: str, value: str) -> tuple[FoundImage, ...]:
        return tuple(one for one in self.images.values() if one.owner == ACCOUNT and one.tags.get(key) == value)

    def snapshots(self, ids: Sequence[str]) -> Mapping[str, FoundSnapshot]:
        return {
            one: FoundSnapshot(id=one, state="completed", tags={}, owner=self.snapshot_owners[one])
            for one in ids
            if one in self.snapshot_owners
        }

    def uefi_data(self, ami: str) -> str | None:
        assert self.images[ami].owner == ACCOUNT, "EC2 tells the owner alone"
        return self.uefi

    def copy(self, wanted: ImageCopy) -> str:
        self._may("copy")
        if wanted.token not in self.tokens:
            source = self.images[wanted.source]
            made = self.add(wanted.name, tags=dict(wanted.tags), architecture=source.architecture)
            self.images[made.id] = self.next_copy(made)
            self.tokens[wanted.token] = made.id
            self.done.append(f"copy {wanted.source} as {wanted.name}")
        return self.tokens[wanted.token]

    def tag(self, ids: Sequence[str], tags: Mapping[str, str]) -> None:
        self._may("tag")
        for one in ids:
            if one in self.images:
                self.images[one] = replace(self.images[one], tags={**self.images[one].tags, **tags})
        self.done.append(f"tag {' '.join(ids)}")

    def remove(self, target: FoundImage | Leftover) -> None:
        self._may("remove")
        if isinstance(target, Leftover):
            self.leftover.remove(target)
        else:
            del self.images[target.id]
            for one in target.snapshots:
                self.snapshot_owners.pop(one.snapshot)
        self.done.append(f"remove {target if isinstance(target, Leftover) else target.id}")

    def group(self, run: Digest, subnet: str | None) -> str:
        self._may("group")
        made = Leftover(kind="security group", id=f"sg-of-{subnet}")
        self.leftover.append(made)
        self.done.append(f"make {made}")
        return made.id

    def leftovers(self, run: Digest) -> tuple[Leftover, ...]:
        return tuple(self.leftover)

    def _may(self, operation: str) -> None:
        if operation in self.fail:
            raise self.fail[operation]


@dataclass(kw_only=True)
class MemoryPacker:
    """Packer: what it builds is an AMI of `ec2`, and what it says of itself stands in the facts file."""

    ec2: MemoryEc2
    facts: bytes | None = b"facts"
    jobs: list[PackerJob] = field(default_factory=list)
    error: BaseException | None = None
    state: str = "available"
    held: list[Digest] = field(default_factory=list)

    def need(self) -> None:
        if isinstance(self.error, MissingToolError):
            raise self.error

    def build(self, job: PackerJob) -> str:
        assert self.held == [job.run], "it is held alone"
        self.jobs.append(job)
        self.ec2.done.append(f"packer {job.name}")
        if self.error is not None:
            self.ec2.leftover.append(Leftover(kind="instance", id="i-left"))
            raise self.error
        if job.tags is not None:
            return self.ec2.add("the team's own", tags=dict(job.tags), root_device="/dev/xvda").id
        if self.facts is not None:
            Path(job.variables["facts_file"]).write_bytes(self.facts)
        name = job.variables["ami_name"]
        if self.ec2.own_named(name) is not None:
            raise PackerError(job.name, f"AMI name {name} is taken")
        made = self.ec2.add(name, description=job.variables["ami_description"], state=self.state)
        self.ec2.images[made.id] = replace(made, tags={BAKE_TAG: job.variables["run_tag"]})
        return made.id

    @contextmanager
    def alone(self, run: Digest) -> Iterator[None]:
        if self.held:
            raise ConflictError(str(run), "is held already")
        self.held.append(run)
        try:
            yield
        finally:
            self.held.remove(run)
