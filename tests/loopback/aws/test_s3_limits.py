"""Bytes and requests that shipping to S3 and reading from it cost, also where it fails (reliability F10-F20)."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.adapters.aws.clients import Aws, AwsSettings, Service
from bundler.adapters.aws.s3_object import HEAD_BYTES, LANES, S3Object, open_s3_object
from bundler.adapters.aws.s3_store import S3Store
from bundler.archive.reader import open_archive
from bundler.domain import shipment
from bundler.domain.shipment import S3Address
from bundler.errors import AccessError, BundleError, ConflictError, NetworkError
from bundler.retry import RetryPolicy
from bundler.stages.ship import LocalFile, Shipped, observe, ship
from bundler.transfer import Pace, parallel_map
from tests.fakes.archives import sample
from tests.fakes.counting_s3 import Asked, CountingS3, Fault, counting_s3

pytestmark = pytest.mark.loopback
KIB = 1 << 10
PART = 1 << 20
PARTS = 24
SIZE = PARTS * PART - 1000
WORKERS = 8
ADDRESS = S3Address.parse("s3://bucket/in/a b+c-1.tar")
KEY = f"{ADDRESS.bucket}/{ADDRESS.key}"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "canary-secret",
    "AWS_SESSION_TOKEN": "canary-token",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(shipment, "LEAST_PART_BYTES", PART)
    monkeypatch.setattr("bundler.adapters.aws.clients.TRIES", 2)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CountingS3]:
    folder = tmp_path / "s3"
    folder.mkdir()
    with counting_s3(folder) as state:
        yield state


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "a b+c-1.tar"
    made.write_bytes(os.urandom(SIZE))
    return made


def service(server: CountingS3) -> Service:
    return Aws(AwsSettings(region="eu-central-1", endpoints={"s3": server.url}, sleep=lambda _: None)).service("s3")


def send(server: CountingS3, path: Path, *, workers: int = WORKERS) -> Shipped:
    store = S3Store(service(server), policy=RetryPolicy(sleep=lambda _: None))
    with LocalFile.open(path) as local:
        plan = observe(local, ADDRESS, store=store)
        return ship(plan, local, ADDRESS, store=store, pace=Pace(workers=workers))


def opened(server: CountingS3) -> S3Object:
    policy = RetryPolicy(sleep=lambda _: None)
    return open_s3_object(ADDRESS, service=service(server), policy=policy)


def test_every_byte_is_sent_once_and_the_digests_are_those_of_the_file(server: CountingS3, path: Path) -> None:
    done = send(server, path)
    assert server.content(KEY) == path.read_bytes()
    assert done.shipment.digest.hex == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (done.sent, server.received) == (PARTS, SIZE)
    assert server.requests == {
        "HeadObject": 2,
        "ListMultipartUploads": 1,
        "CreateMultipartUpload": 1,
        "UploadPart": PARTS,
        "CompleteMultipartUpload": 1,
    }
    assert server.connections <= WORKERS + 1


def test_what_is_sent_is_bound_to_the_signature(server: CountingS3, path: Path) -> None:
    seen: list[dict[str, str]] = []

    def script(asked: Asked) -> None:
        if asked.operation == "UploadPart":
            seen.append(asked.headers)

    server.script = script
    send(server, path)
    for headers in seen:
        signed = headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
        assert {"host", "x-amz-checksum-sha256", "x-amz-content-sha256", "x-amz-date"} <= set(signed)
        assert len(headers["x-amz-checksum-sha256"]) == 44


def test_a_second_run_sends_nothing(server: CountingS3, path: Path) -> None:
    send(server, path)
    assert send(server, path).sent == 0
    assert server.received == SIZE


def every(operation: str, fault: Fault, *, of: int = 3, times: int = 1 << 30) -> object:
    """The fault at each `of`-th request for an operation, at most `times`."""

    def script(asked: Asked) -> Fault | None:
        hit = asked.operation == operation and asked.number % of == 0 and asked.number // of <= times
        return fault if hit else None

    return script


SLOW_DOWN = Fault(status=503, code="SlowDown")
EARLY = Fault(status=503, code="SlowDown", early=True)
RESET = Fault(cut_after=PART // 2)
DAMAGED = Fault(flip=True)
LOST = Fault(lose_answer=True)


@pytest.mark.parametrize("fault", [SLOW_DOWN, EARLY, RESET, DAMAGED, LOST], ids=["slow", "early", "cut", "bad", "lost"])
def test_a_third_of_the_parts_fails_and_the_object_is_right(server: CountingS3, path: Path, fault: Fault) -> None:
    server.script = every("UploadPart", fault)  # type: ignore[assignment]
    send(server, path)
    assert server.content(KEY) == path.read_bytes()
    asked = server.requests["UploadPart"]
    assert asked - asked // 3 == PARTS, "each failure costs one more request, and nothing else does"


@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "ListMultipartUploads", "CompleteMultipartUpload"])
@pytest.mark.parametrize("fault", [SLOW_DOWN, LOST], ids=["slow", "lost"])
def test_what_stands_around_the_parts_may_fail_too(
    server: CountingS3, path: Path, operation: str, fault: Fault
) -> None:
    server.script = every(operation, fault, of=1, times=1)  # type: ignore[assignment]
    send(server, path)
    assert server.content(KEY) == path.read_bytes()
    assert server.received == SIZE


GONE = Fault(status=404, code="NoSuchUpload")


def test_an_upload_that_somebody_threw_away_says_what_to_do(server: CountingS3, path: Path) -> None:
    server.script = every("UploadPart", GONE, of=5, times=1)
    with pytest.raises(ConflictError, match="threw the unfinished upload away") as caught:
        send(server, path)
    assert "run the same command again" in caught.value.hint
    server.script = lambda _: None
    send(server, path)
    assert server.content(KEY) == path.read_bytes()


def test_an_upload_that_is_gone_when_it_is_looked_at_is_none(server: CountingS3, path: Path) -> None:
    server.script = every("UploadPart", Fault(status=403, code="AccessDenied"), of=5)
    with pytest.raises(AccessError):
        send(server, path)
    server.script = every("ListParts", GONE, of=1)
    send(server, path)
    assert server.content(KEY) == path.read_bytes()


def test_parts_that_always_arrive_damaged_make_no_object(server: CountingS3, path: Path) -> None:
    server.script = every("UploadPart", DAMAGED, of=1)  # type: ignore[assignment]
    with pytest.raises(NetworkError, match="arrived damaged"):
        send(server, path, workers=2)
    assert KEY not in server.objects


def test_a_token_that_expires_costs_only_what_was_on_its_way(server: CountingS3, path: Path) -> None:
    def script(asked: Asked) -> Fault | None:
        expired = asked.operation == "UploadPart" and asked.number > 10
        return Fault(status=400, code="ExpiredToken") if expired else None

    server.script = script
    with pytest.raises(AccessError, match="xpired"):
        send(server, path)
    server.script = lambda _: None
    assert PARTS - 10 <= send(server, path).sent < PARTS - 10 + WORKERS, "what was on its way was called off"
    assert server.content(KEY) == path.read_bytes()


def test_opening_an_archive_costs_one_range(server: CountingS3, tmp_path: Path) -> None:
    made = sample()
    archive = made.build(tmp_path)
    server.put(KEY, archive)
    found = open_archive(opened(server), made.trust)
    assert found.root.name == "sample"
    assert found.read("sbom.cdx.json")
    assert server.requests == {"HeadObject": 1, "GetObject": 1}
    assert server.sent == min(HEAD_BYTES, archive.stat().st_size)


def test_verifying_an_archive_reads_it_once(server: CountingS3, tmp_path: Path) -> None:
    made = sample()
    archive = made.build(tmp_path)
    server.put(KEY, archive)
    found = open_archive(opened(server), made.trust)
    found.verify_all(workers=4)
    assert server.sent <= archive.stat().st_size + HEAD_BYTES
    assert all(headers["if-match"] == '"first"' for headers in server.headers)


def read(server: CountingS3, *, step: int = 512 * KIB) -> bytes:
    source = opened(server)

    def one(offset: int) -> bytes:
        return b"".join(bytes(chunk) for chunk in source.stream(offset, min(step, source.size - offset)))

    return b"".join(parallel_map(one, range(0, source.size, step), workers=WORKERS))


@pytest.mark.parametrize(
    "fault", [SLOW_DOWN, Fault(cut_after=100_000), Fault(short=1000), LOST], ids=["slow", "cut", "short", "lost"]
)
def test_a_third_of_the_ranges_fails_and_the_bytes_are_right(server: CountingS3, path: Path, fault: Fault) -> None:
    server.put(KEY, path)
    server.script = every("GetObject", fault)  # type: ignore[assignment]
    assert read(server) == path.read_bytes()
    lost_by_reset = (server.requests["GetObject"] // 3) * (fault.cut_after or 0)
    assert server.sent <= SIZE + lost_by_reset, "what came before a cut is not asked for again"


def test_a_range_that_ends_early_goes_on_at_the_byte(server: CountingS3, path: Path) -> None:
    server.put(KEY, path)
    server.script = every("GetObject", Fault(short=1000), of=1, times=1)  # type: ignore[assignment]
    source = opened(server)
    assert b"".join(map(bytes, source.stream(5_000, 3_000_000))) == path.read_bytes()[5_000:3_005_000]
    assert server.ranges == [(5_000, 3_004_999), (3_004_000, 3_004_999)]
    assert server.sent == 3_000_000


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault(headers={"Content-Range": f"bytes 1-{512 * KIB}/{SIZE}"}), "answers"),
        (Fault(headers={"ETag": '"other"'}), "not the object any more"),
        (Fault(status=412, code="PreconditionFailed"), "not the object any more"),
        (Fault(status=400, code="ExpiredToken"), "xpired"),
        (Fault(status=403, code="AccessDenied"), "s3:GetObject"),
    ],
    ids=["range", "etag", "changed", "expired", "denied"],
)
def test_a_wrong_answer_in_the_middle_ends_it_with_a_typed_error(
    server: CountingS3, path: Path, fault: Fault, cause: str
) -> None:
    server.put(KEY, path)
    server.script = every("GetObject", fault, of=5)  # type: ignore[assignment]
    with pytest.raises(BundleError) as caught:
        read(server)
    assert cause in f"{caught.value} {caught.value.hint}"
    assert "canary" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_an_object_that_is_replaced_while_it_is_read_is_refused(server: CountingS3, path: Path) -> None:
    server.put(KEY, path)
    source = opened(server)
    chunks = source.stream(0, 8 << 20)  # over one connection
    next(chunks)
    server.replace(KEY)
    left = path.read_bytes()[1 << 20 : 8 << 20]
    assert b"".join(map(bytes, chunks)) == left, "an answer that has begun is of the old one"
    with pytest.raises(BundleError, match="not the object any more"):
        list(source.stream(0, SIZE))  # over several
    with pytest.raises(BundleError, match="not the object any more"):
        source.read_at(2 << 20, 10)


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANGE_BYTES": 1 << 20, "LARGE_BYTES": 4 << 20}.items():
        monkeypatch.setattr(f"bundler.adapters.aws.s3_object.{name}", value)


def idle(source: S3Object) -> bool:
    """Whether all lanes are free (again); they end by themselves a moment after whoever used them."""
    for _ in range(500):
        if source._free.qsize() == LANES:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.usefixtures("small_ranges")
def test_a_large_blob_comes_over_several_connections_and_each_byte_once(server: CountingS3, path: Path) -> None:
    server.put(KEY, path)
    source = opened(server)
    assert b"".join(map(bytes, source.stream(7, SIZE - 7))) == path.read_bytes()[7:]
    assert len(server.ranges) == PARTS
    assert server.sent == SIZE - 7
    assert 2 <= server.connections <= LANES + 1
    assert idle(source)


@pytest.mark.usefixtures("small_ranges")
def test_ranges_that_are_read_ahead_are_bounded_for_all_threads(server: CountingS3, path: Path) -> None:
    server.put(KEY, path)
    source = opened(server)
    streams = [source.stream(0, SIZE) for _ in range(3)]
    content = [bytes(next(stream)) for stream in streams]
    assert len([first for first, last in server.ranges if last - first < PART]) <= LANES
    for got, stream in zip(content, streams, strict=True):
        assert got + b"".join(map(bytes, stream)) == path.read_bytes()
    assert idle(source)


@pytest.mark.usefixtures("small_ranges")
def test_a_stream_that_is_dropped_reads_on_to_the_end_of_its_ranges_only(server: CountingS3, path: Path) -> None:
    server.put(KEY, path)
    source = opened(server)
    stream = source.stream(0, SIZE)
    next(stream)
    del stream
    assert idle(source)
    assert server.sent <= LANES * PART


@pytest.mark.usefixtures("small_ranges")
@pytest.mark.parametrize("fault", [SLOW_DOWN, Fault(short=1000), LOST], ids=["slow", "short", "lost"])
def test_ranges_that_are_read_ahead_fail_and_are_mended(server: CountingS3, path: Path, fault: Fault) -> None:
    server.put(KEY, path)
    server.script = every("GetObject", fault)  # type: ignore[assignment]
    assert b"".join(map(bytes, opened(server).stream(0, SIZE))) == path.read_bytes()
    assert server.sent == SIZE


@pytest.mark.usefixtures("small_ranges")
def test_a_change_that_a_lane_meets_ends_the_stream(server: CountingS3, path: Path) -> None:
    server.put(KEY, path)
    server.script = every("GetObject", Fault(status=412, code="PreconditionFailed"), of=7)  # type: ignore[assignment]
    source = opened(server)
    with pytest.raises(BundleError, match="not the object any more"):
        list(source.stream(0, SIZE))
    assert idle(source)
