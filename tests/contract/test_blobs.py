"""Blobs: OCI distribution-spec 1.1, "Pushing blobs" and "Pulling blobs"."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import urllib3

from bundler.domain.digest import Digest
from tests.contract.registries import DOCKER, OCTETS, PLAIN, Registry, error_code, everywhere, runs_on
from tests.fakes.images import layer_bytes

pytestmark = pytest.mark.loopback
PART = 5 << 20  # ECR takes no smaller part but the last


@everywhere
def test_the_base_says_which_api_it_speaks(registry: Registry) -> None:
    answer = registry.ask("GET", "/v2/")
    assert answer.status == 200
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


@everywhere
def test_a_path_outside_the_api_is_not_found(registry: Registry) -> None:
    assert registry.ask("GET", "/v3/").status == 404


@everywhere
def test_a_blob_put_whole_reads_back(registry: Registry) -> None:
    repository, content = registry.repository(), layer_bytes("whole", 5000)
    digest = registry.push_blob(repository, content)
    assert registry.blob(repository, digest).data == content


@everywhere
def test_the_answer_to_a_finished_upload_names_the_blob(registry: Registry) -> None:
    repository, content = registry.repository(), b"named"
    answer = registry.finish(registry.session(repository), Digest.of(content), content)
    assert answer.status == 201
    assert answer.headers["Docker-Content-Digest"] == str(Digest.of(content))
    assert registry.ask("GET", registry.location(answer)).data == content


@everywhere
def test_a_blob_streamed_without_a_length_reads_back(registry: Registry) -> None:
    repository, content = registry.repository(), layer_bytes("streamed", 300_000)
    location = registry.session(repository)
    pieces = (content[start : start + 70_001] for start in range(0, len(content), 70_001))
    answer = registry.ask("PATCH", location, body=pieces, headers=OCTETS)
    assert answer.status in (201, 202)
    assert registry.finish(registry.location(answer), Digest.of(content)).status == 201
    assert registry.blob(repository, Digest.of(content)).data == content


@everywhere
def test_the_last_piece_may_come_with_the_put(registry: Registry) -> None:
    repository, content = registry.repository(), layer_bytes("last piece", PART + 1000)
    answer = registry.ask("PATCH", registry.session(repository), body=content[:PART], headers=OCTETS)
    assert registry.finish(registry.location(answer), Digest.of(content), content[PART:]).status == 201
    assert hashlib.sha256(registry.blob(repository, Digest.of(content)).data).hexdigest() == Digest.of(content).hex


@everywhere
def test_chunks_with_content_range_make_one_blob(registry: Registry) -> None:
    repository, content = registry.repository(), layer_bytes("chunks", 2 * PART + 77)
    location = registry.session(repository)
    for first in range(0, len(content), PART):
        chunk = content[first : first + PART]
        headers = OCTETS | {"Content-Range": f"{first}-{first + len(chunk) - 1}"}
        answer = registry.ask("PATCH", location, body=chunk, headers=headers)
        assert answer.status in (201, 202), answer.data
        location = registry.location(answer)
    assert registry.finish(location, Digest.of(content)).status == 201
    assert registry.blob(repository, Digest.of(content)).data == content


@everywhere
def test_the_first_chunk_is_confirmed_by_range(registry: Registry) -> None:
    repository = registry.repository()
    answer = registry.ask("PATCH", registry.session(repository), body=b"x" * 1000, headers=OCTETS)
    assert answer.headers["Range"] == "0-999"


@everywhere
def test_content_that_does_not_have_its_digest_is_refused(registry: Registry) -> None:
    repository, wanted = registry.repository(), Digest.of(b"wanted")
    answer = registry.finish(registry.session(repository), wanted, b"other")
    assert answer.status == 400
    assert error_code(answer) == "DIGEST_INVALID"
    assert registry.blob(repository, wanted).status == 404


@everywhere
def test_after_a_refused_digest_a_new_upload_works(registry: Registry) -> None:
    repository, content = registry.repository(), b"second try"
    registry.finish(registry.session(repository), Digest.of(content), b"first try")
    assert registry.push_blob(repository, content) == Digest.of(content)


@everywhere
@pytest.mark.parametrize("digest", ["", "sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e"])
def test_a_put_without_a_proper_digest_is_refused(registry: Registry, digest: str) -> None:
    repository = registry.repository()
    assert registry.finish(registry.session(repository), digest, b"x").status == 400


@everywhere
def test_a_session_that_does_not_exist_is_unknown(registry: Registry) -> None:
    repository = registry.repository()
    path = f"{registry.url}/v2/{repository}/blobs/uploads/00000000-0000-4000-8000-000000000000"
    answer = registry.ask("PATCH", path, body=b"x", headers=OCTETS)
    assert answer.status == 404


@everywhere
def test_a_session_ends_with_its_blob(registry: Registry) -> None:
    repository, content = registry.repository(), b"once"
    location = registry.session(repository)
    assert registry.finish(location, Digest.of(content), content).status == 201
    assert registry.finish(location, Digest.of(content), content).status == 404


@everywhere
def test_the_same_blob_may_come_twice(registry: Registry) -> None:
    repository = registry.repository()
    assert registry.push_blob(repository, b"again") == registry.push_blob(repository, b"again")


@everywhere
def test_the_same_blob_may_come_from_many_at_once(registry: Registry) -> None:
    repository, content = registry.repository(), layer_bytes("crowd", 200_000)
    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(lambda _: registry.push_blob(repository, content), range(8)))
    assert set(digests) == {Digest.of(content)}
    assert registry.blob(repository, digests[0]).data == content


@everywhere
def test_head_tells_length_and_digest_and_sends_nothing(registry: Registry) -> None:
    repository, content = registry.repository(), layer_bytes("head", 4321)
    digest = registry.push_blob(repository, content)
    answer = registry.blob(repository, digest, "HEAD")
    assert (answer.status, answer.headers["Content-Length"], answer.data) == (200, "4321", b"")
    assert answer.headers["Docker-Content-Digest"] == str(digest)


@everywhere
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_an_absent_blob_is_404(registry: Registry, method: str) -> None:
    answer = registry.blob(registry.repository(), Digest.of(b"absent"), method)
    assert answer.status == 404


@everywhere
def test_an_absent_blob_is_named_unknown(registry: Registry) -> None:
    repository = registry.repository()
    registry.push_blob(repository, b"present")
    assert error_code(registry.blob(repository, Digest.of(b"absent"))) == "BLOB_UNKNOWN"


@everywhere
def test_a_blob_belongs_to_its_repository(registry: Registry) -> None:
    one, two = registry.repository(), registry.repository()
    digest = registry.push_blob(one, b"mine")
    registry.push_blob(two, b"yours")
    assert registry.blob(two, digest, "HEAD").status == 404


@everywhere
@pytest.mark.parametrize(
    ("asked", "first", "last"), [("bytes=0-99", 0, 99), ("bytes=100-", 100, 999), ("bytes=-10", 990, 999)]
)
def test_a_range_of_a_blob_can_be_read(registry: Registry, asked: str, first: int, last: int) -> None:
    repository, content = registry.repository(), layer_bytes("range", 1000)
    digest = registry.push_blob(repository, content)
    answer = registry.blob(repository, digest, Range=asked)
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/1000"
    assert answer.data == content[first : last + 1]


@everywhere
def test_a_range_behind_the_end_is_refused(registry: Registry) -> None:
    repository = registry.repository()
    path = f"/v2/{repository}/blobs/{registry.push_blob(repository, b'short')}"
    # the status alone: Debian's states the length of the blob for an answer without a body
    answer = registry.ask("GET", path, headers={"Range": "bytes=100-200"}, preload_content=False)
    answer.close()
    assert answer.status == 416


@everywhere
def test_a_range_over_the_end_stops_there(registry: Registry) -> None:
    repository = registry.repository()
    digest = registry.push_blob(repository, b"0123456789")
    answer = registry.blob(repository, digest, Range="bytes=8-20")
    assert (answer.status, answer.data) == (206, b"89")


@everywhere
def test_a_large_blob_keeps_its_bytes(registry: Registry) -> None:
    repository, content = registry.repository(), layer_bytes("large", 24 << 20)
    digest = registry.push_blob(repository, content)
    assert hashlib.sha256(registry.blob(repository, digest).data).hexdigest() == digest.hex


@everywhere
def test_blobs_cannot_be_deleted(registry: Registry) -> None:
    repository = registry.repository()
    digest = registry.push_blob(repository, b"kept")
    assert registry.blob(repository, digest, "DELETE").status == 405
    assert registry.blob(repository, digest).data == b"kept"


@everywhere
def test_a_mount_of_what_nobody_has_opens_a_session(registry: Registry) -> None:
    one, two = registry.repository(), registry.repository()
    registry.push_blob(one, b"something")
    answer = registry.start(two, f"?mount={Digest.of(b'absent')}&from={one}")
    assert answer.status == 202
    assert registry.finish(registry.location(answer), Digest.of(b"sent"), b"sent").status == 201


@runs_on(DOCKER, PLAIN)
def test_a_mount_shares_the_blob_without_sending_it(registry: Registry) -> None:
    one, two = registry.repository(), registry.repository()
    digest = registry.push_blob(one, b"shared")
    answer = registry.start(two, f"?mount={digest}&from={one}")
    assert answer.status == 201
    assert registry.blob(two, digest).data == b"shared"


@runs_on(DOCKER, PLAIN)
def test_the_status_of_a_session_tells_what_came(registry: Registry) -> None:
    repository = registry.repository()
    answer = registry.ask("PATCH", registry.session(repository), body=b"x" * 500, headers=OCTETS)
    status = registry.ask("GET", registry.location(answer))
    assert (status.status, status.headers["Range"]) == (204, "0-499")


@runs_on(DOCKER, PLAIN)
def test_a_session_can_be_cancelled(registry: Registry) -> None:
    repository = registry.repository()
    location = registry.session(repository)
    assert registry.ask("DELETE", location).status == 204
    assert registry.finish(location, Digest.of(b"x"), b"x").status == 404


@runs_on(DOCKER, PLAIN)
def test_an_empty_blob_is_a_blob(registry: Registry) -> None:
    repository = registry.repository()
    digest = registry.push_blob(repository, b"")
    assert registry.blob(repository, digest, "HEAD").headers["Content-Length"] == "0"


@runs_on(PLAIN)
def test_a_chunk_out_of_order_is_refused(registry: Registry) -> None:
    """distribution-spec 1.1: "uploaded out of order, the registry MUST respond with … 416"; Debian's does not."""
    location = registry.session(registry.repository())
    headers = OCTETS | {"Content-Range": "10-19"}
    assert registry.ask("PATCH", location, body=b"x" * 10, headers=headers).status == 416


@everywhere
def test_one_connection_serves_many_requests(registry: Registry) -> None:
    repository = registry.repository()
    options = registry.pool.connection_pool_kw.get("ca_certs")
    with urllib3.PoolManager(ca_certs=options, maxsize=1) as pool:
        for number in range(5):
            url = f"{registry.url}/v2/{repository}/blobs/{Digest.of(str(number).encode())}"
            assert pool.request("GET", url, headers=registry.login(), retries=False).status == 404
        assert pool.connection_from_url(registry.url).num_connections == 1
