"""From disk to S3 and back: `bundle ship`, and everything that reads s3:// addresses, as processes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from bundler.lab.lab import LabFacts
from bundler.lab.request_log import mutations, read_requests
from tests.journey import Workspace, heavy_definition, workspace
from tests.peers import StartRegistry, boto_client, lab_control

pytestmark = pytest.mark.loopback
MIB = 1 << 20
PARTS = 7
NAME = "heavy-1.tar"
TRUST = ("--trust", "trust")


@pytest.fixture(scope="module")
def place(lab: LabFacts, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with an archive of 7 parts."""
    folder = tmp_path_factory.mktemp("carry")
    made = workspace(folder, lab, heavy_definition(folder, 100 * MIB))
    made.environment = {**made.environment, "AWS_ENDPOINT_URL": lab.aws_url}
    made.build()
    return made


@pytest.fixture(scope="module")
def shipped(place: Workspace, lab: LabFacts) -> str:
    """The address of the archive, shipped once."""
    place.bundle("ship", NAME, f"s3://{lab.bucket}/carried")
    return f"s3://{lab.bucket}/carried/{NAME}"


@pytest.fixture(autouse=True)
def no_faults(lab: LabFacts) -> Iterator[None]:
    yield
    lab_control(lab, "DELETE", "faults")


def asked(lab: LabFacts, operation: str) -> int:
    """How often S3 was asked for something and did it."""
    lines = [line for line in read_requests(lab.requests_file) if line.get("operation") == operation]
    return sum(int(str(line["status"])) in (200, 206) for line in lines)


def written(lab: LabFacts) -> int:
    """How often something was written to S3; what a killed ship had on its way is cut later and wrote nothing."""
    return sum(line["service"] == "s3" and line["status"] != 0 for line in mutations(lab.requests_file))


def parts_there(lab: LabFacts, key: str) -> int:
    """How many parts the unfinished upload to `key` holds."""
    s3 = boto_client(lab, "s3")
    uploads = s3.list_multipart_uploads(Bucket=lab.bucket, Prefix=key).get("Uploads", [])
    assert len(uploads) <= 1
    held = [s3.list_parts(Bucket=lab.bucket, Key=key, UploadId=upload["UploadId"]) for upload in uploads]
    return sum(len(answer.get("Parts", [])) for answer in held)


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("sent", [0, 1, 4, 6])
def test_after_kill_9_of_ship_a_second_run_sends_only_the_missing_parts(
    place: Workspace, lab: LabFacts, sent: int
) -> None:
    prefix = f"killed-{sent}"
    held_back = {"service": "s3", "operation": "UploadPart", "kind": "reset", "nth": sent + 1, "delay_s": 10}
    lab_control(lab, "POST", "faults", held_back)
    before, began = asked(lab, "UploadPart"), asked(lab, "CreateMultipartUpload")
    process = place.start("ship", NAME, f"s3://{lab.bucket}/{prefix}", "-j", "1")
    while asked(lab, "UploadPart") - before < sent or asked(lab, "CreateMultipartUpload") == began:
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept, before = parts_there(lab, f"{prefix}/{NAME}"), asked(lab, "UploadPart")
    assert kept == sent
    place.bundle("ship", NAME, f"s3://{lab.bucket}/{prefix}")
    assert asked(lab, "UploadPart") - before == PARTS - sent
    there = boto_client(lab, "s3").get_object(Bucket=lab.bucket, Key=f"{prefix}/{NAME}")["Body"].read()
    assert there == (place.folder / NAME).read_bytes()
    assert parts_there(lab, f"{prefix}/{NAME}") == 0


def test_the_slip_holds_the_archives_own_digests(place: Workspace, shipped: str) -> None:
    slip = json.loads((place.folder / "heavy-1.slip.json").read_bytes())
    shown = json.loads(place.bundle("inspect", NAME, *TRUST, "-o", "json").stdout)
    content = (place.folder / NAME).read_bytes()
    assert slip["archive"] == {"name": NAME, "size": len(content), "digest": digest(content), "address": shipped}
    assert (slip["root"], slip["trust"]) == (shown["root"], shown["trustDigest"])


def test_a_second_ship_sends_nothing(place: Workspace, lab: LabFacts, shipped: str) -> None:
    before = written(lab)
    done = place.bundle("ship", NAME, f"s3://{lab.bucket}/carried")
    assert "was there already" in done.stderr
    assert written(lab) == before


