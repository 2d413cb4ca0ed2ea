"""Shipping to the lab's S3, and reading back by ranges."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bundler.adapters.aws.s3_object import open_s3_object
from bundler.adapters.aws.s3_store import S3Store
from bundler.domain.events import Event, ItemDone
from bundler.domain.shipment import S3Address
from bundler.errors import AccessError, ConflictError, NetworkError, UsageError
from bundler.retry import RetryPolicy
from bundler.stages.ship import LocalFile, observe, ship
from bundler.transfer import Pace
from tests.loopback.aws.conftest import Closed

pytestmark = pytest.mark.loopback
MIB = 1 << 20


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[LocalFile]:
    path = tmp_path / "a-1.tar"
    path.write_bytes(os.urandom(33 * MIB))
    with LocalFile.open(path) as opened:
        yield opened


def address(closed: Closed, name: str) -> S3Address:
    return S3Address.parse(f"s3://{closed.lab.bucket}/ship").below(f"{name}.tar")


def store(closed: Closed) -> S3Store:
    return S3Store(closed.aws.service("s3"))


def send(closed: Closed, local: LocalFile, to: S3Address) -> list[str]:
    """Ship and return what was sent."""
    events: list[Event] = []
    plan = observe(local, to, store=store(closed))
    ship(plan, local, to, store=store(closed), pace=Pace(workers=2, emit=events.append))
    return [event.item for event in events if isinstance(event, ItemDone) and event.how == "moved"]


def digest_of(local: LocalFile) -> str:
    return f"sha256:{hashlib.sha256(local.path.read_bytes()).hexdigest()}"


def digest_there(closed: Closed, at: S3Address) -> str:
    source = open_s3_object(at, service=closed.aws.service("s3"))
    sha256 = hashlib.sha256()
    for chunk in source.stream(0, source.size):
        sha256.update(chunk)
    return f"sha256:{sha256.hexdigest()}"


def test_what_was_shipped_is_read_back_and_not_shipped_again(closed: Closed, archive: LocalFile) -> None:
    to = address(closed, "whole")
    assert len(send(closed, archive, to)) == 3
    assert digest_there(closed, to) == digest_of(archive)
    before = closed.written()
    assert send(closed, archive, to) == []
    assert closed.written() == before


def test_after_a_failure_only_the_missing_parts_are_sent(closed: Closed, archive: LocalFile) -> None:
    to = address(closed, "resume")
    closed.fault("s3", "UploadPart", "denied", nth=3)
    with pytest.raises(AccessError, match="s3:PutObject"):
        send(closed, archive, to)
    closed.no_faults()
    kept = len(store(closed).upload(to, store(closed).uploads(to)[0]).parts)
    assert kept in (1, 2)  # the second part may be under way when the third is denied
    assert len(send(closed, archive, to)) == 3 - kept
    assert digest_there(closed, to) == digest_of(archive)
    assert store(closed).uploads(to) == []


@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"])
@pytest.mark.parametrize("kind", ["unavailable", "reset"])
def test_a_service_that_stumbles_once_is_asked_again(
    closed: Closed, archive: LocalFile, operation: str, kind: str
) -> None:
    to = address(closed, f"stumble-{operation}-{kind}")
    closed.fault("s3", operation, kind)
    send(closed, archive, to)
    assert digest_there(closed, to) == digest_of(archive)


def test_an_object_written_meanwhile_is_a_conflict(closed: Closed, archive: LocalFile) -> None:
    to = address(closed, "race")
    plan = observe(archive, to, store=store(closed))
    closed.aws.service("s3").call("PutObject", Bucket=to.bucket, Key=to.key, Body=b"other")
    with pytest.raises(ConflictError, match="somebody else wrote it meanwhile"):
        ship(plan, archive, to, store=store(closed))
    assert len(send(closed, archive, to)) == 0
    assert digest_there(closed, to) == digest_of(archive)


def test_parts_of_another_file_are_not_taken_for_ours(closed: Closed, archive: LocalFile, tmp_path: Path) -> None:
    to = address(closed, "changed")
    closed.fault("s3", "CompleteMultipartUpload", "denied")
    with pytest.raises(AccessError):
        send(closed, archive, to)
    content = bytearray(archive.path.read_bytes())
    content[20 * MIB] ^= 1
    archive.path.write_bytes(content)
    with LocalFile.open(archive.path) as changed:
        assert send(closed, changed, to) == ["a-1.tar part 2"]
        assert digest_there(closed, to) == digest_of(changed)


def test_a_bucket_that_does_not_exist_is_usage(closed: Closed, archive: LocalFile) -> None:
    with pytest.raises(UsageError, match="there is no such bucket"):
        send(closed, archive, S3Address.parse("s3://never-made/x.tar"))


def test_an_object_replaced_while_it_is_read_is_refused(closed: Closed, archive: LocalFile) -> None:
    to = address(closed, "replaced")
    send(closed, archive, to)
    source = open_s3_object(to, service=closed.aws.service("s3"))
    closed.aws.service("s3").call("PutObject", Bucket=to.bucket, Key=to.key, Body=b"x" * source.size)
    with pytest.raises(Exception, match="not the object any more"):
        source.read_at(0, 10)


def test_s3_that_goes_away_in_mid_read_is_network_and_not_wrong_bytes(closed: Closed, archive: LocalFile) -> None:
    to = address(closed, "cut")
    send(closed, archive, to)
    source = open_s3_object(to, service=closed.aws.service("s3"))
    closed.fault("s3", "GetObject", "cut")
    assert source.read_at(100, 5 * MIB) == archive.path.read_bytes()[100 : 100 + 5 * MIB]
    closed.fault("s3", "GetObject", "unavailable", times=99)
    with pytest.raises(NetworkError):
        replace(source, policy=RetryPolicy(tries=1)).read_at(20 * MIB, 10)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from bundler.adapters.aws.clients import Aws, AwsSettings
    from bundler.adapters.aws.s3_store import S3Store
    from bundler.domain.events import ItemDone
    from bundler.domain.shipment import S3Address
    from bundler.stages.ship import LocalFile, observe, ship
    from bundler.transfer import Pace

    path, to, url, region, after = sys.argv[1:]
    seen = []

    def emit(event):
        if isinstance(event, ItemDone) and " part " in event.item:
            seen.append(event)
            if len(seen) == int(after):
                os.kill(os.getpid(), signal.SIGKILL)

    store = S3Store(Aws(AwsSettings(region=region, endpoints={"s3": url})).service("s3"))
    local = LocalFile.open(Path(path))
    ship(observe(local, S3Address.parse(to), store=store), local, S3Address.parse(to), store=store,
         pace=Pace(workers=1, emit=emit))
"""


def test_killed_at_each_part_a_second_run_sends_the_rest(closed: Closed, archive: LocalFile) -> None:
    for after in (1, 2, 3):
        to = address(closed, f"kill-{after}")
        arguments = [str(archive.path), str(to), closed.lab.aws_url, closed.site.region, str(after)]
        killed = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), *arguments], check=False, timeout=60)
        assert killed.returncode == -signal.SIGKILL
        assert len(send(closed, archive, to)) == 3 - after
        assert digest_there(closed, to) == digest_of(archive)
        assert store(closed).uploads(to) == []
