"""The bench itself: everything that `make bench` does, once and with little."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import urllib3
import zstandard

from tests.bench.ami import Size, prepared, snapshot_is_right
from tests.bench.corpus import Corpus, ensure_small
from tests.bench.data_plane import SCENARIOS
from tests.bench.images import PACKAGE
from tests.bench.measure import measure, run
from tests.bench.musts import MUSTS
from tests.bench.rig import Rig
from tests.bench.servers import OwnRegistry, make_certificate, own_registry
from tests.journey import clean_environment

pytestmark = pytest.mark.loopback
BLOBS = 60
ZARF = Path(__file__).parents[1] / "fakes" / "zarf.py"
HTTP = urllib3.PoolManager(retries=False)


def test_each_scenario_runs_ours_and_a_peer_and_verifies_both(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    argv = [sys.executable, "-m", "tests.bench", "-n", "1", "--blocks", "40", "--latency-ms", "0", "--peer", "boto3"]
    done = subprocess.run(
        [*argv, "--only", "ami-export", "--only", "ami-restore", "--results", str(results)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    rows = json.loads(results.read_bytes())
    assert [(row["scenario"], row["peer"], row["n"], row["verified"]) for row in rows] == [
        ("ami-export", "boto3", 1, True),
        ("ami-restore", "boto3", 1, True),
    ]
    for row in rows:
        assert {"peer_version", "ratio", "limit_ratio", "our_peak_rss_mib", "spread", "commit", "tree"} <= set(row)
        assert row["size"] == "blocks 40, latency ms 0"
        assert row["date"]
    missed = any(row["ratio"] < row["must"] for row in rows)
    assert done.returncode == (1 if missed else 0), done.stderr
    assert "2 rows to measure, n=1: ami-export, ami-restore" in done.stderr
    assert "2/2 ami-restore against boto3" in done.stderr


def test_a_snapshot_that_was_not_put_is_not_right(tmp_path: Path) -> None:
    with prepared(Size(listed=3, distinct=2, latency_ms=0), tmp_path) as place:
        assert not snapshot_is_right(place, "nothing")


@pytest.mark.parametrize("name", ["bundle-9", "ami-export "])
def test_a_scenario_that_nobody_knows_is_an_error(name: str) -> None:
    argv = [sys.executable, "-m", "tests.bench", "--only", name]
    done = subprocess.run(argv, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "there is no scenario" in done.stderr
    assert all(each in done.stderr for each in SCENARIOS)


@pytest.fixture(scope="module")
def zarf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that takes zarf's commands, and keeps each one in `asked` beside it."""
    program = tmp_path_factory.mktemp("zarf") / "zarf"
    program.write_text(f"#!{sys.executable}\n{ZARF.read_text()}")
    program.chmod(0o755)
    return program


