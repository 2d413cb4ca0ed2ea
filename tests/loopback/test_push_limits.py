"""What a push asks and sends: counted at registries that are far, that fail, that ask for less, and after kills."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bundler.adapters.http import TransportSettings
from bundler.adapters.kept_uploads import KeptUploads
from bundler.adapters.registry_upload import UploadSettings
from bundler.archive.reader import Archive, open_archive
from bundler.domain.digest import Digest
from bundler.domain.image_map import PrivateRegistry
from bundler.domain.oci import Descriptor
from bundler.domain.reference import Reference
from bundler.errors import DigestError
from bundler.ports import ImageRegistry
from bundler.retry import RetryPolicy
from bundler.transfer import Pace, parallel_map
from bundler.workflows.placed_blobs import with_placed
from bundler.workflows.push import push_archive
from tests.fakes.archives import MemorySource, Sample, sample
from tests.fakes.counting_sink import CountingSink
from tests.fakes.images import blob_descriptor, layer_bytes
from tests.fakes.memory_registry import MemoryRegistry
from tests.fakes.scripted_server import Asked, Reply, ScriptedServer, Sleeps, client_of, serving
from tests.fakes.uploading_registry import UploadingRegistry, too_large
from tests.peers import StartRegistry

pytestmark = pytest.mark.loopback

MIB = 1 << 20
NAMES = 4  # images and charts of the sample


@pytest.fixture(scope="module")
def made() -> Sample:
    return sample()


@pytest.fixture(scope="module")
def archive(made: Sample, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    content = made.build(tmp_path_factory.mktemp("archive")).read_bytes()
    return open_archive(MemorySource(content), made.trust)


def push(archive: Archive, authority: str, registry: ImageRegistry | None = None, *, workers: int = 8) -> None:
    push_archive(
        archive,
        target=PrivateRegistry(host=authority, prefix="team"),
        registry=registry or client_of(),
        pace=Pace(workers=workers),
    )


def test_an_unchanged_bundle_is_one_question_an_image_and_nothing_else(archive: Archive) -> None:
    with serving(UploadingRegistry()) as server:
        push(archive, server.authority)
        first = len(server.requests)
        push(archive, server.authority)
        again = server.requests[first:]
    assert [(asked.method, "/manifests/" in asked.target) for asked in again] == [("HEAD", True)] * NAMES


def test_a_worker_keeps_its_connection_through_answers_without_a_body(archive: Archive) -> None:
    with serving(UploadingRegistry()) as server:
        push(archive, server.authority, workers=1)
    assert len(server.requests) > 40
    assert server.connections == 1


def test_every_blob_is_sent_once_and_every_byte_once(archive: Archive) -> None:
    registry = UploadingRegistry()
    with serving(registry) as server:
        push(archive, server.authority)
    digests = {blob.digest for one in archive.lock.images for m in one.manifests for blob in m.blobs}
    digests |= {blob.digest for one in archive.lock.charts for blob in one.manifest.blobs}
    assert Counter(digest for _, digest in registry.completed) == Counter(map(str, digests))
    assert registry.received == sum(archive.blob(digest).size for digest in digests)


@pytest.mark.slow
def test_120_pushes_finish_where_16_of_100_requests_fail_and_hardly_anything_is_asked_twice(archive: Archive) -> None:
    """A request fails by a status, or by a connection that breaks, before the registry did what was asked."""
    registry, chance = UploadingRegistry(), random.Random(16)
    faults, lock = [0], threading.Lock()

    def script(asked: Asked) -> Reply | None:
        with lock:
            kind = chance.choice(["503", "500", "429", "cut"]) if chance.random() < 0.16 else None
            faults[0] += kind is not None
        if kind is None:
            return registry(asked)
        return None if kind == "cut" else Reply(status=int(kind))

    with serving(registry) as server:
        push(archive, server.authority)
        clean = len(server.requests)
    asked, client = 0, client_of()
    for _ in range(120):
        for store in (registry.blobs, registry.manifests, registry.sessions):
            store.clear()
        with serving(script) as server:
            push(archive, server.authority, client)
            asked += len(server.requests)
        assert len(registry.manifests) > NAMES
    assert faults[0] > 0.1 * asked
    assert asked - 120 * clean <= 1.02 * faults[0]


def test_a_refused_completion_is_sent_again_to_the_same_upload(archive: Archive) -> None:
    registry = UploadingRegistry()
    refused: list[str] = []

    def before(asked: Asked) -> Reply | None:
        if asked.method == "PUT" and len(refused) < 3:
            refused.append(asked.target)
            return Reply(status=503)
        return None

    registry.before = before
    content = layer_bytes("one", 3000)
    with serving(registry) as server:
        upload(server, content)
        assert [asked.method for asked in server.requests] == ["POST", "PUT", "PUT", "PUT", "PUT"]
    assert len(set(refused)) == 1


@pytest.mark.parametrize("arrived", [1, 1500, 3000])
def test_a_part_that_arrived_before_a_refusal_does_no_harm(arrived: int) -> None:
    """The registry had read some of the body before it said 503, and adds what is sent again to it."""
    registry, content = UploadingRegistry(), layer_bytes("one", 3000)

    def before(asked: Asked) -> Reply | None:
        if asked.method == "PUT" and len(server.asked("PUT")) == 1:
            registry.sessions["1"] += content[:arrived]
            return Reply(status=503)
        return None

    registry.before = before
    with serving(registry) as server:
        upload(server, content)
    assert registry.blobs["app", str(Digest.of(content))] == content
    assert len(server.asked("POST")) == 2


@pytest.mark.parametrize("size", [3000, 100_000])
def test_an_upload_whose_last_answer_was_lost_is_not_sent_as_another(size: int) -> None:
    registry, content = UploadingRegistry(), layer_bytes("one", size)

    def script(asked: Asked) -> Reply | None:
        reply = registry(asked)
        return None if asked.method == "PUT" and len(server.asked("PUT")) == 1 else reply

    with serving(script) as server:
        upload(server, content)
    assert len(server.asked("POST")) == 1
    assert len(registry.completed) == 1


def upload(server: ScriptedServer, content: bytes, **options: object) -> None:
    name = Reference.parse(f"{server.authority}/app")
    view = memoryview(content)
    client_of(**options).upload_blob(name, blob_descriptor(content), lambda start: iter([view[start:]]))  # type: ignore[arg-type]


def test_f10_a_registry_that_asks_for_less_gets_less_and_everything_in_the_end() -> None:
    """It refuses what is more than two at a time, and says how long to wait."""
    registry, lock, workers = UploadingRegistry(), threading.Lock(), 12
    state = {"now": 0, "refused": 0}
    sleeps = Sleeps()

    def script(asked: Asked) -> Reply | None:
        with lock:
            state["now"] += 1
            is_over = state["now"] > 2
            state["refused"] += is_over
        time.sleep(0.001)
        reply = Reply(status=429, headers={"Retry-After": "1"}) if is_over else registry(asked)
        with lock:
            state["now"] -= 1
        return reply

    blobs = [layer_bytes(f"blob {number}", 500) for number in range(80)]
    with serving(script) as server:
        client = client_of(
            TransportSettings(sleep=sleeps, clock=lambda: 0.0), policy=RetryPolicy(sleep=sleeps, patience_s=1e9)
        )
        name = Reference.parse(f"{server.authority}/app")
        parallel_map(
            lambda blob: client.upload_blob(
                name, blob_descriptor(blob), lambda start: iter([memoryview(blob)[start:]])
            ),
            blobs,
            workers=workers,
        )
    assert 0 < state["refused"] <= 2 * workers, "a client that does not learn from it is refused hundreds of times"
    assert len(registry.blobs) == 80
    assert set(sleeps.seconds) == {1.0}


def test_damage_in_the_archive_is_named_by_its_place_in_it(made: Sample, tmp_path: Path) -> None:
    content = bytearray(made.build(tmp_path).read_bytes())
    archive = open_archive(MemorySource(content), made.trust)
    layer = archive.lock.images[0].manifests[0].blobs[-1].digest
    content[archive.blob(layer).offset] ^= 1
    registry = UploadingRegistry()
    with serving(registry) as server, pytest.raises(DigestError, match=r"blobs/sha256/.* is damaged"):
        push(archive, server.authority)
    assert str(layer) not in {digest for _, digest in registry.blobs}


CHILD = """
import os, signal, sys
from pathlib import Path
from bundler.adapters.kept_uploads import KeptUploads
from bundler.adapters.registry_upload import UploadSettings
from bundler.domain.digest import Digest
from bundler.domain.oci import Descriptor
from bundler.domain.reference import Reference
from tests.fakes.scripted_server import client_of

