"""The same registries through skopeo, a client that is not ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.domain.digest import Digest
from tests.contract.registries import Registry, everywhere, write_layout
from tests.fakes.images import image, index

pytestmark = pytest.mark.loopback
Skopeo = Callable[..., bytes]


def options(registry: Registry, side: str) -> list[str]:
    """Skopeo's options for the source or the destination of a copy."""
    return [option.replace("--", f"--{side}-", 1) for option in registry.skopeo]


@everywhere
def test_skopeo_pushes_an_index_with_all_platforms(registry: Registry, skopeo: Skopeo, tmp_path: Path) -> None:
    wanted = index(image("a"), image("b", platform="linux/arm64"))
    write_layout(tmp_path / "layout", wanted)
    repository = registry.repository()
    target = f"docker://{registry.address}/{repository}:v1"
    skopeo("copy", "--preserve-digests", "--all", *options(registry, "dest"), f"oci:{tmp_path}/layout:v1", target)
    assert registry.manifest(repository, "v1").data == wanted.raw
    for digest, (_, raw) in wanted.manifests.items():
        assert registry.manifest(repository, digest).data == raw


@everywhere
def test_skopeo_pushes_one_image(registry: Registry, skopeo: Skopeo, tmp_path: Path) -> None:
    wanted = image("single")
    write_layout(tmp_path / "layout", wanted)
    repository = registry.repository()
    target = f"docker://{registry.address}/{repository}:v1"
    skopeo("copy", "--preserve-digests", *options(registry, "dest"), f"oci:{tmp_path}/layout:v1", target)
    assert registry.manifest(repository, "v1").data == wanted.raw


@everywhere
def test_skopeo_reads_raw_manifests(registry: Registry, skopeo: Skopeo) -> None:
    wanted, repository = index(image("raw", docker=True), docker=True), registry.repository()
    registry.push_image(repository, wanted)
    assert skopeo("inspect", "--raw", *registry.skopeo, f"docker://{registry.address}/{repository}:v1") == wanted.raw


@everywhere
def test_skopeo_pulls_what_was_pushed(registry: Registry, skopeo: Skopeo, tmp_path: Path) -> None:
    wanted, repository = index(image("pull"), image("pull2", platform="linux/arm64")), registry.repository()
    registry.push_image(repository, wanted)
    source = f"docker://{registry.address}/{repository}:v1"
    skopeo("copy", "--preserve-digests", "--all", *options(registry, "src"), source, f"oci:{tmp_path}/pulled:v1")
    blobs = tmp_path / "pulled" / "blobs" / "sha256"
    for digest, content in wanted.blobs.items():
        assert (blobs / digest.hex).read_bytes() == content
    assert (blobs / Digest.of(wanted.raw).hex).read_bytes() == wanted.raw


@everywhere
def test_skopeo_lists_tags(registry: Registry, skopeo: Skopeo) -> None:
    wanted, repository = image("listed"), registry.repository()
    for tag in ("one", "two"):
        registry.push_image(repository, wanted, tag=tag)
    listed = json.loads(skopeo("list-tags", *registry.skopeo, f"docker://{registry.address}/{repository}"))
    assert sorted(listed["Tags"]) == ["one", "two"]


@everywhere
def test_skopeo_copies_within_the_registry(registry: Registry, skopeo: Skopeo) -> None:
    wanted, one, two = image("moved"), registry.repository(), registry.repository()
    registry.push_image(one, wanted)
    both = [*options(registry, "src"), *options(registry, "dest")]
    source, target = (f"docker://{registry.address}/{name}:v1" for name in (one, two))
    skopeo("copy", "--preserve-digests", "--all", *both, source, target)
    assert registry.manifest(two, "v1").data == wanted.raw


@everywhere
def test_skopeo_pushes_a_second_time_without_harm(registry: Registry, skopeo: Skopeo, tmp_path: Path) -> None:
    wanted, repository = image("again"), registry.repository()
    write_layout(tmp_path / "layout", wanted)
    target = f"docker://{registry.address}/{repository}:v1"
    for _ in range(2):
        skopeo("copy", "--preserve-digests", *options(registry, "dest"), f"oci:{tmp_path}/layout:v1", target)
    assert registry.manifest(repository, "v1").data == wanted.raw
