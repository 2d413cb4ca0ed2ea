"""How tests reach the real parts that the fixtures of conftest.py start."""

from __future__ import annotations

import configparser
import functools
import json
from collections.abc import Callable
from typing import Any

import urllib3

from bundler.lab.lab import LabFacts

StartRegistry = Callable[..., str]


def lab_key(facts: LabFacts) -> tuple[str, str]:
    """The operator's access key and secret."""
    keys = configparser.ConfigParser(interpolation=None)
    keys.read(facts.credentials_file)
    return keys["default"]["aws_access_key_id"], keys["default"]["aws_secret_access_key"]


def boto_client(facts: LabFacts, service: str, **options: Any) -> Any:
    """A boto3 client for the lab with the operator's key; one try, so that refusals are seen as they are."""
    from botocore.config import Config

    secrets = dict(zip(("aws_access_key_id", "aws_secret_access_key"), lab_key(facts), strict=True))
    config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
    given = {"endpoint_url": facts.aws_url, "config": config, **secrets, **options}
    return _session(facts.region).client(service, **given)


@functools.cache
def _session(region: str) -> Any:
    """One session keeps the service models that it has read."""
    import boto3

    return boto3.Session(region_name=region)


def lab_control(facts: LabFacts, method: str, path: str, value: object = None) -> None:
    """Ask something of a running lab: faults, settings (bundler/lab/daemon.py, Control)."""
    body = json.dumps({} if value is None else value)
    answer = urllib3.request(method, f"{facts.aws_url}/_lab/{path}", body=body, retries=False)
    assert answer.status == 200, answer.data
