"""What a bake is asked for, and what it asks of EC2 and Packer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bundler.domain.ami import AmiAttributes, BakedAmi, LockedAmi, NodeFacts
from bundler.domain.bake import ami_name
from bundler.domain.digest import Digest
from bundler.domain.events import Emit, silent
from bundler.domain.leftover import Leftover
from bundler.domain.machine_image import FoundImage, ImageCopy
from bundler.domain.packer_job import NotedAmi, PackerJob
from bundler.domain.snapshot import FoundSnapshot
from bundler.domain.team_template import TeamNetwork
from bundler.errors import LockChangedError
from bundler.retry import Patience

TEMPLATE_TAG = "bundle:template"
"""On what a team's own template made; its value is the digest of template and variables."""


class Images(Protocol):
    """AMIs and snapshots of the builder's account and Region."""

    def image(self, ami: str) -> FoundImage | None:
        """Return an AMI, None where this account does not see it."""
        ...

    def own_named(self, name: str) -> FoundImage | None:
        """Return the account's own AMI of that name, None where there is none."""
        ...

    def own_like(self, pattern: str) -> tuple[FoundImage, ...]:
        """Return the account's own AMIs of such names, `*` standing for anything, the oldest first."""
        ...

    def own_tagged(self, key: str, value: str) -> tuple[FoundImage, ...]:
        """Return the account's own AMIs with that tag, the oldest first."""
        ...

    def snapshots(self, ids: Sequence[str]) -> Mapping[str, FoundSnapshot]:
        """Return snapshots by id; those that this account does not see are absent."""
        ...

    def uefi_data(self, ami: str) -> str | None:
        """Return the AMI's UEFI variables, None where it has none."""
        ...

    def copy(self, wanted: ImageCopy) -> str:
        """Copy an AMI into this account and Region; return the new id."""
        ...

    def tag(self, ids: Sequence[str], tags: Mapping[str, str]) -> None:
        """Give tags to AMIs and snapshots."""
        ...

    def launch_permissions(self, ami: str) -> tuple[str, ...]:
        """Return who else may launch an AMI: accounts, `all`, organizations."""
        ...

    def remove(self, image: FoundImage, snapshots: Sequence[str]) -> tuple[str, ...]:
        """Deregister an AMI and delete these snapshots of it; return those that EC2 does not let go yet."""
        ...

    def orphans(self, key: str, value: str) -> tuple[str, ...]:
        """Return the account's own snapshots with that tag that EC2 made for AMIs, and that none of its AMIs has."""
        ...

    def delete_snapshot(self, snapshot: str) -> bool:
        """Delete a snapshot; whether it is gone."""
        ...


class Builders(Protocol):
    """What a bake is made on, and what a killed one leaves in AWS: instances, key pairs, security groups."""

    def group(self, run: Digest, subnet: str | None) -> str:
        """Return the security group of a run, made unless it is there."""
        ...

    def leftovers(self, run: Digest) -> tuple[Leftover, ...]:
        """Return what bears the run's tag or name, instances first."""
        ...

    def remove(self, leftover: Leftover) -> None:
        """Take one away, and wait until it is gone."""
        ...


class Packer(Protocol):
    """Packer."""

    def need(self) -> None:
        """Make sure that it can build AMIs.

        Raises:
            MissingToolError: Packer, or its plugin, is not installed.
        """
        ...

    def build(self, job: PackerJob) -> str:
        """Run a template; return the id of the AMI.

        Raises:
            PackerError: with the step that failed; nothing of the build is left.
        """
        ...

    def network(self, job: PackerJob) -> TeamNetwork | None:
        """Return where a team's template builds, None where a security group of ours has no place in it."""
        ...

    def noted(self, run: Digest) -> NotedAmi | None:
        """Return the AMI that a team's template was making when a build was cut off, None where there is none."""
        ...

    def forget(self, run: Digest) -> None:
        """Forget the AMI that was noted."""
        ...

    def alone(self, run: Digest) -> AbstractContextManager[None]:
        """Hold the run for ourselves on this host; waits for a Packer that a killed build left at work."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BakeRequest:
    """What to make.

    Attributes:
        inputs: digest of all that it depends on.
        account: 12 digits, ours.
        template: folder of our own template.
        variables: of our template, but for those that follow from the rest of the request.
        team: folder of the team's own template, its file and variables; None where it has none.
        payload: fills a folder with what the builder is sent.
        facts_file: where Packer puts what the AMI says of itself; in a folder of this bake alone.
        check: parses and checks that; raises PolicyError.
        again: bake although there are AMIs of these inputs; the new one takes their place.
        recorded: what the lock says that it became: that very AMI is wanted.
    """

    ami: LockedAmi
    inputs: Digest
    account: str
    region: str
    template: Path
    variables: Mapping[str, str]
    team: PackerJob | None
    payload: Callable[[], Path]
    facts_file: Path
    check: Callable[[bytes], NodeFacts]
    again: bool = False
    recorded: BakedAmi | None = None

    @property
    def subject(self) -> str:
        """Its name for people."""
        return f"{self.ami.name} {self.ami.architecture}"

    @property
    def name(self) -> str:
        """The name of the AMI, where it is baked once."""
        return ami_name(self.ami, self.inputs)

    @property
    def source(self) -> str:
        """The AMI to bake on, or to carry.

        Raises:
            LockChangedError: the lock names none.
        """
        if self.ami.source is None:
            raise self.unsaid("source")
        return self.ami.source.id

    def unsaid(self, what: str) -> LockChangedError:
        """Return the error of a lock that lacks something."""
        return LockChangedError(
            f"AMI {self.subject}", f"has no {what} in the lock", hint="Make the lock again: bundle lock"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Baked:
    """An AMI of this account.

    Attributes:
        facts: None where nothing of ours ran on it.
    """

    image: FoundImage
    attributes: AmiAttributes
    facts: NodeFacts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bakery:
    """The outside of a bake.

    Attributes:
        owner: of what is made in EC2 for it (OWNER_TAG).
        now: seconds since 1970.
    """

    images: Images
    builders: Builders
    packer: Packer
    patience: Patience = field(default_factory=Patience)
    owner: str = ""
    now: Callable[[], float] = time.time
    emit: Emit = silent
