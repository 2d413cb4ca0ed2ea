"""What a site stands on, as the AWS APIs describe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnet:
    """A subnet."""

    vpc: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineImage:
    """An AMI.

    Attributes:
        architecture: amd64 or arm64; AWS's word where it is another.
        root_device: name of the root device, that the template must repeat.
        root_gib: size of the root volume's snapshot, None where AWS does not tell.
    """

    id: str
    state: str
    architecture: str
    root_device: str
    root_gib: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """An instance profile and the ARNs of its roles."""

    arn: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Infrastructure:
    """Facts of adopted infrastructure that later phases use.

    Attributes:
        images: name of a node group -> facts of the AMI that it names by id.
    """

    images: Mapping[str, MachineImage] = field(default_factory=dict)
