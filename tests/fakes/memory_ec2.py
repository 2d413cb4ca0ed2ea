"""EC2 and Packer in memory, as a bake sees them; what is done to them is written down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from bundler.domain.bake import BAKE_TAG
from bundler.domain.digest import Digest
from bundler.domain.leftover import Leftover
from bundler.domain.machine_image import FoundDevice, FoundImage, ImageCopy
from bundler.domain.packer_job import NotedAmi, PackerJob
from bundler.domain.snapshot import FoundSnapshot
from bundler.domain.team_template import TeamNetwork
from bundler.errors import ConflictError, MissingToolError, PackerError

ACCOUNT, AWS, OTHERS = "444455556666", "602401143452", "999988887777"


def snapshot_id(number: int) -> str:
    return f"snap-{number:017x}"


@dataclass(kw_only=True)
class MemoryEc2:
    """AMIs, snapshots, instances and security groups of one account; other accounts' AMIs are seen, too.

    Attributes:
        later: state of an AMI -> the states that it takes at each further look.
        permissions: AMI -> who else may launch it.
        descriptions: of snapshots that EC2 did not make for an AMI.
        held_snapshots: those that EC2 does not let go.
        hidden: AMI -> how often it is not seen yet.
        fail: operation -> what it raises.
        done: what was changed, in order.
    """

    images: dict[str, FoundImage] = field(default_factory=dict)
    snapshot_owners: dict[str, str] = field(default_factory=dict)
    leftover: list[Leftover] = field(default_factory=list)
    permissions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    snapshot_tags: dict[str, dict[str, str]] = field(default_factory=dict)
    descriptions: dict[str, str] = field(default_factory=dict)
    held_snapshots: set[str] = field(default_factory=set)
    later: dict[str, list[str]] = field(default_factory=dict)
    hidden: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    fail: dict[str, BaseException] = field(default_factory=dict)
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

    def own_like(self, pattern: str) -> tuple[FoundImage, ...]:
        return tuple(one for one in self.images.values() if one.owner == ACCOUNT and fnmatchcase(one.name, pattern))

    def own_tagged(self, key: str, value: str) -> tuple[FoundImage, ...]:
        return tuple(one for one in self.images.values() if one.owner == ACCOUNT and one.tags.get(key) == value)

    def snapshots(self, ids: Sequence[str]) -> Mapping[str, FoundSnapshot]:
        return {
            one: FoundSnapshot(
                id=one,
                state="completed",
                tags=self.snapshot_tags.get(one, {}),
                owner=self.snapshot_owners[one],
                description=self.descriptions.get(one, "Created by CreateImage(i-0) for ami-0"),
            )
            for one in ids
            if one in self.snapshot_owners
        }

    def uefi_data(self, ami: str) -> str | None:
        assert self.images[ami].owner == ACCOUNT, "EC2 tells the owner alone"
        return self.uefi

    def copy(self, wanted: ImageCopy) -> str:
        self.may("copy")
        if wanted.token not in self.tokens:
            source = self.images[wanted.source]
            made = self.add(wanted.name, tags=dict(wanted.tags), architecture=source.architecture)
            self.images[made.id] = self.next_copy(made)
            self.tokens[wanted.token] = made.id
            self.done.append(f"copy {wanted.source} as {wanted.name}")
        return self.tokens[wanted.token]

    def tag(self, ids: Sequence[str], tags: Mapping[str, str]) -> None:
        self.may("tag")
        for one in ids:
            if one in self.snapshot_owners:
                self.snapshot_tags[one] = {**self.snapshot_tags.get(one, {}), **tags}
            if one in self.images:
                self.images[one] = replace(self.images[one], tags={**self.images[one].tags, **tags})
        self.done.append(f"tag {' '.join(ids)}")

    @property
    def own_snapshots(self) -> list[str]:
        return [one for one, owner in self.snapshot_owners.items() if owner == ACCOUNT]

    def launch_permissions(self, ami: str) -> tuple[str, ...]:
        self.may("launch_permissions")
        return self.permissions.get(ami, ())

    def remove(self, target: FoundImage | Leftover, snapshots: Sequence[str] | None = None) -> tuple[str, ...]:
        self.may("remove")
        if isinstance(target, Leftover):
            self.leftover.remove(target)
            self.done.append(f"remove {target}")
            return ()
        del self.images[target.id]
        self.done.append(f"remove {target.id}")
        self.may("remove snapshots")
        wanted = [one.snapshot for one in target.snapshots] if snapshots is None else snapshots
        return tuple(one for one in wanted if not self._dropped(one))

    def _dropped(self, snapshot: str) -> bool:
        if snapshot in self.held_snapshots:
            return False
        self.snapshot_owners.pop(snapshot)
        return True

    def orphans(self, key: str, value: str) -> tuple[str, ...]:
        used = {one.snapshot for image in self.images.values() for one in image.snapshots}
        own = (one for one, owner in self.snapshot_owners.items() if owner == ACCOUNT and one not in used)
        return tuple(one for one in own if self.snapshot_tags.get(one, {}).get(key) == value)

    def delete_snapshot(self, snapshot: str) -> bool:
        self.done.append(f"delete {snapshot}")
        return self._dropped(snapshot)

    def group(self, run: Digest, subnet: str | None) -> str:
        self.may("group")
        made = Leftover(kind="security group", id=f"sg-of-{subnet}")
        self.leftover.append(made)
        self.done.append(f"make {made}")
        return made.id

    def leftovers(self, run: Digest) -> tuple[Leftover, ...]:
        return tuple(self.leftover)

    def may(self, operation: str) -> None:
        """Go on, unless the operation is to fail."""
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
    networks: TeamNetwork | None = None
    note: NotedAmi | None = None

    def need(self) -> None:
        if isinstance(self.error, MissingToolError):
            raise self.error

    def build(self, job: PackerJob) -> str:
        assert self.held == [job.run], "it is held alone"
        self.jobs.append(job)
        self.ec2.done.append(f"packer {job.name}")
        self.ec2.may("packer")
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
        self.ec2.may("packer-done")
        self.ec2.images[made.id] = replace(made, tags={BAKE_TAG: job.variables["run_tag"]})
        return made.id

    def network(self, job: PackerJob) -> TeamNetwork | None:
        return self.networks

    def noted(self, run: Digest) -> NotedAmi | None:
        return self.note

    def forget(self, run: Digest) -> None:
        self.note = None

    @contextmanager
    def alone(self, run: Digest) -> Iterator[None]:
        if self.held:
            raise ConflictError(str(run), "is held already")
        self.held.append(run)
        try:
            yield
        finally:
            self.held.remove(run)
