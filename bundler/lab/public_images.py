"""The public AMIs of other accounts that a lab with machines has, and the public SSM parameters that name them.

Names: EKS user guide, "Retrieve recommended Amazon Linux AMI IDs"; Bottlerocket's documentation, "AMI IDs in SSM".
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bundler.domain.blocks import BLOCK_BYTES
from bundler.lab.moto_ebs import SnapshotStore
from bundler.lab.moto_images import LabAmi
from bundler.lab.node_disk import ROOT_GIB, RawDisk, node_disk
from bundler.lab.place import Place

EKS_OWNER = "602401143452"
BOTTLEROCKET_OWNER = "092701018921"
RELEASE_DATE = "20261101"
BOTTLEROCKET_VERSION = "1.50.0"
BOTTLEROCKET_BUILD = "abcdef12"
KUBELET_PATCH = "0"
_ARCHITECTURES = ("x86_64", "arm64")
_BOTTLEROCKET_DEVICES = (("/dev/xvda", 2), ("/dev/xvdb", 20))
_UEFI_DATA = base64.b64encode(b"AMZNUEFI of the eks-bundler lab").decode()


def seed_public_images(place: Place, store: SnapshotStore, *, minor: str, folder: Path) -> None:
    """Put the AMIs and the parameters there; the node disk, out of the cache or new, is kept in `folder`.

    Raises:
        MissingToolError: a program that the node disk is made of is not installed.
    """
    maker = _Maker(place, store)
    disk = keep_disk(node_disk(f"v{minor}.{KUBELET_PATCH}"), folder)
    parameters: dict[str, str] = {}
    for architecture in _ARCHITECTURES:
        parameters |= _eks_parameters(maker.eks(minor, architecture, disk), minor, architecture)
    for architecture in _ARCHITECTURES:
        parameters |= _bottlerocket_parameters(maker.bottlerocket(minor, architecture), minor, architecture)
    publish_parameters(place, parameters)


class _Maker:
    """Makes images as moto keeps them: below the account that looks, with the owner that made them."""

    def __init__(self, place: Place, store: SnapshotStore) -> None:
        from moto.ebs.models import ebs_backends
        from moto.ec2.models import ec2_backends

        self._store = store
        self._ec2: Any = ec2_backends[place.account][place.region]
        self._ebs: Any = ebs_backends[place.account][place.region]

    def eks(self, minor: str, architecture: str, disk: RawDisk) -> LabAmi:
        snapshot = self._snapshot(ROOT_GIB, EKS_OWNER)
        self._store.link(self._ebs, snapshot, disk)
        traits = {
            "Description": f"EKS-optimized Kubernetes node based on Amazon Linux 2023, (k8s: {minor}) (lab stand-in)",
            "Architecture": architecture,
            "RootDeviceName": "/dev/xvda",
            "BootMode": "uefi-preferred" if architecture == "x86_64" else "uefi",
            "EnaSupport": True,
            "SriovNetSupport": "simple",
            "ImdsSupport": "v2.0",
            "BlockDeviceMappings": [_mapping("/dev/xvda", snapshot, "gp3")],
        }
        return self._image(f"amazon-eks-node-al2023-{architecture}-standard-{minor}-v{RELEASE_DATE}", traits, EKS_OWNER)

    def bottlerocket(self, minor: str, architecture: str) -> LabAmi:
        name = f"bottlerocket-aws-k8s-{minor}-{architecture}-v{BOTTLEROCKET_VERSION}-{BOTTLEROCKET_BUILD}"
        mappings = []
        for device, gib in _BOTTLEROCKET_DEVICES:
            snapshot = self._snapshot(gib, BOTTLEROCKET_OWNER)
            self._store.adopt(self._ebs, snapshot, gib, _synthetic(f"{name} {device}"))
            mappings.append(_mapping(device, snapshot, "gp2"))
        traits = {
            "Description": name,
            "Architecture": architecture,
            "RootDeviceName": "/dev/xvda",
            "BootMode": "uefi-preferred",
            "EnaSupport": True,
            "SriovNetSupport": "simple",
            "ImdsSupport": "v2.0",
            "TpmSupport": "v2.0",
            "UefiData": _UEFI_DATA,
            "BlockDeviceMappings": mappings,
        }
        return self._image(name, traits, BOTTLEROCKET_OWNER)

    def _snapshot(self, gib: int, owner: str) -> str:
        volume = self._ec2.create_volume(size=gib, zone_name=f"{self._ec2.region_name}a")
        made = self._ec2.create_snapshot(volume.id, "", owner_id=owner)
        self._ec2.delete_volume(volume.id)
        made.owner_alias = "amazon"
        made.create_volume_permission_groups.add("all")
        return str(made.id)

    def _image(self, name: str, traits: dict[str, Any], owner: str) -> LabAmi:
        image = LabAmi(self._ec2, name, traits, owner=owner)
        image.owner_alias = image.image_owner_alias = "amazon"
        image.launch_permissions.append({"Group": "all"})
        self._ec2.amis[image.id] = image
        return image


def _mapping(device: str, snapshot: str, kind: str) -> dict[str, Any]:
    return {"DeviceName": device, "Ebs": {"SnapshotId": snapshot, "VolumeType": kind, "DeleteOnTermination": True}}


def _synthetic(text: str) -> Iterator[tuple[int, bytes]]:
    """Yield a few blocks whose content only has to be the same every time."""
    for number in (0, 1, 7, 2047, 4095):
        seed = hashlib.sha256(f"{text} {number}".encode()).digest()
        yield number, (seed * (BLOCK_BYTES // len(seed)))


def _eks_parameters(image: LabAmi, minor: str, architecture: str) -> dict[str, str]:
    """Return what AWS publishes below `recommended`, and below the image's own name."""
    values = {
        "schema_version": "2",
        "image_id": image.id,
        "image_name": str(image.name),
        "release_version": f"{minor}.{KUBELET_PATCH}-{RELEASE_DATE}",
    }
    head = f"/aws/service/eks/optimized-ami/{minor}/amazon-linux-2023/{architecture}/standard"
    found: dict[str, str] = {}
    for folder in ("recommended", str(image.name)):
        found[f"{head}/{folder}"] = json.dumps(values, separators=(",", ":"))
        found |= {f"{head}/{folder}/{name}": value for name, value in values.items() if name != "schema_version"}
    return found


