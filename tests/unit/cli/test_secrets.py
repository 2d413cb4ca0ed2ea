"""What stands in variables of the environment, beside user names, is printed by no command."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("AWS_ENDPOINT_URL", "http://user:CANARY@127.0.0.1:1/"),
        ("AWS_ENDPOINT_URL", "http://user:CANARY?x@127.0.0.1:1/"),
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:99999/CANARY"),
        ("HTTPS_PROXY", "socks5://user:CANARY@127.0.0.1:1"),
        ("HTTPS_PROXY", "http://user:CANARY/PROXY@127.0.0.1:1"),
        ("http_proxy", "http://user:CANARY?PROXY@127.0.0.1:1"),
    ],
)
def test_ship_names_the_variable_and_not_its_value(variable: str, url: str) -> None:
    environ = {
        "PATH": os.environ["PATH"],
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "eu-central-1",
        "HOME": "/nonexistent",
        variable: url,
    }
    argv = [sys.executable, "-m", "bundler", "ship", "A.tar", "s3://bucket/x"]
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert variable in done.stderr
    assert "CANARY" not in done.stdout + done.stderr
