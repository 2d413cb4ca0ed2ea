"""Clients against services that are not there."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from bundler.adapters.aws.clients import Aws, AwsSettings
from bundler.errors import NetworkError, UsageError
from bundler.transfer import parallel_map

pytestmark = pytest.mark.loopback
DEAD = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)


def test_work_that_is_called_off_is_not_tried_again() -> None:
    sts = Aws(AwsSettings(region="ap-northeast-1", endpoints={"sts": DEAD})).service("sts")
    counted, known = [], []
    sts._client.meta.events.register_first("before-send", lambda **_: counted.append(1))

    def work(number: int) -> None:
        if number == 0:
            while not counted:
                time.sleep(0.01)
            known.append(len(counted))
            raise UsageError("x", "stop")
        sts.call("GetCallerIdentity")

    started = time.monotonic()
    with pytest.raises(UsageError):
        parallel_map(work, [0, 1], workers=2)
    assert time.monotonic() - started < 3
    assert len(counted) <= known[0] + 1  # what was being sent in that moment


@pytest.mark.parametrize("body", [b"", bytes(64 << 20)], ids=["waiting for the answer", "sending"])
def test_a_call_that_waits_for_aws_is_woken_when_the_work_is_called_off(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service accepts the connection, and then neither reads nor answers."""
    pauses: list[float] = []
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=pauses.append))
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        s3 = Aws(AwsSettings(region="ap-northeast-1", endpoints={"s3": url})).service("s3")

        def work(number: int) -> None:
            if number == 0:
                stack.enter_context(server.accept()[0])
                time.sleep(0.5)
                raise UsageError("x", "stop")
            s3.call("PutObject", Bucket="bucket", Key="key", Body=body)

        started = time.monotonic()
        with pytest.raises(UsageError):
            parallel_map(work, [0, 1], workers=2)
        assert time.monotonic() - started < 5
    assert not pauses


def test_a_quick_client_gives_up_soon() -> None:
    ec2 = Aws(AwsSettings(region="ap-northeast-1", endpoints={"ec2": DEAD}, quick=True)).service("ec2")
    started = time.monotonic()
    with pytest.raises(NetworkError, match="no answer from http://127"):
        ec2.call("DescribeVpcs")
    assert time.monotonic() - started < 5