authority, digest, size, dies_at, folder = sys.argv[1:]
piece = memoryview(bytes(1 << 20))

def content(start):
    while start < int(size):
        if 0 <= int(dies_at) <= start:
            os.kill(os.getpid(), signal.SIGKILL)
        some = piece[: int(size) - start]
        yield some
        start += len(some)

client = client_of(uploads=UploadSettings(kept=KeptUploads(Path(folder))))
blob = Descriptor(media_type="x/y", digest=Digest.parse(digest), size=int(size))
client.upload_blob(Reference.parse(f"{authority}/app"), blob, content)
"""


def child(authority: str, blob: Descriptor, folder: Path, *, dies_at: int = -1) -> int:
    argv = [sys.executable, "-c", CHILD, authority, str(blob.digest), str(blob.size), str(dies_at), str(folder)]
    return subprocess.run(argv, check=False, cwd=Path(__file__).parents[2]).returncode


ZEROS = 80 * MIB
LARGE = Descriptor(media_type="x/y", digest=Digest.of(bytes(ZEROS)), size=ZEROS)


def test_after_kill_9_a_large_upload_goes_on_where_the_registry_keeps_it(tmp_path: Path) -> None:
    """Killed three times; all that is sent again is what the registry had not taken from the connection."""
    folder = tmp_path / "uploads"
    with CountingSink() as sink:
        for dies_at in (30 * MIB, 50 * MIB, 70 * MIB):
            assert child(sink.authority, LARGE, folder, dies_at=dies_at) == -signal.SIGKILL
            (kept,) = folder.iterdir()
            assert kept.stat().st_mode & 0o777 == 0o600
            assert folder.stat().st_mode & 0o777 == 0o700
            sink.wait_until_gone()
        assert child(sink.authority, LARGE, folder) == 0
        assert len(sink.places) == 1
    assert sink.completed == {("app", str(LARGE.digest)): 1}
    assert sink.received == ZEROS, "what had come was gone on with"
    assert list(folder.iterdir()) == []


def test_after_kill_9_a_large_upload_to_docker_registry_ends_right(
    docker_registry: StartRegistry, tmp_path: Path
) -> None:
    """It gives up an upload that was cut within a request: then the blob is sent from its beginning."""
    authority, folder = docker_registry(), tmp_path / "uploads"
    assert child(authority, LARGE, folder, dies_at=40 * MIB) == -signal.SIGKILL
    assert len(list(folder.iterdir())) == 1
    assert child(authority, LARGE, folder) == 0
    assert list(folder.iterdir()) == []
    assert client_of().has_blob(Reference.parse(f"{authority}/app"), LARGE.digest)


@pytest.mark.parametrize(
    "kept",
    ["http://elsewhere.example/v2/app/blobs/uploads/1?_state=CANARY", "not a place", "", "/v2/app/blobs/uploads/none"],
)
def test_a_kept_place_that_is_not_right_is_not_used(kept: str, tmp_path: Path) -> None:
    registry, content = UploadingRegistry(), layer_bytes("large", 100_000)
    uploads = UploadSettings(resume_bytes=50_000, chunk_bytes=20_000, kept=KeptUploads(tmp_path))
    with serving(registry) as server:
        place = f"{server.url}{kept}" if kept.startswith("/") else kept
        name = f"{server.url}/app@{Digest.of(content)}"
        KeptUploads(tmp_path).keep(name, place)
        upload(server, content, uploads=uploads)
        assert registry.blobs["app", str(Digest.of(content))] == content
        assert len(server.asked("POST")) == 1
    assert KeptUploads(tmp_path).recall(name) is None


@pytest.mark.parametrize("stated", ["0-0", "0-", None])
def test_a_large_blob_whose_mount_came_to_nothing_is_copied_in_one_put(stated: str | None, tmp_path: Path) -> None:
    def before(asked: Asked) -> Reply | None:
        if asked.method != "GET":
            return None
        headers = {"Location": urlsplit(asked.target).path} | ({} if stated is None else {"Range": stated})
        return Reply(status=204, headers=headers, length=None)

    registry, content = UploadingRegistry(before), layer_bytes("large", 100_000)
    client = client_of(uploads=UploadSettings(resume_bytes=50_000, chunk_bytes=20_000, kept=KeptUploads(tmp_path)))
    with serving(registry) as server:
        home, name = (Reference.parse(f"{server.authority}/{name}") for name in ("home", "app"))
        blob = blob_descriptor(content)
        source = MemoryRegistry(blobs={home.name: {blob.digest: content}})
        assert with_placed(client, {blob.digest: home}, source=source).upload_blob(name, blob, never) is False
        assert (len(server.asked("PUT")), server.asked("PATCH")) == (1, [])
    assert registry.blobs["app", str(blob.digest)] == content
    assert registry.received == len(content)
    assert list(tmp_path.iterdir()) == []


def test_a_large_blob_goes_on_in_chunks_where_nothing_of_a_cut_body_was_kept() -> None:
    """As behind a proxy that hands on whole bodies only, and has a limit of time for each."""

    def before(asked: Asked) -> Reply | None:
        if asked.method == "PUT" and int(asked.headers["content-length"]) > 20_000:
            return Reply(status=504)
        return None

    registry, content = UploadingRegistry(before), layer_bytes("large", 100_000)
    with serving(registry) as server:
        upload(server, content, uploads=UploadSettings(resume_bytes=50_000, chunk_bytes=20_000))
        assert (len(server.asked("POST")), len(server.asked("PATCH"))) == (1, 5)
    assert registry.blobs["app", str(Digest.of(content))] == content


def never(start: int) -> Iterator[memoryview]:
    raise AssertionError(f"asked for what the archive does not carry, from {start} on")


def test_two_processes_at_one_upload_both_end_right(tmp_path: Path) -> None:
    """The second takes up what the first is still sending; each ends with the right blob."""
    registry = UploadingRegistry(lambda asked: too_large(asked, 50_000))
    content = layer_bytes("large", 400_000)
    uploads = UploadSettings(resume_bytes=50_000, chunk_bytes=20_000, kept=KeptUploads(tmp_path))
    with serving(registry) as server:
        parallel_map(lambda _: upload(server, content, uploads=uploads), range(2), workers=2)
    assert registry.blobs["app", str(Digest.of(content))] == content
