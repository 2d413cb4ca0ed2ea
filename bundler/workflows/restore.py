"""The restore phase of install: AMIs of the bundle become AMIs of the site, by the route that the site says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from bundler.archive.ami_packs import ArchivePacks, read_base_index, read_block_index
from bundler.archive.reader import Archive
from bundler.domain.bake import client_token
from bundler.domain.blocks import BlockIndex
from bundler.domain.digest import Digest
from bundler.domain.events import Emit, Noted, counted
from bundler.domain.finding import Finding, raise_findings
from bundler.domain.infrastructure import MachineImage
from bundler.domain.names import shared_tags
from bundler.domain.parents import (
    BASE_CHECK,
    DEVICE_TAG,
    INDEX_TAG,
    Encryption,
    Parents,
    check_parents,
    find_parents,
    serves,
)
from bundler.domain.plan import Action, Plan
from bundler.domain.restored import WantedAmi, is_from_bundle, wanted_amis
from bundler.domain.site import Site
from bundler.domain.snapshot import FoundSnapshot, ListedBlock, NewSnapshot, SnapshotBlocks
from bundler.errors import BundleError, ConflictError, LockLostError, StoppedError, TargetError
from bundler.journal import Journal
from bundler.retry import Patience
from bundler.stages.register import Images, RegisterPlan, Registry, observe_ami, register
from bundler.stages.restore import Owner, RestorePlan, SnapshotWriter, plan_restore, restore
from bundler.transfer import Pace

PHASE = "restore"
SEALED = "restore-sealed"
_STARTS = 3


class SiteImages(Images, Protocol):
    """AMIs and snapshots of the site."""

    def own_snapshots_tagged(self, key: str, value: str) -> tuple[FoundSnapshot, ...]:
        """Return the account's own snapshots with that tag."""
        ...

    def encrypts_by_default(self) -> bool:
        """Whether the account encrypts every new snapshot."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """EC2 and EBS direct, as restore sees them."""

    images: SiteImages
    blocks: SnapshotWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class AmiPlan:
    """What is to be done for one AMI.

    Attributes:
        snapshots: None where none are to be written.
        findings: what keeps a delta from being restored here.
        failed: device -> snapshots that went to `error` before, and stay until somebody looks at them.
    """

    ami: RegisterPlan
    snapshots: RestorePlan | None
    findings: tuple[Finding, ...] = ()
    failed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        """The same for people and for `--plan`."""
        if self.snapshots is None:
            return self.ami.plan
        sizes = {volume.device: volume for volume in self.snapshots.volumes}
        actions = [
            Action(
                phase=PHASE,
                verb="restore",
                target=f"snapshot of {self.ami.wanted.name} {device}",
                detail=f"{counted(len(sizes[device]), 'block')} of 512 KiB in a volume of {sizes[device].gib} GiB"
                + ("" if new.parent is None else f" that begins with {new.parent}")
                + "".join(f"; anew: {name} went to error" for name in self.failed.get(device, ())),
            )
            for device, new in sorted(self.snapshots.wanted.items())
        ]
        there = tuple(f"snapshot {name}" for _, name in sorted(self.snapshots.there.items()))
        return Plan(actions=tuple(actions), unchanged=there) + self.ami.plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoration:
    """The AMIs of one bundle at one site."""

    archive: Archive
    site: Site
    machines: Machines
    patience: Patience
    pace: Pace

    @property
    def wanted(self) -> tuple[WantedAmi, ...]:
        """The AMIs that node groups of the site name."""
        return wanted_amis(self.site, self.archive.lock)

    def check(self) -> tuple[Finding, ...]:
        """Return what keeps AMIs that are carried as deltas from being made here; nothing is written."""
        deltas = [wanted for wanted in self.wanted if wanted.baked.base is not None]
        return tuple(finding for wanted in deltas for finding in self._findings(wanted))

    def observe(self) -> tuple[AmiPlan, ...]:
        """Return what to do for each AMI, writing nothing.

        Raises:
            FindingsError: the base of a delta is not here, or not in a form that it can begin with.
        """
        planned = tuple(map(self._observe, self.wanted))
        raise_findings("AMIs of the bundle", [finding for item in planned for finding in item.findings])
        return planned

    def images(self, planned: tuple[AmiPlan, ...]) -> Mapping[str, MachineImage]:
        """Return the facts that each node group of a bundle's AMI is made with, by the group's name."""
        known = {
            (item.ami.wanted.baked.name, item.ami.wanted.baked.architecture): item.ami.wanted.image()
            if item.ami.there is None
            else item.ami.wanted.image(item.ami.there.id)
            for item in planned
        }
        return {
            group.name: known[group.ami, group.architecture] for group in self.site.node_groups if is_from_bundle(group)
        }

    def run(self, planned: tuple[AmiPlan, ...], journal: Journal) -> None:
        """Restore and register; the journal remembers how far the blocks of each AMI are."""
        for item in planned:
            journal.check()
            snapshots = {} if item.snapshots is None else self._restore(item, item.snapshots, journal)
            journal.check()
            register(item.ami, self.site, snapshots=snapshots, registry=self._registry(self.pace.emit))

    def _findings(self, wanted: WantedAmi) -> tuple[Finding, ...]:
        try:
            return self._observe(wanted).findings
        except StoppedError:
            raise
        except BundleError as error:
            return (Finding.of(BASE_CHECK, error),)

    def _observe(self, wanted: WantedAmi) -> AmiPlan:
        ami = observe_ami(wanted, self.site, images=self.machines.images)
        if ami.there is not None or ami.route != "ebs-direct":
            return AmiPlan(ami=ami, snapshots=None)
        index = read_block_index(self.archive, wanted.baked)
        plan = self._plan(wanted, index)
        base = read_base_index(self.archive, wanted.baked, index) if plan.wanted else None
        if base is None:
            return AmiPlan(ami=ami, snapshots=plan, failed=self._failed(index, plan))
        site, found, encryption = self.site, self._tagged(base.digest), self._encryption()
        parents = find_parents(base, found=found, encryption=encryption)
        if parents is None:
            findings = check_parents(wanted.baked, base, found=found, encryption=encryption, site=site)
            return AmiPlan(ami=ami, snapshots=None, findings=tuple(findings))
        plan = self._plan(wanted, index, parents)
        return AmiPlan(ami=ami, snapshots=plan, failed=self._failed(index, plan))

    def _plan(self, wanted: WantedAmi, index: BlockIndex, parents: Parents | None = None) -> RestorePlan:
        found = self._tagged(index.digest)
        return plan_restore(index, name=wanted.name, owner=self._owner(), found=found, parents=parents)

    def _encryption(self) -> Encryption:
        key = self.site.restore.kms_key
        return Encryption(kms_key=key, by_default=key is None and self.machines.images.encrypts_by_default())

    def _tagged(self, index: Digest) -> tuple[FoundSnapshot, ...]:
        return self.machines.images.own_snapshots_tagged(INDEX_TAG, str(index))

    def _failed(self, index: BlockIndex, plan: RestorePlan) -> Mapping[str, tuple[str, ...]]:
        found = [one for one in self._tagged(index.digest) if serves(one, self.site.restore.kms_key)]
        return {
            device: tuple(one.id for one in found if one.state == "error" and one.tags.get(DEVICE_TAG) == device)
            for device in plan.wanted
        }

    def _restore(self, item: AmiPlan, plan: RestorePlan, journal: Journal) -> Mapping[str, str]:
        key = journal.key(SEALED, tokens={device: one.token for device, one in plan.wanted.items()})
        sealed = self._sealed(journal, key)
        if sealed is not None:
            return {**plan.there, **sealed}
        progress = _Frames(journal)
        try:
            made = restore(
                plan,
                packs=ArchivePacks.of(self.archive, item.ami.wanted.baked),
                writer=_HeldWriter(self.machines, journal.check, patience=self.patience, emit=self.pace.emit),
                progress=progress,
                pace=self.pace,
            )
        except LockLostError:
            raise
        except ConflictError:
            progress.doubt()
            others = self._finished(progress.believed)
            if others is None:
                raise
            made = {**plan.there, **others}
        journal.record(SEALED, key, **{device: made[device] for device in plan.wanted})
        return made

    def _finished(self, snapshots: Mapping[str, str]) -> Mapping[str, str] | None:
        """Return snapshots that refuse blocks because another cluster's install has completed them meanwhile."""
        found = self.machines.images.snapshots([*snapshots.values()])
        done = {name for name, one in found.items() if one.state == "completed"}
        return snapshots if snapshots and done == {*snapshots.values()} else None

    def _sealed(self, journal: Journal, key: str) -> Mapping[str, str] | None:
        """Return snapshots that take no blocks any more, and that EC2 did not have complete when the last run ended."""
        record = journal.find(key)
        if record is None or not record.facts:
            return None
        states = {name: one.state for name, one in self.machines.images.snapshots([*record.facts.values()]).items()}
        usable = all(states.get(name) in ("pending", "completed") for name in record.facts.values())
        return record.facts if usable else None

    def _owner(self) -> Owner:
        return Owner(
            account=self.site.account,
            region=self.site.region,
            tags=shared_tags(),
            kms_key=self.site.restore.kms_key,
        )

    def _registry(self, emit: Emit) -> Registry:
        return Registry(images=self.machines.images, tags=shared_tags(), patience=self.patience, emit=emit)


