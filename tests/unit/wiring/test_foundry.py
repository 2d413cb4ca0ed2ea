"""What Packer is given: credentials as they are when it runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from bundler.adapters.aws.clients import Aws
from bundler.domain.credentials import Secret
from bundler.wiring.foundry import _packer_access


@dataclass
class Rotating:
    """A session whose credentials are others each time."""

    numbers: Iterator[int] = field(default_factory=lambda: iter(range(9)))
    now: int = -1

    def credentials(self) -> Any:
        self.now = next(self.numbers)
        return SimpleNamespace(access_key=f"A{self.now}", secret_key=f"s{self.now}", token=f"t{self.now}")

    def secrets(self) -> tuple[Secret, ...]:
        return (Secret(f"s{self.now}"),)


def test_credentials_are_asked_for_anew_and_secrets_are_those_of_the_same_time() -> None:
    aws = cast("Aws", Rotating())
    first, second = (_packer_access(aws) for _ in range(2))
    assert first.environ == {"AWS_ACCESS_KEY_ID": "A0", "AWS_SECRET_ACCESS_KEY": "s0", "AWS_SESSION_TOKEN": "t0"}
    assert second.environ["AWS_SECRET_ACCESS_KEY"] == "s1"
    assert [str(secret.hidden_in("s1")) for secret in second.secrets] != ["s1"]