def _bottlerocket_parameters(image: LabAmi, minor: str, architecture: str) -> dict[str, str]:
    """Return what Bottlerocket publishes below `latest`, the version, and version and build."""
    build = f"{BOTTLEROCKET_VERSION}-{BOTTLEROCKET_BUILD}"
    head = f"/aws/service/bottlerocket/aws-k8s-{minor}/{architecture}"
    folders = ("latest", BOTTLEROCKET_VERSION, build)
    found = {f"{head}/{folder}/image_id": image.id for folder in folders}
    return found | {f"{head}/{folder}/image_version": build for folder in folders}


def publish_parameters(place: Place, parameters: dict[str, str]) -> None:
    """Let SSM answer them, as nobody's: their ARN names no account."""
    from moto.core.utils import utcnow
    from moto.ssm.models import Parameter, ssm_backends

    class PublicParameter(Parameter):
        def response_object(self, decrypt: bool = False, region: str | None = None) -> dict[str, Any]:
            found: dict[str, Any] = super().response_object(decrypt, region)
            return found | {"ARN": f"arn:{place.partition}:ssm:{place.region}::parameter{self.name}"}

    make: Any = PublicParameter
    known = ssm_backends[place.account][place.region]._parameters
    for name, value in parameters.items():
        is_image = name.endswith("/image_id")
        known[name].append(
            make(
                account_id="", name=name, value=value, parameter_type="String", description=None, allowed_pattern=None,
                keyid=None, last_modified_date=utcnow(), version=1, data_type="aws:ec2:image" if is_image else "text",
            )
        )  # fmt: skip


def keep_disk(disk: RawDisk, folder: Path) -> RawDisk:
    """Return a disk that stays while this lab runs, whatever becomes of the cache."""
    folder.mkdir(parents=True, exist_ok=True)
    here = folder / disk.path.name
    try:
        os.link(disk.path, here)
    except OSError:  # another file system
        shutil.copyfile(disk.path, here)
    return replace(disk, path=here)
