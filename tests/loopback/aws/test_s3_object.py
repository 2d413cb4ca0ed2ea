"""Ranged reads from an S3 that misbehaves: the right bytes, or a typed error (reliability E16, F09, F12, F19, W08)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from itertools import count
from unittest.mock import Mock

import pytest

from bundler.adapters.aws.clients import Aws, AwsSettings
from bundler.adapters.aws.s3_object import HEAD_BYTES, S3Object, open_s3_object
from bundler.domain.shipment import S3Address
from bundler.errors import AccessError, BundleError, DigestError, FormatError, NetworkError, TransientError, UsageError
from bundler.retry import RetryPolicy
from bundler.transfer import parallel_map
from tests.fakes.faulty_s3 import FaultyS3, faulty_s3

pytestmark = pytest.mark.loopback
CONTENT = os.urandom(3_000_000)
ADDRESS = S3Address.parse("s3://bucket/in/a-1.tar")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "canary-secret",
        "AWS_SESSION_TOKEN": "canary-token",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("bundler.adapters.aws.clients.TRIES", 2)


@pytest.fixture
def server() -> Iterator[FaultyS3]:
    with faulty_s3(CONTENT) as state:
        yield state


def open_it(server: FaultyS3, **options: object) -> S3Object:
    aws = Aws(AwsSettings(region="ap-northeast-1", endpoints={"s3": server.url}, sleep=lambda _: None))
    policy = RetryPolicy(tries=4, sleep=lambda _: None)
    return open_s3_object(ADDRESS, service=aws.service("s3"), policy=policy, **options)  # type: ignore[arg-type]


def read(source: S3Object, offset: int = 100_000, length: int = 2_500_000) -> bytes:
    return b"".join(bytes(chunk) for chunk in source.stream(offset, length))


def test_exactly_the_range_is_read_from_the_same_object(server: FaultyS3) -> None:
    source = open_it(server)
    assert (source.name, source.size) == ("s3://bucket/in/a-1.tar", len(CONTENT))
    assert read(source) == CONTENT[100_000:2_600_000]
    assert source.read_at(2_000_005, 7) == CONTENT[2_000_005:2_000_012]
    assert source.read_at(len(CONTENT), 0) == b""
    assert server.ranges == ["bytes=100000-2599999", "bytes=2000005-2000011"]
    assert server.conditions == ['"e1"', '"e1"']


def test_chunks_are_never_larger_than_a_mebibyte(server: FaultyS3) -> None:
    assert max(len(chunk) for chunk in open_it(server).stream(0, len(CONTENT))) <= 1 << 20


def test_the_beginning_is_fetched_once_whatever_is_read_of_it(server: FaultyS3) -> None:
    source = open_it(server)
    for offset, length in ((0, 512), (512, 70_000), (1000, 1), (HEAD_BYTES - 10, 10), (HEAD_BYTES - 10, 5_010)):
        assert source.read_at(offset, length) == CONTENT[offset : offset + length]
    assert server.ranges == [f"bytes=0-{HEAD_BYTES - 1}", f"bytes={HEAD_BYTES}-{HEAD_BYTES + 4_999}"]


def test_one_connection_serves_many_ranges(server: FaultyS3) -> None:
    source = open_it(server)
    for offset in range(0, 100_000, 10_000):
        source.read_at(HEAD_BYTES + offset, 10_000)
    assert len(server.ranges) == 10
    assert len(server.connections) == 1


def test_a_range_beyond_the_end_is_refused_without_asking(server: FaultyS3) -> None:
    with pytest.raises(FormatError):
        open_it(server).read_at(len(CONTENT) - 1, 2)
    assert not server.ranges


@pytest.mark.parametrize("mode", ["cut", "reset"])
@pytest.mark.parametrize("times", [1, 3, 10])
def test_a_cut_is_mended_by_another_range_from_where_it_stopped(server: FaultyS3, mode: str, times: int) -> None:
    server.mode, server.faulty = mode, times
    assert read(open_it(server)) == CONTENT[100_000:2_600_000]
    starts = [int(text.removeprefix("bytes=").split("-")[0]) for text in server.ranges]
    assert starts == sorted(starts)
    assert len(starts) == times + 1
    if mode == "cut":
        assert starts[1] >= 100_000 + 1_000_000


def test_cuts_without_progress_end_in_a_network_error(server: FaultyS3) -> None:
    source = open_it(server)
    server.mode = "cut"
    with pytest.raises(TransientError):
        source.read_at(0, 1)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("412", DigestError),
        ("416", DigestError),
        ("etag", DigestError),
        ("norange", NetworkError),
        ("badrange", NetworkError),
        ("badtotal", NetworkError),
        ("short", NetworkError),
        ("long", NetworkError),
        ("slowdown", NetworkError),
        ("html", NetworkError),
        ("gone", UsageError),
        ("denied", AccessError),
    ],
)
def test_a_wrong_answer_is_a_typed_error_and_never_wrong_bytes(
    server: FaultyS3, mode: str, kind: type[BundleError]
) -> None:
    source = open_it(server)
    server.mode = mode
    with pytest.raises(kind) as caught:
        read(source)
    assert "s3://bucket/in/a-1.tar" in str(caught.value)
    shown = f"{caught.value!r} {caught.value.hint} {caught.value.__cause__!r}"
    assert "canary" not in shown


@pytest.mark.parametrize("mode", ["301", "302", "307"])
@pytest.mark.parametrize("is_open", [False, True])
def test_a_redirect_is_refused_and_not_followed_in_circles(server: FaultyS3, mode: str, *, is_open: bool) -> None:
    """A proxy that wants a login answers so, and S3 where the bucket is in another Region."""
    source = open_it(server) if is_open else None
    server.mode = mode
    with pytest.raises(UsageError, match=r"s3://bucket/in/a-1\.tar: "):
        read(source or open_it(server))
    assert server.heads + len(server.ranges) <= 4


@pytest.mark.parametrize("mode", ["412", "etag"])
def test_an_object_that_is_replaced_between_two_ranges_is_refused(server: FaultyS3, mode: str) -> None:
    source = open_it(server)
    assert source.read_at(2_000_000, 10) == CONTENT[2_000_000:2_000_010]
    server.mode = mode
    with pytest.raises(DigestError, match="not the object any more"):
        source.read_at(2_000_010, 10)


def test_throttling_passes(server: FaultyS3) -> None:
    source = open_it(server)
    server.mode, server.faulty = "slowdown", 1
    assert source.read_at(0, 10) == CONTENT[:10]


def test_a_flipped_bit_is_for_the_digest_above_to_find(server: FaultyS3) -> None:
    server.mode = "flip"
    got = read(open_it(server))
    assert len(got) == 2_500_000
    assert got != CONTENT[100_000:2_600_000]


def test_a_peer_that_drips_bytes_is_given_up_in_bounded_time(server: FaultyS3) -> None:
    ticks = count(step=4)
    source = open_it(server, clock=lambda: float(next(ticks)))
    server.mode = "drip"
    with pytest.raises(NetworkError, match="bytes a second, over 8 connections"):
        read(source)
    assert len(server.ranges) == 8


def test_a_slow_reader_is_not_taken_for_a_slow_peer(server: FaultyS3) -> None:
    clock = Mock(return_value=0.0)
    source = open_it(server, clock=clock)
    got = b""
    for chunk in source.stream(0, len(CONTENT)):
        got += bytes(chunk)
        clock.return_value += 1000.0  # the reader took its time
    assert got == CONTENT
    assert len(server.ranges) == 1


def test_calling_the_work_off_ends_a_blocked_read_at_once(server: FaultyS3) -> None:
    source = open_it(server)
    server.mode = "hang"
    begun = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            begun.wait(10)
            time.sleep(0.3)  # the other one has read what came, and waits for more
            raise UsageError("x", "stop")
        for _ in source.stream(0, len(CONTENT)):
            begun.set()

    with pytest.raises(UsageError):
        parallel_map(work, [0, 1], workers=2)
    assert server.hung_up.wait(10), "the reader left, and not the server"
    assert len(server.ranges) == 1


def test_an_object_that_does_not_exist_is_usage(server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fakes import faulty_s3 as module

    monkeypatch.setattr(module._Handler, "do_HEAD", lambda self: self._error(404, "NoSuchKey"))
    with pytest.raises(UsageError, match="does not exist"):
        open_it(server)
