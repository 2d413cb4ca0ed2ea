"""Planned faults of the lab's registries: what a network and a busy registry do to a client."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from bundler.domain.digest import Digest
from bundler.lab.ecr import Login
from bundler.lab.faults import Fault, Faults
from bundler.lab.plain import plain_registry
from bundler.lab.request_log import read_requests

pytestmark = pytest.mark.loopback
CONTENT = b"0123456789" * 5000


@pytest.fixture
def pool() -> Iterator[urllib3.PoolManager]:
    with urllib3.PoolManager(retries=False, timeout=10) as made:
        yield made


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def url(tmp_path: Path, faults: Faults) -> Iterator[str]:
    with plain_registry(tmp_path, faults=faults) as found:
        yield found


def session(pool: urllib3.PoolManager, url: str) -> str:
    return url + pool.request("POST", f"{url}/v2/a/blobs/uploads/").headers["Location"]


def push(pool: urllib3.PoolManager, url: str) -> str:
    digest = Digest.of(CONTENT)
    assert pool.request("PUT", f"{session(pool, url)}?digest={digest}", body=CONTENT).status == 201
    return f"{url}/v2/a/blobs/{digest}"


@pytest.mark.parametrize(("kind", "status"), [("denied", 403), ("throttled", 429), ("unavailable", 503)])
def test_a_request_can_be_refused(pool: urllib3.PoolManager, url: str, faults: Faults, kind: str, status: int) -> None:
    faults.plan(Fault(service="source", operation="StartUpload", kind=kind, retry_after_s=7))  # type: ignore[arg-type]
    answer = pool.request("POST", f"{url}/v2/a/blobs/uploads/")
    assert answer.status == status
    assert answer.headers["Retry-After"] == "7"
    assert pool.request("POST", f"{url}/v2/a/blobs/uploads/").status == 202


def test_a_download_can_break_in_its_middle_and_go_on(pool: urllib3.PoolManager, url: str, faults: Faults) -> None:
    blob = push(pool, url)
    faults.plan(Fault(service="source", operation="GetBlob", kind="cut"))
    answer, seen = pool.request("GET", blob, preload_content=False), bytearray()
    with pytest.raises(urllib3.exceptions.ProtocolError):
        seen.extend(byte for chunk in answer.stream(1000) for byte in chunk)
    answer.close()
    assert CONTENT.startswith(bytes(seen))
    rest = pool.request("GET", blob, headers={"Range": f"bytes={len(seen)}-"})
    assert bytes(seen) + rest.data == CONTENT


def test_an_upload_can_break_and_go_on_from_what_came(pool: urllib3.PoolManager, url: str, faults: Faults) -> None:
    where = session(pool, url)
    faults.plan(Fault(service="source", operation="PatchUpload", kind="cut"))
    with pytest.raises(urllib3.exceptions.ProtocolError):
        pool.request("PATCH", where, body=CONTENT)
    status = pool.request("GET", where)
    reached = int(status.headers["Range"].partition("-")[2]) + 1
    assert reached == len(CONTENT) // 2
    answer = pool.request("PATCH", where, body=CONTENT[reached:], headers={"Content-Range": f"{reached}-49999"})
    assert answer.status == 202
    assert pool.request("PUT", f"{where}?digest={Digest.of(CONTENT)}").status == 201


def test_a_connection_can_be_reset_before_any_answer(pool: urllib3.PoolManager, url: str, faults: Faults) -> None:
    faults.plan(Fault(service="source", operation="Ping", kind="reset", nth=2))
    assert pool.request("GET", f"{url}/v2/").status == 200
    with pytest.raises(urllib3.exceptions.ProtocolError):
        pool.request("GET", f"{url}/v2/")
    assert pool.request("GET", f"{url}/v2/").status == 200


def test_a_manifest_can_be_cut(pool: urllib3.PoolManager, url: str, faults: Faults) -> None:
    raw = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    kind = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
    assert pool.request("PUT", f"{url}/v2/a/manifests/v1", body=raw, headers=kind).status == 201
    faults.plan(Fault(service="source", operation="GetManifest", kind="cut"))
    with pytest.raises(urllib3.exceptions.ProtocolError):
        pool.request("GET", f"{url}/v2/a/manifests/v1")
    assert pool.request("GET", f"{url}/v2/a/manifests/v1").data == raw


def test_the_log_has_every_request(tmp_path: Path, pool: urllib3.PoolManager, url: str) -> None:
    push(pool, url)
    lines = list(read_requests(tmp_path / "requests.jsonl"))
    assert [(line["method"], line["status"], line["mutating"]) for line in lines] == [
        ("POST", 202, True),
        ("PUT", 201, True),
    ]


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_a_registry_can_ask_for_a_password(tmp_path: Path, pool: urllib3.PoolManager) -> None:
    with plain_registry(tmp_path, login=Login(user="me", password="secret")) as url:
        refused = pool.request("GET", f"{url}/v2/")
        assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, 'Basic realm="lab"')
        assert pool.request("GET", f"{url}/v2/", headers=basic("me", "wrong")).status == 401
        assert pool.request("GET", f"{url}/v2/", headers=basic("me", "secret")).status == 200


def test_a_registry_can_ask_for_a_token(tmp_path: Path, pool: urllib3.PoolManager) -> None:
    with plain_registry(tmp_path, login=Login(user="me", password="secret", bearer=True)) as url:
        challenge = pool.request("GET", f"{url}/v2/").headers["WWW-Authenticate"]
        assert challenge == f'Bearer realm="{url}/token",service="lab"'
        assert pool.request("GET", f"{url}/v2/", headers=basic("me", "secret")).status == 401
        assert pool.request("GET", f"{url}/token", headers=basic("me", "wrong")).status == 401
        token = pool.request("GET", f"{url}/token", headers=basic("me", "secret")).json()["token"]
        bearer = {"Authorization": f"Bearer {token}"}
        assert pool.request("GET", f"{url}/v2/", headers=bearer).status == 200