def test_inspect_and_verify_read_s3_as_they_read_a_file(place: Workspace, lab: LabFacts, shipped: str) -> None:
    here, there = (json.loads(place.bundle("inspect", name, *TRUST, "-o", "json").stdout) for name in (NAME, shipped))
    assert there == here
    files = {path.name for path in place.folder.iterdir()}
    told = place.bundle("verify", shipped, *TRUST).stdout
    assert told == f"{shipped} is complete and signed.\nroot {here['root']}\n"
    assert {path.name for path in place.folder.iterdir()} == files


def test_inspect_reads_the_beginning_of_the_object_alone(place: Workspace, lab: LabFacts, shipped: str) -> None:
    before = {name: asked(lab, name) for name in ("HeadObject", "GetObject")}
    place.bundle("inspect", shipped, *TRUST)
    assert {name: asked(lab, name) - count for name, count in before.items()} == {"HeadObject": 1, "GetObject": 1}


def test_push_reads_s3_as_it_reads_a_file(
    place: Workspace, lab: LabFacts, shipped: str, docker_registry: StartRegistry
) -> None:
    registry, before = docker_registry(), asked(lab, "GetObject")
    there, here = (
        json.loads(place.bundle("push", name, f"{registry}/{prefix}", *TRUST, "-o", "json").stdout)
        for name, prefix in ((shipped, "s3"), (NAME, "file"))
    )
    assert asked(lab, "GetObject") > before
    assert {name: reference.replace("/s3/", "/file/") for name, reference in there.items()} == here
    assert there


def test_a_flipped_bit_in_s3_is_found(place: Workspace, lab: LabFacts) -> None:
    content = bytearray((place.folder / NAME).read_bytes())
    content[60 * MIB] ^= 1
    boto_client(lab, "s3").put_object(Bucket=lab.bucket, Key="flipped.tar", Body=bytes(content))
    told = refused(place, f"s3://{lab.bucket}/flipped.tar")
    assert f"Digest error: s3://{lab.bucket}/flipped.tar cause: blobs/sha256/" in told
    assert "is damaged safe: Nothing of it was used. next: The archive is damaged: copy it across again" in told


def test_an_object_that_is_replaced_while_it_is_read_is_refused(place: Workspace, lab: LabFacts) -> None:
    """What was verified is not what stands there any more."""
    s3, content = boto_client(lab, "s3"), (place.folder / NAME).read_bytes()
    s3.put_object(Bucket=lab.bucket, Key="replaced.tar", Body=content)
    held_back = {"service": "s3", "operation": "GetObject", "kind": "slow", "nth": 4, "times": 99, "delay_s": 2}
    lab_control(lab, "POST", "faults", held_back)  # each that follows: time enough on any machine
    before = asked(lab, "GetObject")
    process = place.start("verify", f"s3://{lab.bucket}/replaced.tar", *TRUST, "-j", "1", stderr=subprocess.PIPE)
    while asked(lab, "GetObject") - before < 3:
        assert process.poll() is None
        time.sleep(0.005)
    s3.put_object(Bucket=lab.bucket, Key="replaced.tar", Body=b"x")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "somebody replaced it" in " ".join(said.decode().split())


def refused(place: Workspace, address: str) -> str:
    done = place.bundle("verify", address, *TRUST, expect=3)
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def test_what_is_not_there_and_what_is_denied_are_told_apart(place: Workspace, lab: LabFacts, shipped: str) -> None:
    for command in (("verify", f"s3://{lab.bucket}/nothing.tar", *TRUST), ("ship", NAME, "s3://never-made/x")):
        told = " ".join(place.bundle(*command, expect=2).stderr.split())
        assert "Usage error: s3://" in told
        assert "next:" in told
    lab_control(lab, "POST", "faults", {"service": "s3", "operation": "UploadPart", "kind": "denied", "times": 99})
    told = " ".join(place.bundle("ship", NAME, f"s3://{lab.bucket}/denied", expect=4).stderr.split())
    assert "Access error: " in told
    assert "s3:PutObject" in told
    assert "next:" in told


def test_without_credentials_ship_is_exit_4(place: Workspace, lab: LabFacts) -> None:
    done = place.bundle("ship", NAME, f"s3://{lab.bucket}/nobody", expect=4, AWS_SHARED_CREDENTIALS_FILE=os.devnull)
    told = " ".join(done.stderr.split())
    assert "Access error: " in told
    assert "next:" in told
