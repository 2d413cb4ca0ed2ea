from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from bundler.cache import Cache
from bundler.domain.blob import Blob
from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, Event, ItemDone, TransferPlanned
from bundler.domain.lock import Lock
from bundler.domain.oci import OCI_MANIFEST, Descriptor, Manifest, Platform, parse_manifest
from bundler.domain.reference import Reference
from bundler.errors import ConflictError, DigestError, NetworkError
from bundler.pacing import Bearing
from bundler.ports import Reopen
from bundler.stages.push import Push, PushPlan, observe, plan_push, push, pushes_of
from bundler.stages.resolve import WantedImage, resolve
from bundler.transfer import Pace
from tests.fakes.images import FakeImage, image, index, layer_bytes
from tests.fakes.memory_registry import MemoryRegistry

AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")
SHARED = layer_bytes("shared", 5000)
ONE = Pace(workers=1)


class Blobs(dict[Digest, bytes]):
    """What an archive holds, for push."""

    def read(self, key: Digest) -> bytes:
        return self[key]

    def pieces(self, key: Digest, start: int = 0) -> Iterator[memoryview]:
        yield memoryview(self[key])[start:]

    def holds(self, digest: Digest) -> bool:
        return digest in self

    def check(self, key: Digest) -> None:
        if Digest.of(self[key]) != key:
            raise DigestError(str(key), "is damaged")


def offered() -> dict[str, FakeImage]:
    def both(name: str) -> FakeImage:
        return index(
            image(name, layers=[SHARED, layer_bytes(name, 200)]),
            image(f"{name} arm", platform="linux/arm64", layers=[SHARED, layer_bytes(name, 200)]),
        )

    return {"registry.k8s.io/pause:3.10": both("pause"), "quay.io/a/b:v1": both("b")}


def bundle(tmp_path: Path) -> tuple[tuple[Push, ...], Blobs]:
    upstream, blobs = MemoryRegistry(), Blobs()
    wanted = []
    for name, made in offered().items():
        reference = upstream.offer(name, made)
        wanted.append(WantedImage(reference=reference, platforms=(AMD64, ARM64), source=upstream))
        blobs |= made.blobs | {digest: raw for digest, (_, raw) in made.manifests.items()}
    lock = Lock.model_construct(images=resolve(wanted, cache=Cache(tmp_path)), charts=())
    return pushes_of(lock, image_target=private, chart_target=Reference.parse), blobs


def private(reference: Reference) -> Reference:
    return replace(reference, registry="ecr.example", repository=f"bundle/{reference.registry}/{reference.repository}")


def plan(pushes: tuple[Push, ...], registry: MemoryRegistry) -> PushPlan:
    return plan_push(pushes, present=observe(pushes, registry=registry), immutable=registry.immutable)


def test_push_leaves_the_registry_with_every_image_under_tag_and_digest(tmp_path: Path) -> None:
    pushes, blobs = bundle(tmp_path)
    registry = MemoryRegistry()
    push(plan(pushes, registry), archive=blobs, registry=registry)
    for name, made in offered().items():
        reference = private(Reference.parse(name))
        assert registry.manifest_digest(reference) == made.digest
        assert registry.manifests[reference.name] == made.manifests


def test_a_second_push_asks_one_question_an_image_and_sends_nothing(tmp_path: Path) -> None:
    pushes, blobs = bundle(tmp_path)
    registry = MemoryRegistry()
    push(plan(pushes, registry), archive=blobs, registry=registry)
    registry.log.clear()
    again = plan(pushes, registry)
    assert len(registry.log) == len(pushes)
    assert again.missing == ()
    push(again, archive=blobs, registry=registry)
    assert len(registry.log) == len(pushes)


def test_a_shared_layer_is_sent_once_and_mounted_elsewhere(tmp_path: Path) -> None:
    pushes, blobs = bundle(tmp_path)
    registry = MemoryRegistry()
    push(plan(pushes, registry), archive=blobs, registry=registry)
    shared = [step.split()[0] for step in registry.log if str(Digest.of(SHARED)) in step and "HEAD" not in step]
    assert sorted(shared) == ["MOUNT", "PUT"]


def only_of(*images: FakeImage) -> tuple[tuple[Push, ...], Blobs]:
    """Pushes of images to a repository each, without a lock."""
    pushes, blobs = [], Blobs()
    for number, made in enumerate(images):
        blobs |= made.blobs | {digest: raw for digest, (_, raw) in made.manifests.items()}
        parsed = parse_manifest(made.raw, subject="x", media_type=OCI_MANIFEST)
        assert isinstance(parsed, Manifest)
        pushes.append(
            Push(
                source=f"upstream/{number}:1",
                target=Reference.parse(f"ecr.example/{number}:1"),
                manifests=(Blob(media_type=OCI_MANIFEST, digest=made.digest, size=len(made.raw)),),
                blobs=tuple({blob.digest: Blob.of(blob) for blob in parsed.blobs}.values()),
            )
        )
    return tuple(pushes), blobs


