"""Requests past botocore's models: what is no plain success is the first try of botocore's own call, not one more."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from botocore.exceptions import ClientError

from bundler.adapters.aws.clients import Aws, AwsSettings
from bundler.adapters.aws.ebs import EbsDirect, _quoted
from bundler.domain.blocks import BLOCK_BYTES
from bundler.domain.events import Event, Retrying
from bundler.domain.snapshot import ListedBlock, NewSnapshot
from bundler.errors import AccessError, NetworkError
from bundler.lab.request_log import read_requests
from bundler.retry import RetryPolicy
from tests.loopback.aws.conftest import Closed

pytestmark = pytest.mark.loopback
CONTENT = b"content".ljust(BLOCK_BYTES, b".")
SHA256 = hashlib.sha256(CONTENT).digest()


class Told:
    """EBS direct whose waits are told and not slept."""

    def __init__(self, closed: Closed) -> None:
        self.events: list[Event] = []
        self.waits: list[float] = []
        settings = AwsSettings(
            region=closed.site.region,
            endpoints={"ebs": closed.lab.aws_url},
            emit=self.events.append,
            sleep=self.waits.append,
        )
        self.api = EbsDirect(service=Aws(settings).service("ebs"), policy=RetryPolicy(sleep=self.waits.append))
        self._closed = closed

    def started(self, name: str) -> str:
        token = hashlib.sha256(name.encode()).hexdigest()
        return self.api.start(NewSnapshot(gib=1, description=name, tags={}, token=token))

    def asked(self, operation: str) -> list[int]:
        """The status of each request for an operation."""
        lines = read_requests(self._closed.lab.requests_file)
        return [int(str(line["status"])) for line in lines if line.get("operation") == operation]


def test_the_service_is_given_the_time_that_it_asks_for(fresh_closed: Closed) -> None:
    told = Told(fresh_closed)
    snapshot = told.started("asks")
    fresh_closed.fault("ebs", "PutSnapshotBlock", "throttled", times=2, retry_after_s=7)
    told.api.put(snapshot, 3, memoryview(CONTENT), SHA256)
    assert told.waits == [7, 7]
    assert [event.subject for event in told.events if isinstance(event, Retrying)] == ["ebs:PutSnapshotBlock"] * 2
    assert len(told.asked("PutSnapshotBlock")) == 3, "the first of them is no extra one"
    told.api.complete(snapshot, 1, hashlib.sha256(SHA256).digest())
    (block,) = told.api.blocks(snapshot).blocks
    fresh_closed.fault("ebs", "GetSnapshotBlock", "unavailable", retry_after_s=5)
    assert told.api.read(snapshot, block, progress=lambda: 0) == (CONTENT, SHA256)
    assert told.waits == [7, 7, 5]
    assert len(told.asked("GetSnapshotBlock")) == 2


def test_who_is_refused_is_refused_once(fresh_closed: Closed) -> None:
    told = Told(fresh_closed)
    snapshot = told.started("refused")
    fresh_closed.fault("ebs", "PutSnapshotBlock", "denied", times=9)
    with pytest.raises(AccessError, match="ebs:PutSnapshotBlock"):
        told.api.put(snapshot, 3, CONTENT, SHA256)
    assert len(told.asked("PutSnapshotBlock")) == 1
    assert told.waits == []


def test_what_was_handed_over_is_used_up(fresh_closed: Closed) -> None:
    told = Told(fresh_closed)
    snapshot = told.started("used")
    fresh_closed.fault("ebs", "PutSnapshotBlock", "reset")
    for number in range(3):
        told.api.put(snapshot, number, CONTENT, SHA256)
    assert len(told.waits) == 1
    told.api.complete(snapshot, 3, hashlib.sha256(SHA256 * 3).digest())


def test_nobody_there_is_asked_as_often_as_botocore_asks(closed: Closed) -> None:
    told = Told(closed)
    gone = Aws(AwsSettings(region=closed.site.region, endpoints={"ebs": "http://127.0.0.1:9"}, quick=True))
    api = replace(told.api, service=gone.service("ebs"), policy=RetryPolicy(tries=1))
    with pytest.raises(NetworkError, match="no answer from http"):
        api.read("snap-1", ListedBlock(0, "token"), progress=lambda: 0)


def test_without_credentials_it_is_said(closed: Closed, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(AccessError, match="no credentials"):
        Told(closed).api.put("snap-1", 0, CONTENT, SHA256)


def test_a_token_is_quoted_as_botocore_quotes_it(fresh_closed: Closed) -> None:
    told = Told(fresh_closed)
    client = told.api.service._client
    sent: list[str] = []
    client.meta.events.register("before-send", lambda request, **_: sent.append(request.url))
    odd = "a+b/c==&d e~f%g"
    with pytest.raises(ClientError):
        client.get_snapshot_block(SnapshotId="snap-1", BlockIndex=0, BlockToken=odd)
    assert sent[0].endswith(f"?blockToken={_quoted(odd)}")
