"""How tests reach the real parts that the fixtures of conftest.py start."""

from __future__ import annotations

import configparser
import json
from collections.abc import Callable
from typing import Any

import urllib3

from bundler.lab.lab import LabFacts

StartRegistry = Callable[..., str]


def boto_client(facts: LabFacts, service: str, **options: Any) -> Any:
    """A boto3 client for the lab with the operator's key; one try, so that refusals are seen as they are."""
    import boto3
    from botocore.config import Config

    keys = configparser.ConfigParser()
    keys.read(facts.credentials_file)
    secrets = {name: keys["default"][name] for name in ("aws_access_key_id", "aws_secret_access_key")}
    config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
    session = boto3.Session(region_name=facts.region)
    return session.client(service, **{"endpoint_url": facts.aws_url, "config": config, **secrets, **options})


def lab_control(facts: LabFacts, method: str, path: str, value: object = None) -> None:
    """Ask something of a running lab: faults, settings (bundler/lab/daemon.py, Control)."""
    body = json.dumps({} if value is None else value)
    answer = urllib3.request(method, f"{facts.aws_url}/_lab/{path}", body=body, retries=False)
    assert answer.status == 200, answer.data