def test_the_largest_blob_goes_first_and_each_tag_after_its_own_blobs() -> None:
    large = layer_bytes("large", 300_000)
    pushes, blobs = only_of(
        image("a", layers=[layer_bytes("a", 9000)]), image("b", layers=[large, layer_bytes("b", 200_000)])
    )
    registry = MemoryRegistry()
    push(plan(pushes, registry), archive=blobs, registry=registry, pace=ONE)
    sent = [step for step in registry.log if step.startswith("PUT")]
    assert str(Digest.of(large)) in sent[0]
    for name in ("ecr.example/0", "ecr.example/1"):
        ours = [step for step in sent if f"{name} " in step or f"{name}:" in step]
        assert [step.split()[1] for step in ours] == ["blob"] * (len(ours) - 1) + ["manifest"]


def test_an_image_is_finished_as_soon_as_its_own_blobs_are_there() -> None:
    small = [image(f"s{number}", layers=[layer_bytes(f"s{number}", 900)]) for number in range(5)]
    pushes, blobs = only_of(*small)
    registry = MemoryRegistry()
    push(plan(pushes, registry), archive=blobs, registry=registry, pace=ONE)
    sent = [step.split()[1] for step in registry.log if step.startswith("PUT")]
    assert sent.index("manifest") <= 3 * 2


def test_a_new_repository_is_asked_for_tags_and_one_small_blob_only() -> None:
    pushes, blobs = only_of(image("many", layers=[layer_bytes(f"many {number}", 900) for number in range(50)]))
    registry = MemoryRegistry()
    push(plan(pushes, registry), archive=blobs, registry=registry)
    asked = [step.rpartition(" ")[0] for step in registry.log if step.startswith(("HEAD blob", "GET"))]
    assert sorted(asked) == ["GET tags", "HEAD blob ecr.example/0"]
    assert sum(step.startswith("PUT blob") for step in registry.log) == 51


def test_every_blob_is_asked_for_where_another_image_has_been() -> None:
    layers = [layer_bytes(f"many {number}", 900) for number in range(50)]
    pushes, blobs = only_of(image("many", layers=layers))
    registry = MemoryRegistry()
    registry.offer("ecr.example/0:before", image("before", layers=layers))
    push(plan(pushes, registry), archive=blobs, registry=registry)
    assert sum(step.startswith("HEAD blob") for step in registry.log) == 51
    assert sum(step.startswith("PUT blob") for step in registry.log) == 1  # the configuration


@pytest.mark.parametrize("workers", [1, 8])
def test_what_was_sent_before_a_kill_is_never_sent_again(workers: int) -> None:
    pushes, blobs = only_of(
        image("a", layers=[SHARED, *(layer_bytes(f"a {number}", 300) for number in range(12))]),
        image("b", layers=[SHARED, layer_bytes("b", 100_000), *(layer_bytes(f"b {n}", 300) for n in range(6))]),
    )
    for stop_at in range(2, 60, 3):
        registry, done = Recording(), 0
        registry.fail_after(stop_at)
        with suppress(NetworkError):
            push(plan(pushes, registry), archive=blobs, registry=registry, pace=Pace(workers=workers))
        registry.fail_after(None)
        push(plan(pushes, registry), archive=blobs, registry=registry, pace=Pace(workers=workers))
        done = len(registry.stored)
        assert done == len(set(registry.stored)) == len({blob.digest for one in pushes for blob in one.blobs})


