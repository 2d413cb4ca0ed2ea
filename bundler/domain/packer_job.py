"""One run of Packer, as the bake asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bundler.domain.digest import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class PackerJob:
    """A template and what goes into it.

    Attributes:
        name: what people call it.
        run: digest of the inputs of the bake that it is part of.
        folder: the template's.
        file: the template in it.
        variables: all of them texts; those that are left out are not set.
        tags: on all that a team's own template builds; None for our template, which has variables for them.
        security_group: for a team's own template that has none; None for our template, which has a variable for it.
    """

    name: str
    run: Digest
    folder: Path
    file: str
    variables: Mapping[str, str]
    tags: Mapping[str, str] | None = field(default=None)
    security_group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NotedAmi:
    """An AMI that Packer said it was making for a team's template, when that was cut off.

    Attributes:
        is_interim: Packer may have meant to copy and then remove it.
    """

    id: str
    is_interim: bool
