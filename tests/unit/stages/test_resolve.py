from __future__ import annotations

from pathlib import Path

import pytest

from bundler.cache import Cache
from bundler.domain.lock import LockedImage
from bundler.domain.oci import Index, Platform, parse_manifest
from bundler.errors import FormatError, LimitError, NotFoundUpstreamError
from bundler.stages.resolve import WantedImage, resolve
from tests.fakes.images import FakeImage, attestation, image, index
from tests.fakes.memory_registry import MemoryRegistry

BOTH = (Platform.parse("linux/amd64"), Platform.parse("linux/arm64"))
NAME = "registry.k8s.io/pause:3.10"


def lock_one(made: FakeImage, tmp_path: Path, platforms: tuple[Platform, ...] = BOTH) -> tuple[LockedImage, Cache]:
    registry, cache = MemoryRegistry(), Cache(tmp_path)
    wanted = WantedImage(reference=registry.offer(NAME, made), platforms=platforms, source=registry)
    return resolve([wanted], cache=cache)[0], cache


def test_an_index_whose_children_are_all_carried_travels_raw(tmp_path: Path) -> None:
    made = index(image("a"), image("b", platform="linux/arm64/v8"))
    locked, cache = lock_one(made, tmp_path)
    assert (locked.form, locked.target.digest, locked.upstream) == ("index", made.digest, None)
    assert cache.get(made.digest) == made.raw


def test_an_attestation_travels_with_the_manifest_it_annotates(tmp_path: Path) -> None:
    amd64, arm64 = image("a"), image("b", platform="linux/arm64")
    locked, _ = lock_one(index(amd64, arm64, extra=[attestation(amd64)]), tmp_path)
    assert locked.form == "index"
    assert [m.attests for m in locked.manifests if m.platform is None] == [amd64.digest]


def test_an_index_that_offers_another_platform_is_derived_and_the_upstream_one_kept(tmp_path: Path) -> None:
    amd64, arm64, s390x = image("a"), image("b", platform="linux/arm64"), image("c", platform="linux/s390x")
    made = index(amd64, s390x, arm64, extra=[attestation(s390x)])
    locked, cache = lock_one(made, tmp_path)
    assert locked.form == "derived"
    assert locked.upstream is not None
    assert locked.upstream.digest == made.digest
    derived = parse_manifest(cache.get(locked.target.digest) or b"", subject="derived")
    assert isinstance(derived, Index)
    assert [child.digest for child in derived.manifests] == [amd64.digest, arm64.digest]
    assert str(made.digest).encode() in derived.raw


def test_a_single_manifest_is_locked_as_it_is(tmp_path: Path) -> None:
    made = image("a", docker=True)
    locked, _ = lock_one(made, tmp_path, BOTH[:1])
    assert (locked.form, locked.target.digest) == ("manifest", made.digest)
    assert [len(m.blobs) for m in locked.manifests] == [3]


@pytest.mark.parametrize("made", [index(image("a")), image("a")], ids=["index", "manifest"])
def test_a_missing_platform_is_an_error_that_names_the_image(made: FakeImage, tmp_path: Path) -> None:
    with pytest.raises(
        NotFoundUpstreamError, match=r"registry\.k8s\.io/pause:3\.10: has no platform linux/arm64"
    ) as caught:
        lock_one(made, tmp_path)
    assert caught.value.exit_code == 2


def test_a_missing_tag_is_an_error_that_names_the_image(tmp_path: Path) -> None:
    registry = MemoryRegistry()
    reference = registry.offer(NAME, image("a"))
    registry.tags[reference.name].clear()
    with pytest.raises(NotFoundUpstreamError, match="pause"):
        resolve([WantedImage(reference=reference, platforms=BOTH, source=registry)], cache=Cache(tmp_path))


def test_an_index_that_lies_about_a_platform_is_refused(tmp_path: Path) -> None:
    amd64 = image("a")
    liar = FakeImage(
        raw=amd64.raw,
        media_type=amd64.media_type,
        platform=Platform.parse("linux/arm64"),
        blobs=amd64.blobs,
        manifests=amd64.manifests,
    )
    with pytest.raises(FormatError, match="index says linux/arm64, its config says linux/amd64"):
        lock_one(index(liar), tmp_path, BOTH[1:])


def test_an_index_inside_an_index_is_refused(tmp_path: Path) -> None:
    inner = index(image("a"))
    nested = FakeImage(
        raw=inner.raw,
        media_type="application/vnd.oci.image.manifest.v1+json",
        platform=BOTH[0],
        blobs=inner.blobs,
        manifests=inner.manifests,
    )
    with pytest.raises(LimitError):
        lock_one(index(nested), tmp_path, BOTH[:1])


def test_images_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    registry = MemoryRegistry()
    references = [registry.offer(f"h.example/{name}:1", image(name)) for name in ("c", "a", "b")]
    wanted = [WantedImage(reference=r, platforms=BOTH[:1], source=registry) for r in references]
    locked = resolve(wanted, cache=Cache(tmp_path))
    assert [image.reference.repository for image in locked] == ["a", "b", "c"]


def test_a_moved_tag_is_found_even_where_the_index_is_derived(tmp_path: Path) -> None:
    old, _ = lock_one(index(image("a"), image("s", platform="linux/s390x")), tmp_path, BOTH[:1])
    new, _ = lock_one(index(image("a"), image("t", platform="linux/s390x")), tmp_path, BOTH[:1])
    assert [manifest.digest for manifest in new.manifests] == [manifest.digest for manifest in old.manifests]
    assert new.upstream_digest != old.upstream_digest