class Recording(MemoryRegistry):
    """Remembers each blob that was sent whole; fails from a number of steps on."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: list[Digest] = []

    def fail_after(self, count: int | None) -> None:
        def fail(step: str) -> None:
            if count is not None and len(self.log) > count:
                raise NetworkError(step, "cut")

        self.fail = fail

    def upload_blob(self, name: Reference, blob: Descriptor, content: Reopen, *, mount_from: str | None = None) -> bool:
        mounted = super().upload_blob(name, blob, content, mount_from=mount_from)
        if not mounted:
            self.stored.append(blob.digest)
        return mounted


def test_a_blob_of_an_image_that_is_there_is_mounted_from_it() -> None:
    pushes, blobs = only_of(image("a", layers=[SHARED]), image("b", layers=[SHARED, layer_bytes("b", 100)]))
    registry = MemoryRegistry()
    push(plan(pushes[:1], registry), archive=blobs, registry=registry)
    registry.log.clear()
    push(plan(pushes, registry), archive=blobs, registry=registry)
    assert [step for step in registry.log if "MOUNT" in step] == [f"MOUNT ecr.example/1 {Digest.of(SHARED)}"]
    assert not [step for step in registry.log if step.startswith("PUT") and str(Digest.of(SHARED)) in step]


def test_progress_names_images_and_counts_every_byte_once() -> None:
    pushes, blobs = only_of(image("a", layers=[SHARED]), image("b", layers=[SHARED, layer_bytes("b", 100)]))
    events: list[Event] = []
    push(plan(pushes, registry := MemoryRegistry()), archive=blobs, registry=registry, pace=Pace(emit=events.append))
    planned = next(event for event in events if isinstance(event, TransferPlanned))
    assert planned.total_bytes == sum(event.count for event in events if isinstance(event, BytesMoved))
    assert len(SHARED) == sum(event.count for event in events if isinstance(event, BytesMoved) and event.kept)
    items = [event.item for event in events if isinstance(event, ItemDone)]
    assert f"{Digest.of(SHARED).short} upstream/0:1" in items
    assert sum(event.how != "tagged" for event in events if isinstance(event, ItemDone)) == planned.items


def test_progress_counts_the_last_piece_that_nobody_comes_back_for() -> None:
    class Leaving(MemoryRegistry):
        """Takes what it was promised and does not ask whether there is more, as our adapter does."""

        def upload_blob(
            self, name: Reference, blob: Descriptor, content: Reopen, *, mount_from: str | None = None
        ) -> bool:
            pieces = content(0)
            taken = [bytes(next(pieces))]
            while sum(map(len, taken)) < blob.size:
                taken.append(bytes(next(pieces)))
            return super().upload_blob(name, blob, lambda start: iter([memoryview(b"".join(taken))]))

    pushes, blobs = only_of(image("a", layers=[SHARED, layer_bytes("b", 100)]))
    events: list[Event] = []
    push(plan(pushes, registry := Leaving()), archive=blobs, registry=registry, pace=Pace(emit=events.append))
    planned = next(event for event in events if isinstance(event, TransferPlanned))
    assert planned.total_bytes == sum(event.count for event in events if isinstance(event, BytesMoved))


def test_bytes_of_a_try_before_a_mount_that_came_late_are_taken_back() -> None:
    class Late(MemoryRegistry):
        """A mount is refused, its upload is cut, and the next try is a mount."""

        def upload_blob(
            self, name: Reference, blob: Descriptor, content: Reopen, *, mount_from: str | None = None
        ) -> bool:
            if mount_from is not None:
                assert sum(map(len, content(0))) == blob.size
            return super().upload_blob(name, blob, content, mount_from=mount_from)

    pushes, blobs = only_of(image("a", layers=[SHARED]), image("b", layers=[SHARED]))
    events: list[Event] = []
    push(plan(pushes, registry := Late()), archive=blobs, registry=registry, pace=Pace(emit=events.append))
    assert counts_of(events, f"{Digest.of(SHARED).short} upstream/1:1") == [
        (0, False),
        (len(SHARED), False),
        (-len(SHARED), False),
        (len(SHARED), True),
    ]


def test_a_mount_that_took_no_bytes_reports_no_empty_count() -> None:
    pushes, blobs = only_of(image("a", layers=[SHARED]), image("b", layers=[SHARED]))
    events: list[Event] = []
    push(plan(pushes, registry := MemoryRegistry()), archive=blobs, registry=registry, pace=Pace(emit=events.append))
    assert counts_of(events, f"{Digest.of(SHARED).short} upstream/1:1") == [(len(SHARED), True)]


def counts_of(events: list[Event], item: str) -> list[tuple[int, bool]]:
    return [(one.count, one.kept) for one in events if isinstance(one, BytesMoved) and one.item == item]


def test_as_many_small_blobs_are_under_way_as_the_registry_bears() -> None:
    layers = [layer_bytes(f"many {number}", 900) for number in range(400)]
    for borne in (2, 30):
        pushes, blobs = only_of(image("many", layers=layers))
        registry = Crowded(borne)
        push(plan(pushes, registry), archive=blobs, registry=registry)
        assert registry.most == borne


class Crowded(MemoryRegistry):
    """Counts uploads that are under way at one time; each waits until no other can join it."""

    def __init__(self, borne: int) -> None:
        super().__init__()
        self.most = self._now = 0
        self._borne = borne
        self._change = threading.Condition()

    def bearing(self, name: Reference) -> Bearing:
        del name
        return Bearing(self._borne)

    def upload_blob(self, name: Reference, blob: Descriptor, content: Reopen, *, mount_from: str | None = None) -> bool:
        with self._change:
            self._now += 1
            self.most = max(self.most, self._now)
            self._change.notify_all()
            self._change.wait_for(lambda: self.most >= self._borne, timeout=0.2)
            self._now -= 1
            return super().upload_blob(name, blob, content, mount_from=mount_from)


@pytest.mark.parametrize(("workers", "most"), [(2, 20), (1, 1)])
def test_every_image_is_asked_about_at_once_unless_one_at_a_time_is_asked_for(
    tmp_path: Path, workers: int, most: int
) -> None:
    now, seen, change = 0, 0, threading.Condition()

    class Counting(MemoryRegistry):
        def manifest_digest(self, reference: Reference) -> Digest | None:
            nonlocal now, seen
            with change:
                now += 1
                seen = max(seen, now)
                change.notify_all()
                change.wait_for(lambda: seen >= most, timeout=1)
                now -= 1
            return super().manifest_digest(reference)

    (push, *_), _ = bundle(tmp_path)
    asked = [replace(push, target=replace(push.target, tag=f"v{number}")) for number in range(20)]
    assert observe(asked, registry=Counting(), pace=Pace(workers=workers)) == {}
    assert seen == most


def test_the_manifests_that_an_index_names_go_together_before_it(tmp_path: Path) -> None:
    both = threading.Barrier(2)

    class Together(MemoryRegistry):
        def put_manifest(self, reference: Reference, raw: bytes, media_type: str) -> Digest:
            if reference.tag is None:
                both.wait(timeout=10)
            return super().put_manifest(reference, raw, media_type)

    (one, *_), blobs = bundle(tmp_path)  # of several images two could meet by chance
    registry = Together()
    push(plan((one,), registry), archive=blobs, registry=registry)
    assert registry.tags == {one.target.name: {str(one.target.tag): one.digest}}


def test_push_goes_on_after_dying_at_any_step(tmp_path: Path) -> None:
    pushes, blobs = bundle(tmp_path)
    whole = MemoryRegistry()
    push(plan(pushes, whole), archive=blobs, registry=whole, pace=ONE)
    for stop_at in range(len(whole.log)):
        registry = MemoryRegistry()

        def die(step: str, registry: MemoryRegistry = registry, stop_at: int = stop_at) -> None:
            if len(registry.log) == stop_at + 1:
                raise NetworkError(step, "cut")

        registry.fail = die
        with pytest.raises(NetworkError):
            push(plan(pushes, registry), archive=blobs, registry=registry, pace=ONE)
        registry.fail = lambda step: None
        push(plan(pushes, registry), archive=blobs, registry=registry, pace=ONE)
        assert (registry.blobs, registry.manifests, registry.tags) == (whole.blobs, whole.manifests, whole.tags)


def test_an_immutable_tag_that_holds_another_digest_gets_a_tag_beside_it(tmp_path: Path) -> None:
    pushes, blobs = bundle(tmp_path)
    registry = MemoryRegistry(immutable=True)
    other = image("other")
    registry.offer(str(pushes[0].target), other)
    first = plan(pushes, registry)
    push(first, archive=blobs, registry=registry)
    assert registry.manifest_digest(pushes[0].target) == other.digest
    private_reference = first.references[pushes[0].source]
    assert private_reference.tag == f"{pushes[0].target.tag}-{pushes[0].digest.short}"
    assert registry.manifest_digest(private_reference) == pushes[0].digest
    assert plan(pushes, registry).missing == ()


def test_damaged_content_is_refused_before_the_upload_counts(tmp_path: Path) -> None:
    pushes, blobs = bundle(tmp_path)
    registry = MemoryRegistry()
    blobs[Digest.of(SHARED)] = SHARED[:-1] + b"!"
    with pytest.raises(DigestError):
        push(plan(pushes, registry), archive=blobs, registry=registry)
    assert Digest.of(SHARED) not in registry.blobs.get(pushes[0].target.name, {})


def test_a_registry_that_forgets_a_push_is_noticed(tmp_path: Path) -> None:
    pushes, blobs = bundle(tmp_path)

    class Forgetful(MemoryRegistry):
        def put_manifest(self, reference: Reference, raw: bytes, media_type: str) -> Digest:
            digest = super().put_manifest(reference, raw, media_type)
            self.tags[reference.name].clear()
            return digest

    registry = Forgetful()
    with pytest.raises(ConflictError, match="not there after the push"):
        push(plan(pushes, registry), archive=blobs, registry=registry)
