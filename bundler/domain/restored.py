"""AMIs of the bundle at a site: which ones its node groups need, whether they fit, and how they are called there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from bundler.domain.ami import BakedAmi, Target
from bundler.domain.bake import text_digest
from bundler.domain.canonical import canonical_json
from bundler.domain.digest import Digest
from bundler.domain.finding import Finding
from bundler.domain.infrastructure import MachineImage
from bundler.domain.lock import Lock
from bundler.domain.node_template import BOTTLEROCKET_DATA
from bundler.domain.oci import Platform
from bundler.domain.site import NodeGroup, Site

AMI_TAG = "bundle:ami"
"""On a restored AMI; its value is the digest of what it is: content, attributes, architecture, the site's key."""
UNPACKED_RATIO = 2.5
"""How much larger image layers are on a node than in the registry: gzip, over the images of the presets."""
KEPT_FREE = 0.15
"""Kubelet removes images, and then pods, where less of the disk is free (imagefs.available, its default)."""
NOT_YET = "ami-00000000"
"""Stands in plans for an AMI that is not restored yet."""
_DEFINITION_EXIT = 2
_SYSTEMS = {
    "bake": frozenset({"al2023"}),
    "template": frozenset({"al2023", "al2"}),
    "bottlerocket": frozenset({"bottlerocket"}),
}
"""Which `os` of a node group each kind of AMI is for; of one that is carried by its id nobody says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedAmi:
    """An AMI of the bundle that a site needs.

    Attributes:
        kms_key: that the site names; None where the account's own rule holds.
    """

    baked: BakedAmi
    kms_key: str | None = None

    @property
    def digest(self) -> Digest:
        """What it is, whoever registered it; one that a key encrypts is another than one that none or another does."""
        attributes = self.baked.attributes.model_dump(mode="json", exclude_none=True)
        key = () if self.kms_key is None else (self.kms_key,)
        what = (str(self.baked.index.digest), canonical_json(attributes).decode(), self.baked.architecture)
        return text_digest(*what, *key)

    @property
    def name(self) -> str:
        """The name of the AMI at the site."""
        return f"{self.baked.name}-{self.baked.architecture}-{self.digest.hex[:12]}"

    @property
    def description(self) -> str:
        """What RegisterImage is told: by it an AMI is known as ours."""
        return f"eks-bundler {self.digest}"

    def image(self, ami: str = NOT_YET) -> MachineImage:
        """Return the facts that node groups are made with, given its id at the site."""
        attributes = self.baked.attributes
        root = next(one for one in attributes.devices if one.device == attributes.root_device)
        return MachineImage(
            id=ami,
            state="available",
            architecture=self.baked.architecture,
            root_device=attributes.root_device,
            root_gib=root.size,
        )


def is_from_bundle(group: NodeGroup) -> bool:
    """Whether a node group names an AMI of the bundle, not one of the account."""
    return not group.ami.startswith("ami-")


def wanted_amis(site: Site, lock: Lock) -> tuple[WantedAmi, ...]:
    """Return each AMI of the bundle that node groups name, once."""
    found: dict[tuple[str, str], WantedAmi] = {}
    for group in site.node_groups:
        baked = lock.baked(group.ami, group.architecture) if is_from_bundle(group) else None
        if baked is not None:
            found[baked.name, baked.architecture] = WantedAmi(baked=baked, kms_key=site.restore.kms_key)
    return tuple(found[key] for key in sorted(found))


def absent_amis(site: Site, lock: Lock) -> tuple[Finding, ...]:
    """Return a finding for each node group that names an AMI which the bundle does not hold."""
    there = sorted({f"{ami.name} for {ami.architecture}" for ami in lock.bake})
    held = ", ".join(there) if there else "none"
    return tuple(
        _finding(group, group.ami, f"is no AMI of this bundle for {group.architecture}; it holds {held}")
        for group in site.node_groups
        if is_from_bundle(group) and lock.baked(group.ami, group.architecture) is None
    )


def check_amis(site: Site, lock: Lock) -> tuple[Finding, ...]:
    """Return what keeps the bundle's AMIs from being restored and started at a site."""
    found = [*absent_amis(site, lock)]
    for group in site.node_groups:
        baked = lock.baked(group.ami, group.architecture) if is_from_bundle(group) else None
        if baked is not None:
            found += _group(site, group, baked, lock)
    return tuple(found)