@pytest.fixture(scope="module")
def rig(zarf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A rig whose only corpus is a small one."""
    folder = tmp_path_factory.mktemp("rig")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.bench.corpus.HOME", folder / "home")
        patch.setattr("tests.bench.corpus.SMALL_IMAGES", 5)
        patch.setenv("ZARF", str(zarf))
        made = Rig(folder=folder, stack=stack, small_blobs=BLOBS)
        made.corpus = made.small
        yield made


@pytest.mark.parametrize("name", ["small-build", "small-push", "s3-install", "push-unchanged"])
def test_ours_and_a_peer_move_every_blob_once(rig: Rig, name: str) -> None:
    scenario = SCENARIOS[name](rig)
    peer = next(each for each in scenario.peers if each.name in {"skopeo", "download, then push"})
    row = measure(scenario, peer, n=1)
    assert row.verified, row
    assert row.our_peak_rss_mib is not None
    assert row.ratio is not None
    assert row.moved is not None
    assert row.moved == 0 if name == "push-unchanged" else 0.7 < row.moved < 1.02


@pytest.mark.parametrize("name", ["small-push", "push-docker-registry"])
def test_a_registry_is_empty_again_in_the_next_run_and_what_lacks_a_blob_is_not_verified(rig: Rig, name: str) -> None:
    scenario = SCENARIOS[name](rig)
    with scenario.where(scenario.ours) as place:
        assert run(scenario.ours(place), place, scenario.verify).verified
    with scenario.where(scenario.ours) as place:
        assert not scenario.verify(place, "")


def test_every_scenario_has_the_peers_that_it_must_be_measured_beside(rig: Rig) -> None:
    for name in SCENARIOS:
        if name != "delta":  # the next release is one of /usr
            scenario = SCENARIOS[name](rig)
            assert scenario.name == name
            assert {peer.name: peer.must for peer in scenario.peers} == MUSTS[name]


def test_zarf_is_measured_where_it_is_named(rig: Rig, zarf: Path) -> None:
    for name in ("build-local", "push-local", "push-docker-registry", "round-trip"):
        scenario = SCENARIOS[name](rig)
        peer = next(each for each in scenario.peers if each.name == "zarf")
        row = measure(scenario, peer, n=1)
        assert row.verified, row
        assert row.peer_version == "v0.84.0"
        assert row.must == MUSTS[name]["zarf"]
    asked = [json.loads(line) for line in zarf.with_name("asked").read_text().splitlines()]
    assert {tuple(each[:3]) for each in asked if "--skip-sbom" in each} == {("package", "create", ".")}
    assert {each[1] for each in asked if "--skip-sbom" not in each} == {"mirror-resources"}


def test_what_zarf_did_not_put_there_is_not_verified(rig: Rig) -> None:
    for name in ("build-local", "push-local"):
        scenario = SCENARIOS[name](rig)
        peer = next(each for each in scenario.peers if each.name == "zarf")
        with scenario.where(scenario.ours) as place:
            if name == "build-local":
                (place.folder / PACKAGE).write_bytes(zstandard.compress(bytes(10240)))
            else:
                run(scenario.ours(place), place, scenario.verify)
            assert not peer.verify(place, "")


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    monkeypatch.setattr("tests.bench.corpus.HOME", tmp_path)
    monkeypatch.setattr("tests.bench.corpus.SMALL_IMAGES", 5)
    return ensure_small(20)


def test_the_source_serves_tags_digests_ranges_and_heads(corpus: Corpus) -> None:
    with own_registry("-layout", str(corpus.folder)) as source:
        image = corpus.images[0]
        for reference in (image["tag"], image["digest"]):
            answer = HTTP.request("GET", f"{source.url}/v2/{image['repository']}/manifests/{reference}")
            assert answer.headers["Docker-Content-Digest"] == image["digest"]
            assert answer.data == corpus.path(image["digest"]).read_bytes()
        digest = min(corpus.layers)
        content, url = corpus.path(digest).read_bytes(), f"{source.url}/v2/any/blobs/{digest}"
        assert HTTP.request("HEAD", url).headers["Content-Length"] == str(len(content))
        part = HTTP.request("GET", url, headers={"Range": "bytes=10-19"})
        assert (part.status, part.data) == (206, content[10:20])
        rest = HTTP.request("GET", url, headers={"Range": "bytes=10-"})
        assert (rest.status, rest.data) == (206, content[10:])
        assert HTTP.request("GET", f"{source.url}/v2/any/blobs/sha256:0").status == 404
        assert source.stats()["Gets"] == 5


def put(sink: OwnRegistry, repository: str, content: bytes, *, chunks: int = 1, digest: str = "") -> int:
    """Upload a blob, in chunks or at once; return the status."""
    location = HTTP.request("POST", f"{sink.url}/v2/{repository}/blobs/uploads/").headers["Location"]
    step = -(-len(content) // chunks)
    for start in range(0, step * (chunks - 1), step):
        answer = HTTP.request("PATCH", sink.url + location, body=content[start : start + step])
        assert (answer.status, answer.headers["Range"]) == (202, f"0-{start + step - 1}")
    named = digest or f"sha256:{hashlib.sha256(content).hexdigest()}"
    return HTTP.request("PUT", f"{sink.url}{location}?digest={named}", body=content[step * (chunks - 1) :]).status


@pytest.mark.parametrize("chunks", [1, 3])
def test_the_sink_counts_mounts_and_hashes_where_asked(chunks: int) -> None:
    content = bytes(range(256)) * 30
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    with own_registry() as sink:
        assert put(sink, "a/b", content, chunks=chunks, digest="sha256:wrong") == 201
        sink.reset(verify=True)
        assert put(sink, "a/b", content, chunks=chunks, digest="sha256:wrong") == 400
        assert put(sink, "a/b", content, chunks=chunks) == 201
        assert sink.stats()["BytesIn"] == 2 * len(content)
        mounted = HTTP.request("POST", f"{sink.url}/v2/c/blobs/uploads/?mount={digest}&from=a/b")
        refused = HTTP.request("POST", f"{sink.url}/v2/c/blobs/uploads/?mount={digest}&from=nobody")
        assert (mounted.status, refused.status) == (201, 202)
        assert HTTP.request("HEAD", f"{sink.url}/v2/c/blobs/{digest}").headers["Content-Length"] == str(len(content))
        assert sink.held()[0] == {f"a/b@{digest}", f"c@{digest}"}
        sink.reset(keep=True)
        assert sink.stats()["BytesIn"] == 0
        assert sink.held()[0] == {f"a/b@{digest}", f"c@{digest}"}


def test_a_link_can_be_left_out_and_comes_back() -> None:
    with own_registry("-latency", "1h", "-rate", "0.001") as sink:
        sink.reset(free=True)
        assert put(sink, "a", bytes(1 << 20)) == 201
        sink.reset(keep=True)
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            HTTP.request("GET", f"{sink.url}/v2/", timeout=0.5)


def test_an_object_is_read_by_ranges_as_long_as_it_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"0123456789")
    with own_registry("-s3", str(tmp_path)) as bucket:
        url = f"{bucket.url}/bucket/key"
        etag = HTTP.request("HEAD", url).headers["ETag"]
        same = HTTP.request("GET", url, headers={"Range": "bytes=2-4", "If-Match": etag})
        assert (same.status, same.data, same.headers["Content-Range"]) == (206, b"234", "bytes 2-4/10")
        assert HTTP.request("GET", url, headers={"If-Match": '"other"'}).status == 412


def test_a_certificate_is_trusted_by_its_authority_alone(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    with own_registry(certificate=certificate) as sink:
        trusting = urllib3.PoolManager(ca_certs=str(certificate.authority), retries=False)
        assert trusting.request("GET", f"{sink.url}/v2/").status == 200
        with pytest.raises(urllib3.exceptions.SSLError):
            HTTP.request("GET", f"{sink.url}/v2/")
