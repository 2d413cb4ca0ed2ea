"""Manifests, indexes and tags: OCI distribution-spec 1.1, "Pushing manifests", "Pulling manifests", "Listing tags"."""

from __future__ import annotations

import json

import pytest

from bundler.domain.digest import Digest
from bundler.domain.oci import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from tests.contract.registries import Registry, error_code, everywhere
from tests.fakes.images import FakeImage, image, index

pytestmark = pytest.mark.loopback


def blobs_of(registry: Registry, repository: str, wanted: FakeImage) -> None:
    for content in wanted.blobs.values():
        registry.push_blob(repository, content)


@everywhere
def test_a_manifest_keeps_its_bytes_and_type(registry: Registry) -> None:
    repository, wanted = registry.repository(), image("kept")
    registry.push_image(repository, wanted)
    answer = registry.manifest(repository, "v1")
    assert (answer.status, answer.data, answer.headers["Content-Type"]) == (200, wanted.raw, OCI_MANIFEST)


@everywhere
def test_a_docker_manifest_stays_one(registry: Registry) -> None:
    repository, wanted = registry.repository(), image("docker", docker=True)
    registry.push_image(repository, wanted)
    answer = registry.manifest(repository, "v1")
    assert (answer.data, answer.headers["Content-Type"]) == (wanted.raw, DOCKER_MANIFEST)


@everywhere
def test_the_answer_to_a_push_tells_the_digest_of_the_bytes(registry: Registry) -> None:
    repository, wanted = registry.repository(), image("digest")
    blobs_of(registry, repository, wanted)
    answer = registry.put_manifest(repository, "v1", wanted.raw, OCI_MANIFEST)
    assert answer.status == 201
    assert answer.headers["Docker-Content-Digest"] == str(Digest.of(wanted.raw))


@everywhere
def test_white_space_is_part_of_a_manifest(registry: Registry) -> None:
    repository, wanted = registry.repository(), image("white")
    blobs_of(registry, repository, wanted)
    raw = b"\n\n  " + wanted.raw.replace(b": ", b" :   ") + b"\n \n"
    registry.put_manifest(repository, "v1", raw, OCI_MANIFEST)
    assert registry.manifest(repository, "v1").data == raw


@everywhere
def test_a_manifest_can_be_read_by_digest(registry: Registry) -> None:
    repository, wanted = registry.repository(), image("by digest")
    registry.push_image(repository, wanted)
    answer = registry.manifest(repository, wanted.digest)
    assert (answer.data, answer.headers["Docker-Content-Digest"]) == (wanted.raw, str(wanted.digest))


@everywhere
@pytest.mark.parametrize("by_digest", [False, True])
def test_head_of_a_manifest_tells_digest_length_and_type(registry: Registry, by_digest: bool) -> None:
    repository, wanted = registry.repository(), image("head")
    registry.push_image(repository, wanted)
    answer = registry.manifest(repository, wanted.digest if by_digest else "v1", "HEAD")
    assert (answer.status, answer.data) == (200, b"")
    assert answer.headers["Docker-Content-Digest"] == str(wanted.digest)
    assert answer.headers["Content-Length"] == str(len(wanted.raw))
    assert answer.headers["Content-Type"] == OCI_MANIFEST


@everywhere
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_unknown_tag_is_404(registry: Registry, method: str) -> None:
    repository = registry.repository()
    registry.push_image(repository, image("known"))
    assert registry.manifest(repository, "unknown", method).status == 404


@everywhere
def test_an_unknown_tag_is_named_so(registry: Registry) -> None:
    repository = registry.repository()
    registry.push_image(repository, image("known"))
    assert error_code(registry.manifest(repository, "unknown")) == "MANIFEST_UNKNOWN"


@everywhere
def test_an_unknown_digest_is_404(registry: Registry) -> None:
    repository = registry.repository()
    registry.push_image(repository, image("known"))
    assert registry.manifest(repository, Digest.of(b"unknown")).status == 404


@everywhere
def test_a_manifest_can_be_pushed_by_its_digest_alone(registry: Registry) -> None:
    repository, wanted = registry.repository(), image("untagged")
    blobs_of(registry, repository, wanted)
    assert registry.put_manifest(repository, wanted.digest, wanted.raw, OCI_MANIFEST).status == 201
    assert registry.manifest(repository, wanted.digest).data == wanted.raw


@everywhere
def test_a_manifest_under_another_digest_is_refused(registry: Registry) -> None:
    repository, wanted = registry.repository(), image("wrong digest")
    blobs_of(registry, repository, wanted)
    answer = registry.put_manifest(repository, Digest.of(b"other"), wanted.raw, OCI_MANIFEST)
    assert (answer.status, error_code(answer)) == (400, "DIGEST_INVALID")


@everywhere
def test_a_manifest_whose_layer_is_missing_is_refused(registry: Registry) -> None:
    repository, wanted = registry.repository(), image("no layer")
    config, *_ = wanted.blobs.values()
    registry.push_blob(repository, config)
    answer = registry.put_manifest(repository, "v1", wanted.raw, OCI_MANIFEST)
    assert answer.status in (400, 404)
    assert registry.manifest(repository, "v1").status == 404


