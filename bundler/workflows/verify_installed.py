"""`bundle verify --installed`: what stands at a site, read back and compared with the archive; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from bundler.archive.ami_packs import read_block_index
from bundler.archive.reader import Archive
from bundler.domain.ami import AmiAttributes
from bundler.domain.blocks import BLOCK_BYTES, BlockIndex
from bundler.domain.events import PhaseDone, PhaseStarted, TransferPlanned, counted
from bundler.domain.finding import Finding
from bundler.domain.image_map import PrivateRegistry
from bundler.domain.machine_image import FoundImage, attributes_of
from bundler.domain.restored import AMI_TAG, WantedAmi, absent_amis, wanted_amis
from bundler.domain.site import Site
from bundler.errors import ConflictError
from bundler.ports import ImageRegistry
from bundler.stages.push import Push, beside_tag, observe, pushes_of
from bundler.stages.read_back import PHASE, ReadBack, SnapshotReader, read_back
from bundler.stages.register import Images
from bundler.transfer import Pace

_DIFFERENT, _ABSENT = 3, 8
"""Exit codes: what is other than signed, and what is not there."""
_REPLACE = "Trust nothing that runs on it. Deregister it, delete its snapshots, and run bundle install again."
_NOT_OURS = (
    "Trust nothing that runs on it. It is of another account: ask who made it, or take restore.route ebs-direct."
)
_INSTALL = "Run bundle install: it makes what is missing."
_ATTRIBUTES = ("root_device", "virtualization", "ena_support", "boot_mode", "sriov_net_support", "imds_support",
               "tpm_support", "uefi_data")  # fmt: skip


class SiteImages(Images, Protocol):
    """AMIs and snapshots of the site, with what only their owner is told."""

    def uefi_data(self, ami: str) -> str | None:
        """Return the AMI's UEFI variables as EC2 encodes them, None where it has none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The closed side, as far as it is read."""

    images: SiteImages
    blocks: SnapshotReader
    registry: ImageRegistry


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedAmi:
    """One AMI at the site: how many blocks of it are right."""

    name: str
    architecture: str
    ami: str
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledReport:
    """What was looked at, and everything that is wrong.

    Attributes:
        references: images and charts in the private registry that are what the lock says.
    """

    amis: tuple[CheckedAmi, ...]
    references: int
    findings: tuple[Finding, ...]


def verify_installed(archive: Archive, site: Site, *, installed: Installed, pace: Pace) -> InstalledReport:
    """Return what a site holds of an archive's AMIs, images and charts, and all that differs.

    Raises:
        AccessError: it may not be looked at.
        NetworkError: AWS or the registry does not answer.
        RefusedError: the archive's own index of an AMI is not what the lock says.
    """
    run = _Verify(archive=archive, site=site, installed=installed, pace=pace)
    run.amis()
    run.registry()
    return InstalledReport(amis=tuple(run.checked), references=run.references, findings=tuple(run.findings))


