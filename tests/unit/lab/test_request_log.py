"""The request log tells what could change something."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.lab.request_log import RequestLog, is_mutating_operation, mutations, read_requests


@pytest.mark.parametrize(
    "operation",
    ["CreateRepository", "PutImage", "UploadPart", "CompleteMultipartUpload", "RegisterImage", "AssociateAccessPolicy",
     "CreateOrUpdateTags", "InitiateLayerUpload", "BatchDeleteImage", "SetDesiredCapacity", "RunInstances", "Unheard"],
)  # fmt: skip
def test_what_is_not_known_to_read_counts_as_writing(operation: str) -> None:
    assert is_mutating_operation(operation)
    assert not is_mutating_operation(operation, dry_run=True)


@pytest.mark.parametrize(
    "operation",
    ["DescribeImages", "ListParts", "GetObject", "HeadObject", "GetAuthorizationToken", "BatchGetImage",
     "BatchCheckLayerAvailability", "GetCallerIdentity", "AssumeRole"],
)  # fmt: skip
def test_readers_do_not_write(operation: str) -> None:
    assert not is_mutating_operation(operation)


def test_only_what_was_done_is_a_mutation(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    log = RequestLog(path)
    log.aws("ecr", "CreateRepository", status=200)
    log.aws("ecr", "CreateRepository", status=400)
    log.aws("ecr", "DescribeRepositories", status=200)
    log.registry("ecr.dkr", method="PUT", path="/v2/a/manifests/v1", status=201)
    log.registry("ecr.dkr", method="HEAD", path="/v2/a/manifests/v1", status=200)
    assert [line.get("operation", line.get("path")) for line in mutations(path)] == [
        "CreateRepository",
        "/v2/a/manifests/v1",
    ]
    log.clear()
    assert not list(read_requests(path))


def test_no_log_is_an_empty_one(tmp_path: Path) -> None:
    assert not list(read_requests(tmp_path / "none"))
