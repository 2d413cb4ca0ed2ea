"""A team's own Packer template in legacy JSON: what it says of its network, and what a bake adds to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

_BUILDER = "amazon-ebs"
_TAGGED = ("run_tags", "run_volume_tags", "tags", "snapshot_tags")
_NO_KEY_PAIR = ("ssh_keypair_name", "ssh_private_key_file", "ssh_password")
"""With one of these Packer makes no key pair of its own (packer-plugin-amazon, RunConfig.Prepare)."""
_OWN_NETWORK = (
    "security_group_id", "security_group_ids", "security_group_filter", "temporary_security_group_source_cidrs",
    "temporary_security_group_source_cidr", "temporary_security_group_source_public_ip", "subnet_filter", "vpc_filter",
    "access_key", "assume_role", "profile", "vault_aws_engine",
)  # fmt: skip
"""With one of these a template has groups of its own, or builds where we do not know the VPC, or in another account."""
_VARIABLE = re.compile(r"\{\{\s*user\s*[`'\"](?P<name>[^`'\"]+)[`'\"]\s*\}\}")
_SUBNET = re.compile(r"subnet-[0-9a-f]{8,17}")
_INTERIM = re.compile(rb"encrypt_boot|skip_save_build_region")


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamNetwork:
    """Where a template builds that has no security group of its own; `subnet` is None for the default VPC's."""

    subnet: str | None


def is_legacy(name: str) -> bool:
    """Whether a file is JSON as Packer had it before HCL."""
    return name.endswith(".json") and not name.endswith(".pkr.json")


def makes_interim_amis(content: bytes) -> bool:
    """Whether the first AMI that a template makes may be none to keep: Packer copies it, and then removes it."""
    return _INTERIM.search(content) is not None


def network_of(template: Mapping[str, Any], variables: Mapping[str, str], *, region: str) -> TeamNetwork | None:
    """Return where it builds, None where a security group of ours has no place in it.

    That is, where it has one of its own, or we cannot tell for certain in which VPC of ours it builds.
    """
    builders = _builders(template)
    if len(builders) != 1 or any(builders[0].get(key) for key in _OWN_NETWORK):
        return None
    known = {**(template.get("variables") or {}), **variables}
    said = {
        key: _resolved(builders[0].get(key), known)
        for key in ("subnet_id", "vpc_id", "region", "communicator", "ssh_port")
    }
    subnet = said["subnet_id"]
    is_here = said["region"] in ("", region) and said["communicator"] in ("", "ssh") and said["ssh_port"] in ("", "22")
    if not is_here or subnet is None or (subnet and not _SUBNET.fullmatch(subnet)) or (not subnet and said["vpc_id"]):
        return None
    return TeamNetwork(subnet=subnet or None)


def with_run(
    template: Mapping[str, Any], tags: Mapping[str, str], *, keys: str, security_group: str | None
) -> dict[str, Any]:
    """Return the template whose builders give our tags to all that they make, and log in through our security group.

    Their key pairs, which an old Packer does not tag, are found by name should it be killed; `keys` begins that.
    """
    made = deepcopy(dict(template))
    for builder in _builders(made):
        for key in _TAGGED:
            builder[key] = {**builder.get(key, {}), **tags}
        if not any(builder.get(key) for key in _NO_KEY_PAIR):
            builder["temporary_key_pair_name"] = f"{keys}{{{{uuid}}}}"
        if security_group is not None:
            builder["security_group_id"] = security_group
    return made


def sensitive_values(template: Mapping[str, Any], variables: Mapping[str, str]) -> list[str]:
    """Return the values that it calls sensitive."""
    listed, defaults = template.get("sensitive-variables"), template.get("variables")
    known = {**(defaults if isinstance(defaults, dict) else {}), **variables}
    names = listed if isinstance(listed, list) else []
    return [known[name] for name in names if isinstance(name, str) and isinstance(known.get(name), str)]


def _builders(template: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [builder for builder in template.get("builders", []) if builder.get("type") == _BUILDER]


def _resolved(value: object, known: Mapping[str, object]) -> str | None:
    """A value with its variables put in; None where it holds more than those."""
    text = "" if value is None else str(value)
    text = _VARIABLE.sub(lambda match: str(known.get(match["name"]) or ""), text)
    return None if "{{" in text else text.strip()
