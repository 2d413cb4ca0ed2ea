"""What Packer is given: credentials as they are when it runs; and who bakes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from bundler.adapters.aws.clients import Aws
from bundler.domain.credentials import Secret
from bundler.wiring.foundry import _owner, _packer_access
from bundler.wiring.surroundings import Surroundings


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


def test_an_owner_is_the_same_for_all_who_share_a_folder_and_another_for_others(tmp_path: Path) -> None:
    def owner(name: str, user: str = "me") -> str:
        return _owner(tmp_path / name, Surroundings(environ={"USER": user}))

    assert owner("a") == owner("a")
    assert owner("a").split()[0] == owner("a", "you").split()[0]
    assert owner("a").split()[0] != owner("b").split()[0]


def test_an_owner_is_a_tag_and_no_expression_of_packers(tmp_path: Path) -> None:
    """EC2: at most 256 characters, of letters, digits, blanks and some others."""
    made = _owner(tmp_path, Surroundings(environ={"USER": "corp\\me {{env `X`}}" + "x" * 300}))
    assert len(made) <= 256
    assert set("\\{}`") & set(made) == set()
    assert " corp-me" in made
