"""Instances of Auto Scaling groups, as a machine knows itself: read from moto in this process, not over the API."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bundler.lab.place import Place

ARCHITECTURES = {"x86_64": "amd64", "arm64": "arm64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One running instance.

    Attributes:
        user_data: decoded; empty where there is none.
        role_arn: of its instance profile, None where it has none.
        pods: what its network interfaces carry, host network apart.
    """

    id: str
    zone: str
    region: str
    private_dns_name: str
    private_address: str
    type: str
    architecture: str
    user_data: bytes = field(repr=False)
    role_arn: str | None
    cpus: int
    memory_mib: int
    pods: int


def running_instances(place: Place) -> list[Instance]:
    """Return the running instances of all Auto Scaling groups, in launch order of their groups."""
    from moto.autoscaling.models import autoscaling_backends

    groups = list(autoscaling_backends[place.account][place.region].autoscaling_groups.values())
    machines = [state.instance for group in groups for state in list(group.instance_states)]
    return [_instance(machine, place) for machine in machines if machine._state.name == "running"]


def instance_name(place: Place, instance_id: str) -> str | None:
    """Return the private DNS name of a running instance, None where there is none of that id."""
    found = (one.private_dns_name for one in running_instances(place) if one.id == instance_id)
    return next(found, None)


def _instance(machine: Any, place: Place) -> Instance:
    from moto.ec2.models.instance_types import INSTANCE_TYPES

    kind = INSTANCE_TYPES[machine.instance_type]
    return Instance(
        id=machine.id,
        zone=machine.placement.zone,
        region=place.region,
        private_dns_name=machine.private_dns_name,
        private_address=machine.private_ip,
        type=machine.instance_type,
        architecture=ARCHITECTURES.get(machine.architecture, machine.architecture),
        user_data=base64.b64decode(machine.user_data.as_bytes()) if machine.user_data is not None else b"",
        role_arn=_role(machine.iam_instance_profile, place),
        cpus=kind["VCpuInfo"]["DefaultVCpus"],
        memory_mib=kind["MemoryInfo"]["SizeInMiB"],
        pods=_pods(kind["NetworkInfo"]),
    )


def _pods(network: Mapping[str, Any]) -> int:
    """Return the VPC CNI's limit: an address for each pod, the first of each interface excepted, two on the host's."""
    interfaces, addresses = network["MaximumNetworkInterfaces"], network["Ipv4AddressesPerInterface"]
    return int(interfaces * (addresses - 1) + 2)


def _role(profile: Mapping[str, str] | None, place: Place) -> str | None:
    from moto.iam.models import iam_backends

    if profile is None:
        return None
    known = list(iam_backends[place.account][place.partition].instance_profiles.values())
    roles = [role for one in known if one.arn == profile["Arn"] for role in one.roles]
    return str(roles[0].arn) if roles else None
