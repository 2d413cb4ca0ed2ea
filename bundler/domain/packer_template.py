"""What a Packer of some version takes: one template in legacy JSON, the one dialect that spans 1.6 to 1.16."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

Version = tuple[int, int, int]
AMAZON_PLUGIN = "github.com/hashicorp/amazon"
NO_PACKER = "Or name AMIs that exist (no Packer), one for each architecture: architectures: [amd64], ami: {id: ami-…}"
_METADATA = {"http_endpoint": "enabled", "http_tokens": "required", "http_put_response_hop_limit": 1}
_ADDED: tuple[tuple[Version, dict[str, Any]], ...] = (
    ((1, 7, 0), {"metadata_options": _METADATA}),
    ((1, 8, 0), {"temporary_key_pair_type": "ed25519"}),  # before, the type was taken, and RSA made
    ((1, 10, 0), {"imds_support": "v2.0"}),
)
_ENCRYPTED = {"encrypted": True, "kms_key_id": "{{user `kms_key_id`}}"}
_GP3_SINCE = (1, 6, 6)
_SEPARATE_PLUGIN_SINCE = (1, 10, 0)
_PLUGIN = "newer amazon plugins have (Packer 1.7 and later)"
_NEWER = {
    "metadata_options": "Packer 1.7.0 and later have",
    "required_plugins": "Packer 1.7.0 and later have",
    "imds_support": _PLUGIN,
    "deprecate_at": _PLUGIN,
    "deregistration_protection": _PLUGIN,
    "skip_create_ami": _PLUGIN,
    "boot_mode": _PLUGIN,
    "ami_org_arns": _PLUGIN,
}
"""Keys and blocks that teams use and Packer 1.6.6 does not know."""
_UNKNOWN = re.compile(
    r"unknown configuration key: '?\"(?P<key>\w+)\"|(?:Blocks of type|An argument named) \"(?P<word>\w+)\""
)
_WANTS = re.compile(r"requires Packer version (?P<json>[0-9][\w.]*)|required_version = \"(?P<hcl>[^\"]{1,100})\"")


def gate(template: Mapping[str, Any], version: Version, *, has_key: bool = False) -> dict[str, Any]:
    """Return our template as a Packer of that version takes it: IMDSv2 and ed25519 where it can, gp3 where it can.

    Args:
        template: ours.
        version: Packer's.
        has_key: the variable `kms_key_id` is set. The instance's volume is encrypted with it then, and the AMI with it;
            `encrypt_boot` would make an AMI of a random name first, and copy that.
    """
    gated = deepcopy(dict(template))
    for builder in gated.get("builders", []):
        for since, keys in _ADDED:
            if version >= since:
                builder.update(deepcopy(keys))
        if version < _GP3_SINCE:
            _without_gp3(builder)
        for device in builder.get("launch_block_device_mappings", []) if has_key else ():
            device.update(_ENCRYPTED)
    return gated


def _without_gp3(builder: dict[str, Any]) -> None:
    for device in builder.get("launch_block_device_mappings", []):
        if device.get("volume_type") == "gp3":
            device["volume_type"] = "gp2"
            device.pop("iops", None)
            device.pop("throughput", None)


def needs_plugin(version: Version) -> bool:
    """Whether the amazon builder is a plugin of its own there, and not part of Packer."""
    return version >= _SEPARATE_PLUGIN_SINCE


def has_amazon_plugin(installed: str) -> bool:
    """Whether it is among what `packer plugins installed` lists, one path a line."""
    return any(f"/{AMAZON_PLUGIN}/packer-plugin-amazon_" in line for line in installed.splitlines())


def newer_needed(said: str) -> str:
    """Return what a template asks of a newer Packer, by what `packer validate` says of it; empty where nothing."""
    wanted = [f"Packer {match['json'] or match['hcl']}" for match in _WANTS.finditer(said)]
    names = dict.fromkeys(match["key"] or match["word"] for match in _UNKNOWN.finditer(said))
    keys = [f"{name}, which {_NEWER[name]}" for name in names if name in _NEWER]
    return "; ".join([*wanted, *keys])
