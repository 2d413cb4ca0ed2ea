"""`bundle serve s3://…`: the archive stays where it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from bundler.lab.lab import LabFacts
from tests.fakes.archives import sample
from tests.peers import boto_client
from tests.serving import Running, serving, write_bundle

pytestmark = pytest.mark.loopback
MADE = sample()
KEY = "serve/sample-7.tar"


@pytest.fixture(scope="module")
def archive(lab: LabFacts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an archive that is in S3."""
    folder = tmp_path_factory.mktemp("served")
    put(lab, write_bundle(MADE, folder).read_bytes())
    return folder


@pytest.fixture
def running(lab: LabFacts, archive: Path) -> Iterator[Running]:
    environment = lab.environment() | {"AWS_ENDPOINT_URL": lab.aws_url}
    with serving(f"s3://{lab.bucket}/{KEY}", archive, **environment) as started:
        yield started


def put(lab: LabFacts, content: bytes) -> None:
    boto_client(lab, "s3").put_object(Bucket=lab.bucket, Key=KEY, Body=content)


def get(running: Running, path: str, **headers: str) -> urllib3.BaseHTTPResponse:
    return urllib3.request("GET", running.url + path, headers=headers, retries=False, timeout=30)


def test_images_come_out_of_s3_byte_for_byte(running: Running) -> None:
    for one in MADE.lock.images:
        path = f"/v2/{one.reference.name}"
        assert get(running, f"{path}/manifests/{one.reference.tag}").data == MADE.blobs[one.target.digest]
        for blob in one.manifests[0].blobs:
            assert get(running, f"{path}/blobs/{blob.digest}").data == MADE.blobs[blob.digest]
            part = get(running, f"{path}/blobs/{blob.digest}", Range="bytes=3-20")
            assert (part.status, part.data) == (206, MADE.blobs[blob.digest][3:21])


def test_an_object_that_was_replaced_is_not_served(running: Running, lab: LabFacts, archive: Path) -> None:
    one = MADE.lock.images[0]
    path = f"/v2/{one.reference.name}/manifests/{one.reference.tag}"
    whole = (archive / "sample-7.tar").read_bytes()
    assert get(running, path).status == 200
    put(lab, whole + bytes(512))
    try:
        answer = get(running, path)
    finally:
        put(lab, whole)
    assert (answer.status, answer.json()["errors"][0]["code"]) == (500, "UNKNOWN")
    assert "somebody replaced it" in running.log.read_text()