def preload_notes(site: Site, lock: Lock) -> tuple[str, ...]:
    """Return what is not wrong, but not as good as it could be: preloads that no pod of this site will ask for."""
    here = Target(partition=site.partition, account=site.account, region=site.region, prefix=site.registry.prefix)
    if not wanted_amis(site, lock) or here in lock.targets:
        return ()
    place = f"account {site.account}, {site.region}, prefix {site.registry.prefix}"
    note = (
        f"the AMIs of this bundle preload no image under the names of this site's registry ({place}), because targets"
        " in the definition does not list it. The install works, and nodes pull every image. To preload for this site,"
        " add it to targets on the connected side, then: bundle lock; bundle build"
    )
    return (note,)


def _group(site: Site, group: NodeGroup, baked: BakedAmi, lock: Lock) -> Iterator[Finding]:
    if site.restore.route != "ebs-direct" and site.partition != baked.partition:
        cause = f"was built in partition {baked.partition}; the route {site.restore.route} does not leave it"
        yield _finding(group, group.ami, cause, hint="Take restore.route: ebs-direct in the site file.")
    if site.restore.route == "share" and site.region != baked.region:
        cause = f"was built in {baked.region}; the route share uses it there only"
        yield _finding(group, group.ami, cause, hint="Take restore.route: copy, or ebs-direct, in the site file.")
    yield from _system(group, lock)
    yield from _room(group, baked, lock)


def _system(group: NodeGroup, lock: Lock) -> Iterator[Finding]:
    """Look whether the AMI reads the user data that the group's `os` makes."""
    locked = next((ami for ami in lock.amis if (ami.name, ami.architecture) == (group.ami, group.architecture)), None)
    fits = None if locked is None else _SYSTEMS.get(locked.kind)
    if locked is None or fits is None or group.os in fits:
        return
    cause = f"is of the kind {locked.kind}, for os {' or '.join(sorted(fits, reverse=True))}; the group says {group.os}"
    yield _finding(group, group.ami, cause, hint="Correct os in the site file, or name another AMI of the bundle.")


def _room(group: NodeGroup, baked: BakedAmi, lock: Lock) -> Iterator[Finding]:
    """Look whether the volume that the group sizes holds what the AMI brings and what nodes pull."""
    device = BOTTLEROCKET_DATA if group.os == "bottlerocket" else baked.attributes.root_device
    carried = next((one.size for one in baked.attributes.devices if one.device == device), 0)
    has, what = group.volume.size_gib, "data" if group.os == "bottlerocket" else "root"
    if carried > has:
        yield _finding(
            group,
            group.ami,
            f"needs a {what} volume of {carried} GiB, the group says {has}",
            hint="Give it a larger volume.sizeGiB.",
        )
        return
    brought = 0 if group.os == "bottlerocket" else baked.written_bytes
    needed_gib = (brought + _images_bytes(lock, baked)) / (1 << 30) / (1 - KEPT_FREE)
    if needed_gib > has:
        cause = (
            f"needs a {what} volume of about {ceil(needed_gib)} GiB, with the bundle's images unpacked and what kubelet"
            f" keeps free; the group says {has} GiB"
        )
        hint = f"Set volume.sizeGiB of the group to {ceil(needed_gib)} or more, then run the same command again."
        yield _finding(group, group.ami, cause, hint=hint)


def _images_bytes(lock: Lock, baked: BakedAmi) -> float:
    """Bytes on a node of every image that it may have to pull: those that are preloaded stand in the AMI already."""
    platform = Platform(os="linux", architecture=baked.architecture)
    preloaded = {image.digest for image in baked.facts.images} if baked.facts is not None else set()
    layers = {
        blob.digest: blob.size
        for image in lock.images
        if image.target.digest not in preloaded
        for manifest in image.manifests
        if manifest.platform is not None and manifest.platform.matches(platform)
        for blob in manifest.blobs[1:]
    }
    return UNPACKED_RATIO * sum(layers.values())


def _finding(group: NodeGroup, subject: str, cause: str, *, hint: str = "Correct the site file.") -> Finding:
    check = f"node group {group.name}"
    return Finding(check=check, subject=subject, cause=cause, hint=hint, exit_code=_DEFINITION_EXIT)
