"""Plans as values."""

from __future__ import annotations

import pytest

from bundler.domain.plan import Action, Plan


def test_plans_add_up_in_order() -> None:
    push = Action(phase="push", verb="upload", target="image a", detail="3 blobs")
    role = Action(phase="identity", verb="create", target="access entry r")
    plan = Plan(actions=(push,), unchanged=("image b",)) + Plan(actions=(role,))
    assert list(plan) == [push, role]
    assert plan.unchanged == ("image b",)
    assert [str(action) for action in plan] == ["upload image a (3 blobs)", "create access entry r"]


def test_a_plan_is_empty_without_actions_however_much_was_looked_at() -> None:
    assert Plan(unchanged=("image b",)).empty
    assert not Plan(actions=(Action(phase="push", verb="create", target="x"),)).empty


def test_nobody_takes_an_empty_plan_for_a_missing_one() -> None:
    with pytest.raises(TypeError):
        bool(Plan())