@everywhere
def test_a_manifest_whose_config_is_missing_is_refused(registry: Registry) -> None:
    repository, wanted = registry.repository(), image("no config")
    _, *layers = wanted.blobs.values()
    for layer in layers:
        registry.push_blob(repository, layer)
    assert registry.put_manifest(repository, "v1", wanted.raw, OCI_MANIFEST).status in (400, 404)


@everywhere
def test_a_manifest_needs_its_layers_in_its_own_repository(registry: Registry) -> None:
    one, two, wanted = registry.repository(), registry.repository(), image("elsewhere")
    registry.push_image(one, wanted)
    assert registry.put_manifest(two, "v1", wanted.raw, OCI_MANIFEST).status in (400, 404)


@everywhere
def test_an_index_with_all_children_is_taken(registry: Registry) -> None:
    repository = registry.repository()
    wanted = index(image("a"), image("b", platform="linux/arm64"))
    registry.push_image(repository, wanted)
    answer = registry.manifest(repository, "v1")
    assert (answer.data, answer.headers["Content-Type"]) == (wanted.raw, OCI_INDEX)


@everywhere
def test_a_docker_list_stays_one(registry: Registry) -> None:
    repository = registry.repository()
    wanted = index(image("a", docker=True), image("b", platform="linux/arm64", docker=True), docker=True)
    registry.push_image(repository, wanted)
    answer = registry.manifest(repository, "v1")
    assert (answer.data, answer.headers["Content-Type"]) == (wanted.raw, DOCKER_LIST)


@everywhere
def test_an_index_whose_child_is_missing_is_refused(registry: Registry) -> None:
    repository, present = registry.repository(), image("present")
    registry.push_image(repository, present)
    wanted = index(present, image("absent", platform="linux/arm64"))
    answer = registry.put_manifest(repository, "v2", wanted.raw, OCI_INDEX)
    assert answer.status in (400, 404)
    assert error_code(answer) == "MANIFEST_BLOB_UNKNOWN"


@everywhere
@pytest.mark.parametrize("raw", [b"not json", b"", b"[]"])
def test_what_is_no_manifest_is_refused(registry: Registry, raw: bytes) -> None:
    answer = registry.put_manifest(registry.repository(), "v1", raw, OCI_MANIFEST)
    assert (answer.status, error_code(answer)) == (400, "MANIFEST_INVALID")


@everywhere
def test_a_manifest_of_another_type_than_it_says_is_refused(registry: Registry) -> None:
    repository, wanted = registry.repository(), image("two types")
    blobs_of(registry, repository, wanted)
    assert registry.put_manifest(repository, "v1", wanted.raw, DOCKER_MANIFEST).status == 400


@everywhere
def test_a_tag_moves_to_the_next_manifest(registry: Registry) -> None:
    repository, first, second = registry.repository(), image("first"), image("second")
    registry.push_image(repository, first)
    registry.push_image(repository, second)
    assert registry.manifest(repository, "v1").data == second.raw
    assert registry.manifest(repository, first.digest).data == first.raw


@everywhere
def test_the_same_manifest_may_come_twice(registry: Registry) -> None:
    repository, wanted = registry.repository(), image("twice")
    registry.push_image(repository, wanted)
    registry.push_image(repository, wanted)
    assert registry.manifest(repository, "v1").data == wanted.raw


@everywhere
def test_tags_are_listed(registry: Registry) -> None:
    repository, wanted = registry.repository(), image("tags")
    for tag in ("v2", "v10", "latest"):
        registry.push_image(repository, wanted, tag=tag)
    answer = registry.ask("GET", f"/v2/{repository}/tags/list")
    listed = json.loads(answer.data)
    assert listed["name"] == repository
    assert sorted(listed["tags"]) == ["latest", "v10", "v2"]


@everywhere
def test_a_digest_is_no_tag(registry: Registry) -> None:
    repository, wanted = registry.repository(), index(image("child"))
    registry.push_image(repository, wanted, tag="only")
    assert json.loads(registry.ask("GET", f"/v2/{repository}/tags/list").data)["tags"] == ["only"]


@everywhere
def test_tags_of_an_unknown_repository_are_404(registry: Registry) -> None:
    answer = registry.ask("GET", "/v2/contract/nobody-made-this/tags/list")
    assert (answer.status, error_code(answer)) == (404, "NAME_UNKNOWN")


@everywhere
def test_a_name_may_have_many_parts(registry: Registry) -> None:
    repository, wanted = registry.repository("registry.example.com/a/b_c/d-e"), image("deep")
    registry.push_image(repository, wanted)
    assert registry.manifest(repository, "v1").data == wanted.raw


@everywhere
def test_a_tag_may_use_every_letter_it_is_allowed(registry: Registry) -> None:
    repository, wanted = registry.repository(), image("tag")
    tag = "V1.2_3-rc." + "x" * 118
    registry.push_image(repository, wanted, tag=tag)
    assert registry.manifest(repository, tag).data == wanted.raw
