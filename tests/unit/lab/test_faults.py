"""Planned faults hit the call they were planned for."""

from __future__ import annotations

import pytest

from bundler.errors import UsageError
from bundler.lab.faults import Fault, Faults, parse_fault


def test_the_nth_call_is_hit_and_no_other() -> None:
    faults = Faults()
    faults.plan(Fault(service="ecr", operation="CreateRepository", kind="denied", nth=2))
    hits = [faults.take("ecr", "CreateRepository") is not None for _ in range(4)]
    assert hits == [False, True, False, False]


def test_several_calls_in_a_row_are_hit() -> None:
    faults = Faults()
    faults.plan(Fault(service="*", operation="*", kind="throttled", nth=2, times=2))
    hits = [faults.take("any", "Thing") is not None for _ in range(4)]
    assert hits == [False, True, True, False]


def test_other_calls_are_not_counted() -> None:
    faults = Faults()
    faults.plan(Fault(service="ecr", operation="PutImage", kind="reset"))
    assert faults.take("ecr", "CreateRepository") is None
    assert faults.take("ecr.dkr", "PutImage") is None
    assert faults.take("ecr", "PutImage") is not None


def test_cleared_faults_are_gone() -> None:
    faults = Faults()
    faults.plan(Fault(service="*", operation="*", kind="reset", times=99))
    faults.clear()
    assert faults.take("ecr", "PutImage") is None


@pytest.mark.parametrize("value", [None, [], {"kind": "unknown"}, {"kind": "denied"}, {"kind": "denied", "where": 1}])
def test_what_is_no_fault_is_refused(value: object) -> None:
    with pytest.raises(UsageError):
        parse_fault(value)


def test_one_of_so_many_calls_may_be_spared() -> None:
    faults = Faults()
    faults.plan(Fault(service="ebs", operation="*", kind="throttled", times=100, spare=3))
    hit = [faults.take("ebs", "PutSnapshotBlock") is not None for _ in range(7)]
    assert hit == [True, True, False, True, True, False, True]
