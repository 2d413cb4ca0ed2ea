"""What a bake that was cut off leaves in AWS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """An instance, key pair or security group of a builder; `id` is the name of a key pair."""

    kind: Literal["instance", "key pair", "security group"]
    id: str

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"
