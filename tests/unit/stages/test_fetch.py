from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.cache import Cache
from bundler.domain.digest import Digest
from bundler.domain.lock import Lock
from bundler.domain.oci import Descriptor, Platform
from bundler.domain.reference import Reference
from bundler.errors import DigestError, LockChangedError
from bundler.ports import Sink
from bundler.stages.fetch import Supply, fetch
from bundler.stages.resolve import WantedImage, resolve
from bundler.transfer import Pace
from tests.fakes.images import image, index
from tests.fakes.memory_registry import MemoryRegistry

AMD64 = Platform.parse("linux/amd64")
NAME = "registry.k8s.io/pause:3.10"


class Shelf:
    """Places by digest, checked at commit as an archive's are."""

    def __init__(self) -> None:
        self.done: dict[Digest, bytes] = {}

    def __call__(self, digest: Digest) -> _Place:
        return _Place(self, digest)


class _Place:
    def __init__(self, shelf: Shelf, digest: Digest) -> None:
        self._shelf, self._digest, self._data = shelf, digest, bytearray()

    def write(self, chunk: memoryview) -> None:
        self._data += chunk

    def restart(self) -> None:
        self._data.clear()

    def commit(self) -> None:
        if Digest.of(bytes(self._data)) != self._digest:
            raise DigestError(str(self._digest), "wrong content")
        self._shelf.done[self._digest] = bytes(self._data)


def locked(cache: Cache, registry: MemoryRegistry) -> tuple[Lock, dict[Digest, int]]:
    made = index(image("a"), image("b", platform="linux/s390x"))
    wanted = WantedImage(reference=registry.offer(NAME, made), platforms=(AMD64,), source=registry)
    lock = Lock.model_construct(images=resolve([wanted], cache=cache), charts=(), tools=(), files=())
    return lock, {blob.digest: blob.size for blob in (*lock.manifests(), *lock.contents())}


def test_fetch_fills_every_place_with_what_the_lock_names(tmp_path: Path) -> None:
    registry, cache, shelf = MemoryRegistry(), Cache(tmp_path), Shelf()
    lock, sizes = locked(cache, registry)
    fetch(lock, sizes.items(), place=shelf, supply=Supply(cache=cache, source_of=lambda image: registry))
    assert {digest: len(data) for digest, data in shelf.done.items()} == sizes


def test_what_the_cache_holds_is_not_asked_for_upstream(tmp_path: Path) -> None:
    registry, cache, shelf = MemoryRegistry(), Cache(tmp_path), Shelf()
    lock, sizes = locked(cache, registry)
    registry.log.clear()
    fetch(lock, sizes.items(), place=shelf, supply=Supply(cache=cache, source_of=lambda image: registry))
    layers = {str(blob.digest) for image in lock.images for m in image.manifests for blob in m.blobs[1:]}
    assert {step.split()[-1] for step in registry.log} == layers


def test_an_empty_or_damaged_cache_only_costs_time(tmp_path: Path) -> None:
    registry, shelf = MemoryRegistry(), Shelf()
    lock, sizes = locked(Cache(tmp_path / "lock"), registry)
    damaged = Cache(tmp_path / "build")
    first = next(iter(sizes))
    damaged.path(first).parent.mkdir(parents=True)
    damaged.path(first).write_bytes(b"not this")
    fetch(lock, sizes.items(), place=shelf, supply=Supply(cache=damaged, source_of=lambda image: registry))
    assert set(shelf.done) == set(sizes)


def test_a_tag_that_moved_since_the_lock_changes_nothing(tmp_path: Path) -> None:
    registry, shelf = MemoryRegistry(), Shelf()
    lock, sizes = locked(Cache(tmp_path / "a"), registry)
    registry.offer(NAME, image("moved"))
    fetch(
        lock, sizes.items(), place=shelf, supply=Supply(cache=Cache(tmp_path / "b"), source_of=lambda image: registry)
    )
    assert set(shelf.done) == set(sizes)


def test_an_upstream_that_begins_again_leaves_one_clean_blob(tmp_path: Path) -> None:
    class Stuttering(MemoryRegistry):
        def read_blob(self, name: Reference, blob: Descriptor, sink: Sink, *, restart: Callable[[], None]) -> None:
            sink(memoryview(b"half a bl"))
            restart()
            super().read_blob(name, blob, sink, restart=restart)

    registry, shelf = Stuttering(), Shelf()
    lock, sizes = locked(Cache(tmp_path / "a"), registry)
    moved: list[int] = []
    fetch(
        lock,
        sizes.items(),
        place=shelf,
        supply=Supply(cache=Cache(tmp_path / "b"), source_of=lambda image: registry),
        pace=Pace(emit=lambda event: moved.append(getattr(event, "count", 0))),
    )
    assert set(shelf.done) == set(sizes)
    assert sum(moved) == sum(sizes.values())


def test_wrong_bytes_from_upstream_never_count(tmp_path: Path) -> None:
    registry, shelf = MemoryRegistry(), Shelf()
    lock, sizes = locked(Cache(tmp_path / "a"), registry)
    layer = lock.images[0].manifests[0].blobs[-1].digest
    registry.blobs["registry.k8s.io/pause"][layer] = b"x" * sizes[layer]
    with pytest.raises(DigestError):
        fetch(
            lock,
            sizes.items(),
            place=shelf,
            supply=Supply(cache=Cache(tmp_path / "b"), source_of=lambda image: registry),
        )
    assert layer not in shelf.done


def test_a_lost_export_of_a_docker_image_names_the_image_id(tmp_path: Path) -> None:
    registry, cache = MemoryRegistry(), Cache(tmp_path / "a")
    reference = registry.offer("docker.io/library/own:1", image("own", docker=True))
    wanted = WantedImage(reference=reference, platforms=(AMD64,), source=registry, origin="docker")
    lock = Lock.model_construct(images=resolve([wanted], cache=cache), charts=(), tools=(), files=())
    layer = lock.images[0].manifests[0].blobs[-1]
    registry.blobs.clear()
    with pytest.raises(LockChangedError, match=str(lock.images[0].image_id)):
        fetch(
            lock,
            [(layer.digest, layer.size)],
            place=Shelf(),
            supply=Supply(cache=Cache(tmp_path / "b"), source_of=lambda image: registry),
        )


def test_one_failure_ends_the_blobs_that_are_under_way(tmp_path: Path) -> None:
    """A local disk needs no waking, and a large blob from it takes longer than anybody waits after Ctrl-C."""

    class Slow(MemoryRegistry):
        def read_blob(self, name: Reference, blob: Descriptor, sink: Sink, *, restart: Callable[[], None]) -> None:
            if blob.digest == broken:
                assert under_way.wait(30)
                raise DigestError(str(blob.digest), "wrong content")
            under_way.set()
            for _ in range(1000):
                sink(memoryview(b""))
                time.sleep(0.005)

    registry, under_way = Slow(), threading.Event()
    lock, _ = locked(Cache(tmp_path / "a"), MemoryRegistry())
    broken = lock.images[0].manifests[0].blobs[-1].digest
    began = time.monotonic()
    with pytest.raises(DigestError):
        fetch(
            lock,
            [(blob.digest, blob.size) for blob in lock.images[0].manifests[0].blobs],
            place=Shelf(),
            supply=Supply(cache=Cache(tmp_path / "b"), source_of=lambda image: registry),
        )
    assert time.monotonic() - began < 2