@dataclass(slots=True, kw_only=True)
class _Verify:
    """One run, and what it found so far."""

    archive: Archive
    site: Site
    installed: Installed
    pace: Pace
    checked: list[CheckedAmi] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    references: int = 0

    def amis(self) -> None:
        """Read back every AMI of the bundle that node groups name; where several claim to be it, all of them."""
        wanted = wanted_amis(self.site, self.archive.lock)
        self.findings += absent_amis(self.site, self.archive.lock)
        if not wanted:
            return
        self.pace.emit(PhaseStarted(phase=PHASE, detail=counted(len(wanted), "AMI")))
        for one in wanted:
            found = self._found(one)
            if not found:
                cause = f"is not in account {self.site.account}, {self.site.region}"
                self._tell("AMI", one.name, cause, exit_code=_ABSENT)
            for image in found:
                self._ami(one, image)
        right = sum(one.blocks for one in self.checked)
        self.pace.emit(PhaseDone(phase=PHASE, detail=f"{counted(right, 'block')} are what the archive holds"))

    def registry(self) -> None:
        """Compare the digest of every image and chart in the private registry with the lock's."""
        private = PrivateRegistry(host=self.site.registry_host, prefix=self.site.registry.prefix)
        pushes = pushes_of(self.archive.lock, image_target=private.image, chart_target=private.chart)
        self.pace.emit(
            PhaseStarted(phase="registry", detail=counted(len(pushes), "image or chart", "images and charts"))
        )
        held = observe(pushes, registry=self.installed.registry, pace=self.pace)
        for push in pushes:
            found = {held.get(push.target), held.get(beside_tag(push))} - {None}
            if push.digest in found:
                self.references += 1
            elif found:
                self._other_reference(push, ", ".join(sorted(map(str, found))))
            else:
                self._tell("registry", str(push.target), "is not there", exit_code=_ABSENT)
        self.pace.emit(PhaseDone(phase="registry", detail=f"{self.references} of {len(pushes)} are what the lock says"))

    def _found(self, wanted: WantedAmi) -> tuple[FoundImage, ...]:
        if self.site.restore.route == "share":
            image = self.installed.images.image(wanted.baked.ami)
            return () if image is None else (image,)
        return self.installed.images.own_tagged(AMI_TAG, str(wanted.digest))

    def _ami(self, wanted: WantedAmi, image: FoundImage) -> None:
        if image.state != "available":
            self._tell("AMI", image.subject, f"is {image.state}", exit_code=_ABSENT)
            return
        for cause in self._attributes(wanted, image):
            self._tell("AMI", image.subject, cause, hint=self._instead(image))
        self._snapshots(wanted, image)

    def _attributes(self, wanted: WantedAmi, image: FoundImage) -> Iterator[str]:
        """Yield in which of the things that RegisterImage is told the AMI differs from the lock."""
        baked, is_own = wanted.baked, image.owner == self.site.account
        if image.architecture != baked.architecture:
            yield f"is for {image.architecture}; the lock says {baked.architecture}"
        try:
            uefi_data = self.installed.images.uefi_data(image.id) if is_own else baked.attributes.uefi_data
            found = attributes_of(image, uefi_data=uefi_data)
        except ValueError:
            yield "has attributes that this tool does not know"
            return
        yield from _differences(baked.attributes, found)

    def _snapshots(self, wanted: WantedAmi, image: FoundImage) -> None:
        index = read_block_index(self.archive, wanted.baked)
        by_device = {one.device: one.snapshot for one in image.snapshots}
        self._planned(index)
        right = 0
        for volume in index.volumes:
            snapshot = by_device.get(volume.device)
            if snapshot is None:
                self._tell("AMI", image.subject, f"has no snapshot behind {volume.device}", hint=self._instead(image))
                continue
            self._key(image, snapshot)
            try:
                found = read_back(volume, snapshot, reader=self.installed.blocks, pace=self.pace)
            except ConflictError as error:
                self._tell("AMI", f"{image.subject}, {error.subject}", error.cause, exit_code=_ABSENT)
                continue
            right += found.right
            self._volume(image, volume.device, volume.gib, found)
        baked = wanted.baked
        self.checked.append(CheckedAmi(name=baked.name, architecture=baked.architecture, ami=image.id, blocks=right))

    def _planned(self, index: BlockIndex) -> None:
        total = sum(map(len, index.volumes)) * BLOCK_BYTES
        self.pace.emit(TransferPlanned(phase=PHASE, total_bytes=total, items=len(index.volumes)))

    def _volume(self, image: FoundImage, device: str, gib: int, found: ReadBack) -> None:
        subject = f"{image.subject}, {found.snapshot} ({device})"
        if found.problems:
            cause = f"does not hold the blocks that were signed: {'; '.join(found.problems)}"
            self._tell("AMI", subject, cause, hint=self._instead(image))
        if found.gib != gib:
            self._tell("AMI", subject, f"is of a volume of {found.gib} GiB, not {gib}", hint=self._instead(image))

    def _instead(self, image: FoundImage) -> str:
        """What to do about an AMI that is not what was signed: install makes only the account's own again."""
        return _REPLACE if image.owner == self.site.account else _NOT_OURS

    def _key(self, image: FoundImage, snapshot: str) -> None:
        """Look whether a snapshot of ours is encrypted as the site asks."""
        found = self.installed.images.snapshots([snapshot]).get(snapshot)
        if found is not None and not found.bears(self.site.restore.kms_key):
            cause = f"is not encrypted with {self.site.restore.kms_key}, which the site file names"
            self._tell("AMI", f"{image.subject}, {snapshot}", cause, hint=_REPLACE)

    def _other_reference(self, push: Push, found: str) -> None:
        cause = f"is {found}; the lock says {push.digest}"
        hint = (
            "Find out who pushed it (CloudTrail has each PutImage). Pods run images by digest and are not affected"
            " while the registry still has theirs; bundle install pushes the bundle's again."
        )
        self._tell("registry", str(push.target), cause, hint=hint)

    def _tell(self, check: str, subject: str, cause: str, *, hint: str = _INSTALL, exit_code: int = _DIFFERENT) -> None:
        self.findings.append(Finding(check=check, subject=subject, cause=cause, hint=hint, exit_code=exit_code))


def _differences(wanted: AmiAttributes, found: AmiAttributes) -> Iterator[str]:
    for name in _ATTRIBUTES:
        one, other = getattr(wanted, name), getattr(found, name)
        if one != other:
            yield f"has {name.replace('_', ' ')} {other}; the lock says {one}"
    for device in wanted.devices:
        same = next((one for one in found.devices if one.device == device.device), None)
        if same is None:
            yield f"has no device {device.device}"
            continue
        for name in ("size", "volume_type", "iops", "throughput"):
            one, other = getattr(device, name), getattr(same, name)
            if one is not None and one != other:
                yield f"has {device.device} with {name.replace('_', ' ')} {other}; the lock says {one}"
    for more in sorted({one.device for one in found.devices} - {one.device for one in wanted.devices}):
        yield f"has a further device {more}"
