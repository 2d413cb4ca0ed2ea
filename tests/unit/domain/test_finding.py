"""Findings."""

from __future__ import annotations

import pytest

from bundler.domain.finding import Finding, raise_findings
from bundler.errors import AccessError, BundleError, ConflictError, FindingsError, NetworkError, RefusedError


def finding(error: BundleError) -> Finding:
    return Finding.of("check", error)


def test_no_findings_raise_nothing() -> None:
    raise_findings("site", [])


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([NetworkError("s3", "silent")], 5),
        ([NetworkError("s3", "silent"), AccessError("ecr", "denied")], 4),
        ([ConflictError("r", "foreign"), NetworkError("s3", "silent")], 7),
        ([AccessError("ecr", "denied"), RefusedError("x", "wrong"), NetworkError("s3", "silent")], 3),
    ],
)
def test_the_exit_code_is_that_of_the_worst(errors: list[BundleError], code: int) -> None:
    with pytest.raises(FindingsError) as caught:
        raise_findings("site", [finding(error) for error in errors])
    assert caught.value.exit_code == code


def test_all_findings_are_shown_each_with_its_fix() -> None:
    errors = [NetworkError("s3", "silent", hint="make an endpoint"), AccessError("ecr", "denied", hint="allow it")]
    with pytest.raises(FindingsError) as caught:
        raise_findings("site", [finding(error) for error in errors])
    for text in ("s3: silent", "make an endpoint", "ecr: denied", "allow it", "2 checks failed"):
        assert text in caught.value.cause
