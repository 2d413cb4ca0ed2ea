"""The base of a delta as it lies at a site: snapshots found by their tags, and whether new ones may begin with them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bundler.domain.ami import AmiBase, BakedAmi
from bundler.domain.blocks import BlockIndex, Volume
from bundler.domain.digest import Digest
from bundler.domain.finding import Finding
from bundler.domain.names import shared_tags
from bundler.domain.site import Site
from bundler.domain.snapshot import FoundSnapshot

INDEX_TAG = "bundle:ami-index"
DEVICE_TAG = "bundle:ami-device"
KEY_TAG = "bundle:kms-key"
"""On a snapshot of a site that names a key: the end of the key's ARN, as much as a tag takes."""
_TAG_VALUE_MAX = 256
BASE_CHECK = "base of the AMI"
_CONFLICT_EXIT = 7
_WHOLE = "have the bundle built with all of it: bundle build --whole"


def snapshot_tags(index: Digest, device: str, kms_key: str | None = None) -> dict[str, str]:
    """Tags by which a restored snapshot is found again, by sites that name the same key or none as this one."""
    key = {} if kms_key is None else {KEY_TAG: kms_key[-_TAG_VALUE_MAX:]}
    return {INDEX_TAG: str(index), DEVICE_TAG: device, **key}


def serves(snapshot: FoundSnapshot, kms_key: str | None) -> bool:
    """Whether a snapshot is for sites that name this key, or none: what another site's key encrypts, that may close."""
    made_for = snapshot.tags.get(KEY_TAG)
    if kms_key is None:
        return made_for is None
    return snapshot.bears(kms_key) and made_for in (None, kms_key[-_TAG_VALUE_MAX:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Parents:
    """A base as it lies at a site.

    Attributes:
        index: what it holds.
        snapshots: device -> id of the snapshot that holds it.
    """

    index: BlockIndex
    snapshots: Mapping[str, str]

    def of(self, volume: Volume) -> Volume | None:
        """What a new volume begins with; None where the base has no such device, or a larger one (StartSnapshot)."""
        same = (each for each in self.index.volumes if each.device == volume.device and each.gib <= volume.gib)
        return next(same, None)

    def places(self, wanted: Collection[bytes]) -> dict[bytes, tuple[str, int]]:
        """Return a snapshot and a number for each of these blocks that the base holds anywhere."""
        found: dict[bytes, tuple[str, int]] = {}
        for volume in self.index.volumes:
            for number, digest in volume:
                if digest in wanted:
                    found.setdefault(digest, (self.snapshots[volume.device], number))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    """What a site asks of its snapshots; one that begins with a parent is encrypted as that is (StartSnapshot).

    Attributes:
        kms_key: ARN that the site file names.
        by_default: whether the account encrypts every snapshot; then it takes no parent that is not.
    """

    kms_key: str | None
    by_default: bool

    def takes(self, parent: FoundSnapshot) -> bool:
        """Whether a snapshot may begin with this one."""
        if not serves(parent, self.kms_key):
            return False
        return parent.is_encrypted or (self.kms_key is None and not self.by_default)


def find_parents(index: BlockIndex, *, found: Sequence[FoundSnapshot], encryption: Encryption) -> Parents | None:
    """Return the base where the site holds all of it in a form that new snapshots may begin with."""
    snapshots = {}
    for volume in index.volumes:
        fit = [each for each in _completed(index.digest, volume.device, found) if encryption.takes(each)]
        if not fit:
            return None
        snapshots[volume.device] = fit[0].id
    return Parents(index=index, snapshots=snapshots)


def check_parents(
    baked: BakedAmi, index: BlockIndex, *, found: Sequence[FoundSnapshot], encryption: Encryption, site: Site
) -> Iterator[Finding]:
    """Yield what keeps a site from making an AMI of what differs from its base, whose index this is."""
    if baked.base is None:
        return
    for volume in index.volumes:
        parents = _completed(index.digest, volume.device, found)
        if not parents:
            yield _absent(baked, baked.base, volume.device)
        elif not any(map(encryption.takes, parents)):
            yield _unfit(baked, parents[0], encryption, site)


def _completed(index: Digest, device: str, found: Sequence[FoundSnapshot]) -> list[FoundSnapshot]:
    tags = snapshot_tags(index, device).items()
    ours = (each for each in found if each.state == "completed" and tags <= each.tags.items())
    return sorted(ours, key=lambda each: each.id)


def _absent(baked: BakedAmi, base: AmiBase, device: str) -> Finding:
    cause = (
        f"carries only what differs from its base, and this account and Region have no completed snapshot of {device}"
        f" with the tag {INDEX_TAG}={base.index.digest}"
    )
    hint = f"Install {base.bundle} (root {base.root}), which brings it, before this bundle; or {_WHOLE}"
    return _finding(baked, cause, hint)


def _unfit(baked: BakedAmi, parent: FoundSnapshot, encryption: Encryption, site: Site) -> Finding:
    held = f"is encrypted with {parent.kms_key or 'another key'}" if parent.is_encrypted else "is not encrypted"
    asked = f"restore.kmsKey in the site file is {encryption.kms_key}"
    if encryption.kms_key is None:
        by_default, other = "the account encrypts every snapshot", "restore.kmsKey in the site file is not set"
        asked = other if parent.is_encrypted else by_default
    cause = f"begins with {parent.id}, which {held}, and so would it be; {asked}"
    wanted = snapshot_tags(Digest.parse(parent.tags[INDEX_TAG]), parent.tags[DEVICE_TAG], encryption.kms_key)
    tags = ",".join(f"{{Key={name},Value={value}}}" for name, value in (shared_tags() | wanted).items())
    key = "" if encryption.kms_key is None else f" --kms-key-id {encryption.kms_key}"
    copy = (
        f"aws ec2 copy-snapshot --region {site.region} --source-region {site.region} --source-snapshot-id {parent.id}"
        f" --encrypted{key} --tag-specifications 'ResourceType=snapshot,Tags=[{tags}]'"
    )
    return _finding(baked, cause, f"Give it a copy that fits: {copy}; or {_WHOLE}")


def _finding(baked: BakedAmi, cause: str, hint: str) -> Finding:
    subject = f"{baked.name} {baked.architecture}"
    return Finding(check=BASE_CHECK, subject=subject, cause=cause, hint=hint, exit_code=_CONFLICT_EXIT)
