from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bundler.cache import Cache
from bundler.domain.digest import Digest
from bundler.domain.lock import Lock
from bundler.domain.oci import Platform
from bundler.domain.reference import Reference
from bundler.errors import ConflictError, DigestError, NetworkError
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

    def stream(self, key: Digest, start: int = 0) -> Iterator[memoryview]:
        yield memoryview(self[key])[start:]


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
    assert not [step for step in registry.log if "PUT" in step or "MOUNT" in step]


def test_a_shared_layer_is_sent_once_and_mounted_elsewhere(tmp_path: Path) -> None:
    pushes, blobs = bundle(tmp_path)
    registry = MemoryRegistry()
    push(plan(pushes, registry), archive=blobs, registry=registry)
    shared = [step.split()[0] for step in registry.log if str(Digest.of(SHARED)) in step and "HEAD" not in step]
    assert sorted(shared) == ["MOUNT", "PUT"]


def test_the_largest_blob_goes_first_and_tags_last(tmp_path: Path) -> None:
    pushes, blobs = bundle(tmp_path)
    registry = MemoryRegistry()
    push(plan(pushes, registry), archive=blobs, registry=registry, pace=ONE)
    sent = [step for step in registry.log if step.startswith(("PUT", "MOUNT"))]
    assert str(Digest.of(SHARED)) in sent[0]
    tagged = [number for number, step in enumerate(sent) if ":3.10" in step or ":v1" in step]
    last_blob = max(number for number, step in enumerate(sent) if " blob " in step or "MOUNT" in step)
    assert min(tagged) > last_blob


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
