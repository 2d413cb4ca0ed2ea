"""What a delta does not carry: found at the site before any write, mounted, or read from there and sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.archive.reader import Archive
from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, Event, ItemDone, TransferPlanned
from bundler.domain.image_map import PrivateRegistry
from bundler.domain.oci import Descriptor
from bundler.domain.reference import Reference
from bundler.errors import AbsentContentError, DigestError
from bundler.ports import Sink
from bundler.transfer import Pace
from bundler.workflows.push import observe_push, push_archive
from tests.fakes.image_deltas import Layers, against, built, bundle, opened
from tests.fakes.memory_registry import MemoryRegistry

FIRST: Layers = {"quay.io/a:1": ["x", "y"], "quay.io/b:1": ["x", "w"]}
SECOND: Layers = {"quay.io/a:2": ["x", "new"], "quay.io/c:1": ["w", "y"]}
OLD, NEW = (bundle(layers, sequence=number, size=3000) for number, layers in ((1, FIRST), (2, SECOND)))
TARGET = PrivateRegistry(host="registry.example", prefix="p")


@pytest.fixture
def delta(tmp_path: Path) -> Archive:
    return opened(built(NEW, against(OLD.lock), tmp_path / "delta"))


def holding_the_first(folder: Path, registry: MemoryRegistry) -> MemoryRegistry:
    push(opened(built(OLD, None, folder / "first")), registry)
    registry.log.clear()
    return registry


def push(archive: Archive, registry: MemoryRegistry) -> None:
    push_archive(archive, target=TARGET, registry=registry, pace=Pace(workers=2))


def writes(registry: MemoryRegistry) -> list[str]:
    return [step for step in registry.log if step.startswith(("PUT", "MOUNT"))]


@pytest.mark.parametrize("mounts", [True, False])
def test_everything_gets_there_and_only_what_moved_is_mounted_or_copied(
    delta: Archive, tmp_path: Path, mounts: bool
) -> None:
    registry = holding_the_first(tmp_path, MemoryRegistry(mounts=mounts))
    push(delta, registry)
    kinds = [step.split()[0] for step in writes(registry) if "manifest" not in step]
    read = [step for step in registry.log if step.startswith("GET blob")]
    whole = MemoryRegistry(mounts=mounts)
    holding_the_first(tmp_path, whole)
    push(opened(built(NEW, None, tmp_path / "whole")), whole)
    assert (registry.blobs, registry.manifests, registry.tags) == (whole.blobs, whole.manifests, whole.tags)
    moved = 2
    assert kinds.count("MOUNT") == (moved if mounts else 0)
    assert len(read) == (0 if mounts else moved)


@pytest.mark.parametrize("mounts", [True, False])
def test_progress_says_of_a_copy_that_it_moved_and_of_a_mount_that_none_did(
    delta: Archive, tmp_path: Path, mounts: bool
) -> None:
    registry, events = holding_the_first(tmp_path, MemoryRegistry(mounts=mounts)), list[Event]()
    push_archive(delta, target=TARGET, registry=registry, pace=Pace(workers=2, emit=events.append))
    (planned,) = (event for event in events if isinstance(event, TransferPlanned))
    counts = [event for event in events if isinstance(event, BytesMoved)]
    assert sum(event.count for event in counts) == planned.total_bytes
    absent = {one.digest.short for one in delta.requires}
    done = [event for event in events if isinstance(event, ItemDone) and event.item.split()[0] in absent]
    assert Counter(event.how for event in done) == {"present": 1, "mounted" if mounts else "moved": 2}
    kept = [event.count for event in counts if event.kept and event.item.split()[0] in absent]
    assert sum(kept) == 3000 * (3 if mounts else 1)


def test_pushed_again_nothing_is_looked_for(delta: Archive, tmp_path: Path) -> None:
    registry = holding_the_first(tmp_path, MemoryRegistry())
    push(delta, registry)
    registry.log.clear()
    push(delta, registry)
    assert not [step for step in registry.log if not step.startswith("HEAD manifest")]


def test_a_site_without_the_first_is_refused_before_any_write(delta: Archive) -> None:
    registry = MemoryRegistry()
    with pytest.raises(AbsentContentError) as caught:
        push(delta, registry)
    assert writes(registry) == []
    assert caught.value.exit_code == 7
    assert "registry.example/p lacks 3 blobs that it does not carry, of 2 images" in caught.value.cause
    assert "build --against the receipt" in caught.value.hint
    assert caught.value.safe == "Nothing was pushed."


def test_what_is_needed_and_gone_is_named_and_what_is_not_needed_is_not(delta: Archive, tmp_path: Path) -> None:
    registry = holding_the_first(tmp_path, MemoryRegistry())
    gone = registry.blobs["registry.example/p/quay.io/b"]
    (lost,) = {one.digest for one in delta.requires if one.repository == "quay.io/b"}
    del gone[lost]
    with pytest.raises(AbsentContentError, match="lacks 1 blob that it does not carry, of 1 image") as caught:
        observe_push(delta, target=TARGET, registry=registry, immutable=False, pace=Pace())
    assert f"- {lost} (3000 bytes), for quay.io/c:1" in caught.value.cause


class Damaging(MemoryRegistry):
    """Gives other content than its digest says, as often as told, and then the right one."""

    def read_blob(self, name: Reference, blob: Descriptor, sink: Sink, *, restart: Callable[[], None]) -> None:
        sink(memoryview(b"half of something else"))
        restart()
        super().read_blob(name, blob, sink, restart=restart)


def test_a_copy_that_begins_again_is_whole(delta: Archive, tmp_path: Path) -> None:
    registry = holding_the_first(tmp_path, Damaging(mounts=False))
    push(delta, registry)
    held = registry.blobs["registry.example/p/quay.io/c"]
    assert all(Digest.of(content) == digest for digest, content in held.items())


def test_content_that_the_registry_damaged_is_never_sent_on(delta: Archive, tmp_path: Path) -> None:
    registry = holding_the_first(tmp_path, MemoryRegistry(mounts=False))
    for held in registry.blobs.values():
        held.update(dict.fromkeys(held, b"damaged"))
    with pytest.raises(DigestError):
        push(delta, registry)
    assert "registry.example/p/quay.io/c" not in registry.tags