class _Frames:
    """How many frames of an AMI's packs are put, in the journal: a hint that saves sending them again."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.believed: Mapping[str, str] = {}

    def doubt(self) -> None:
        """Let the next run put every block again, where this one believed that some were put."""
        if self.believed:
            self.put(self.believed, 0)

    def frames(self, snapshots: Mapping[str, str]) -> int:
        self.believed = snapshots
        record = self.journal.find(self._key(snapshots))
        text = "" if record is None else record.facts.get("frames", "")
        return int(text) if text.isdecimal() else 0

    def put(self, snapshots: Mapping[str, str], frames: int) -> None:
        self.journal.record(PHASE, self._key(snapshots), frames=str(frames), snapshots=" ".join(snapshots.values()))

    def _key(self, snapshots: Mapping[str, str]) -> str:
        return self.journal.key("restore-frames", snapshots=dict(snapshots))


@dataclass(frozen=True, slots=True)
class _HeldWriter:
    """Snapshots that are only written to while the lock of the site is ours, and that exist."""

    machines: Machines
    check: Callable[[], None]
    patience: Patience
    emit: Emit

    def start(self, wanted: NewSnapshot) -> str:
        """Start; a token whose snapshot was deleted gives that again for ever, so another one is taken."""
        for attempt in range(_STARTS):
            self.check()
            token = client_token(wanted.token, str(attempt)) if attempt else wanted.token
            snapshot = self.machines.blocks.start(replace(wanted, token=token))
            if self._is_visible(snapshot):
                return snapshot
            self.emit(Noted(text=f"{snapshot}, begun before, is not there any more: beginning another one"))
        raise TargetError(wanted.description, "was begun, and EC2 does not show it")

    def put(self, snapshot: str, number: int, content: bytes | memoryview, sha256: bytes) -> None:
        self.check()
        self.machines.blocks.put(snapshot, number, content, sha256)

    def complete(self, snapshot: str, blocks: int, aggregate: bytes) -> None:
        self.check()
        self.machines.blocks.complete(snapshot, blocks, aggregate)

    def blocks(self, snapshot: str) -> SnapshotBlocks:
        return self.machines.blocks.blocks(snapshot)

    def read(self, snapshot: str, block: ListedBlock, *, progress: Callable[[], int]) -> tuple[bytes, bytes]:
        return self.machines.blocks.read(snapshot, block, progress=progress)

    def _is_visible(self, snapshot: str) -> bool:
        images = self.machines.images
        found = self.patience.appears(
            lambda: images.snapshots([snapshot]).get(snapshot), subject=f"snapshot {snapshot}"
        )
        return found is not None
