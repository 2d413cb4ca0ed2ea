"""The suite's own promises: enough cases run on both sides, and what only ECR does has a source."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from tests.contract import test_blobs, test_ecr, test_manifests, test_skopeo
from tests.contract.registries import DOCKER, ECR, PLAIN

_SOURCE = re.compile(r"ECR (User Guide|API Reference)|[\w.-]+/[\w.-]+#[0-9]+|distribution-spec")


def cases() -> Iterator[Callable[..., None]]:
    for module in (test_blobs, test_manifests, test_skopeo, test_ecr):
        yield from (item for name, item in vars(module).items() if name.startswith("test_") and callable(item))


def places(case: Callable[..., None]) -> set[str]:
    return set(case.__dict__["runs_on"])


def test_every_case_lists_its_registries() -> None:
    assert all(places(case) <= {DOCKER, PLAIN, ECR} and places(case) for case in cases())


def test_thirty_cases_run_on_docker_registry_and_on_both_of_ours() -> None:
    assert sum(places(case) == {DOCKER, PLAIN, ECR} for case in cases()) >= 30


def test_what_only_our_registries_do_has_a_source() -> None:
    unnamed = [
        case.__name__ for case in cases() if DOCKER not in places(case) and not _SOURCE.search(case.__doc__ or "")
    ]
    assert not unnamed
