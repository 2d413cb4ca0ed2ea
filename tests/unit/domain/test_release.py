"""What to do with a release, whatever state a killed Helm left it in (reliability F27, F32)."""

from __future__ import annotations

import pytest

from bundler.domain.digest import Digest
from bundler.domain.release import ReleasePlan, Revision, description_of, inputs_digest, plan_release

INPUTS = Digest.of(b"inputs")
OURS = description_of(INPUTS)


def history(*states: str, description: str = "Upgrade complete") -> list[Revision]:
    revisions = [Revision(number=at, status=state) for at, state in enumerate(states, 1)]
    return [*revisions[:-1], Revision(number=len(states), status=states[-1], description=description)] if states else []


def test_a_release_made_from_the_same_inputs_is_left_alone() -> None:
    assert plan_release(history("superseded", "deployed", description=OURS), inputs=INPUTS) == ReleasePlan(verb=None)


@pytest.mark.parametrize(
    ("states", "description", "plan"),
    [
        ((), "", ReleasePlan(verb="install", reason="not installed")),
        (("uninstalled",), OURS, ReleasePlan(verb="install", reason="not installed")),
        (("deployed",), "Upgrade done", ReleasePlan(verb="upgrade", reason="revision 1 was made from other inputs")),
        (("deployed",), description_of(Digest.of(b"x")),
         ReleasePlan(verb="upgrade", reason="revision 1 was made from other inputs")),
        (("deployed", "failed"), OURS, ReleasePlan(verb="upgrade", reason="revision 2 is failed")),
        (("failed",), OURS, ReleasePlan(verb="upgrade", reason="revision 1 is failed")),
        (("pending-install",), OURS,
         ReleasePlan(verb="install", reason="revision 1 was left pending-install", recover="uninstall")),
        (("superseded", "deployed", "pending-upgrade"), OURS,
         ReleasePlan(verb="upgrade", reason="revision 3 was left pending-upgrade", recover="rollback", back_to=2)),
        (("deployed", "failed", "pending-rollback"), OURS,
         ReleasePlan(verb="upgrade", reason="revision 3 was left pending-rollback", recover="rollback", back_to=1)),
        (("failed", "pending-upgrade"), OURS,
         ReleasePlan(verb="install", reason="revision 2 was left pending-upgrade", recover="uninstall")),
        (("deployed", "uninstalling"), OURS,
         ReleasePlan(verb="install", reason="revision 2 was left uninstalling", recover="uninstall")),
        (("unknown",), OURS, ReleasePlan(verb="upgrade", reason="revision 1 is unknown")),
    ],
)  # fmt: skip
def test_every_state_has_its_way_on(states: tuple[str, ...], description: str, plan: ReleasePlan) -> None:
    assert plan_release(history(*states, description=description), inputs=INPUTS) == plan


def digest(**changes: object) -> Digest:
    given: dict[str, object] = {
        "chart": INPUTS,
        "values": {"a": 1, "b": {"c": [1, 2]}},
        "manifests": "image: r.example.com/eks/a:1@sha256:00 password: random1",
        "host": "r.example.com",
    }
    return inputs_digest(**{**given, **changes})  # type: ignore[arg-type]


def test_inputs_are_chart_values_and_references_but_not_what_a_chart_makes_up() -> None:
    same = "password: random2 image: r.example.com/eks/a:1@sha256:00"
    assert digest() == digest(manifests=same) == digest(values={"b": {"c": [1, 2]}, "a": 1})
    assert len({digest(), digest(chart=Digest.of(b"y")), digest(values={"a": 2}), digest(manifests="")}) == 4
