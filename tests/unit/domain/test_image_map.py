"""Names of private repositories, and what each reference in a chart means."""

from __future__ import annotations

import pytest

from bundler.domain.blob import Blob
from bundler.domain.digest import Digest
from bundler.domain.image_map import ANY_ECR, PrivateRegistry, check_names, image_map
from bundler.domain.lock import Lock, LockedImage, LockedManifest
from bundler.domain.oci import OCI_INDEX, OCI_MANIFEST, Platform
from bundler.domain.reference import Reference
from bundler.errors import DefinitionError, FormatError

ECR = PrivateRegistry(host="123456789012.dkr.ecr.eu-central-1.amazonaws.com", prefix="eks")
AMD64 = Platform(os="linux", architecture="amd64")


def locked(text: str) -> LockedImage:
    manifest = LockedManifest(
        media_type=OCI_MANIFEST, digest=Digest.of(f"{text} manifest".encode()), size=1, platform=AMD64, blobs=()
    )
    return LockedImage(
        reference=Reference.parse(text),
        target=Blob(media_type=OCI_INDEX, digest=Digest.of(f"{text} derived".encode()), size=1),
        form="derived",
        upstream=Blob(media_type=OCI_INDEX, digest=Digest.of(f"{text} upstream".encode()), size=1),
        manifests=(manifest,),
        origin="registry",
    )


def lock_of(*references: str) -> Lock:
    return Lock(
        name="test",
        sequence=1,
        created="2026-01-01T00:00:00Z",
        definition=Digest.of(b""),
        kubernetes_version="1.36",
        platforms=(AMD64,),
        operator_platforms=(AMD64,),
        images=tuple(locked(reference) for reference in references),
    )


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("busybox:1", "eks/docker.io/library/busybox:1"),
        ("localhost:5000/a/b:v1", "eks/localhost-5000/a/b:v1"),
        (
            "602401143452.dkr.ecr.us-west-2.amazonaws.com/eks/pause:3.10",
            "eks/602401143452.dkr.ecr.us-west-2.amazonaws.com/eks/pause:3.10",
        ),
    ],
)
def test_a_private_repository_is_prefix_source_host_and_path(source: str, target: str) -> None:
    assert str(ECR.image(Reference.parse(source))) == f"{ECR.host}/{target}"


@pytest.mark.parametrize(
    ("text", "host", "prefix"),
    [
        ("registry.example/team/a", "registry.example", "team/a"),
        ("127.0.0.1:5000/team/", "127.0.0.1:5000", "team"),
        ("registry", "registry", ""),
        ("[::1]:5000/x", "[::1]:5000", "x"),
    ],
)
def test_a_registry_and_its_prefix_are_read(text: str, host: str, prefix: str) -> None:
    assert PrivateRegistry.parse(text) == PrivateRegistry(host=host, prefix=prefix)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/x",
        "https://registry.example/x",
        "user:hunter2@registry.example/x",
        "user:hunter2/y@registry.example/x",
        "registry.example:99999/x",
        "registry.example/Team",
        "registry.example/a//b",
        "registry.example?x/y",
    ],
)
def test_what_is_no_registry_and_prefix_is_refused_without_a_password(text: str) -> None:
    with pytest.raises(FormatError, match=r"is not HOST\[:PORT\]/PREFIX") as caught:
        PrivateRegistry.parse(text)
    assert "hunter2" not in f"{caught.value}"


def test_charts_have_their_own_folder() -> None:
    assert str(ECR.chart("charts/web:1.0.0_build.1")) == f"{ECR.host}/eks/charts/web:1.0.0_build.1"


def test_two_sources_of_one_private_repository_are_refused() -> None:
    lock = lock_of("registry.io:5000/a/b:1", "registry.io-5000/a/b:1")
    with pytest.raises(DefinitionError, match=r"registry\.io-5000/a/b and registry\.io:5000/a/b would share"):
        check_names(lock, ECR, source="bundle.lock.json")


def test_two_tags_of_one_image_share_their_repository() -> None:
    check_names(lock_of("quay.io/a/b:1", "quay.io/a/b:2"), ECR, source="bundle.lock.json")


def test_a_name_that_ecr_does_not_take_is_refused_with_its_reason() -> None:
    with pytest.raises(DefinitionError, match="characters; ECR takes at most 256"):
        check_names(lock_of("quay.io/" + "a" * 245 + ":1"), ECR, source="bundle.lock.json")
    with pytest.raises(DefinitionError, match="a name that ECR does not take"):
        check_names(lock_of("quay.io/a__b:1"), ECR, source="bundle.lock.json")


def test_other_registries_take_what_ecr_does_not() -> None:
    check_names(lock_of("quay.io/a__b:1"), PrivateRegistry(host="harbor.example", prefix="eks"), source="x.tar")


def test_what_fits_below_no_prefix_may_not_fit_below_a_sites() -> None:
    with pytest.raises(DefinitionError, match="ECR takes at most 256"):
        check_names(lock_of("quay.io/" + "a" * 160 + ":1"), ANY_ECR, source="bundle.lock.json")


def test_tag_and_every_digest_of_an_image_mean_its_private_reference() -> None:
    lock = lock_of("quay.io/a/b:1")
    private = ECR.image(Reference.parse("quay.io/a/b:1")).pinned(lock.images[0].target.digest)
    images = image_map(lock, {"quay.io/a/b:1": private}, host=ECR.host)
    for text in (
        "quay.io/a/b:1",
        *(f"quay.io/a/b@{Digest.of(f'quay.io/a/b:1 {kind}'.encode())}" for kind in ("derived", "upstream", "manifest")),
    ):
        assert images.target(Reference.parse(text)) == private
    for text in ("quay.io/a/b:2", "quay.io/a/c:1", f"quay.io/a/b@{Digest.of(b'other')}"):
        assert images.target(Reference.parse(text)) is None
    assert images.holds(private)
    assert not images.holds(ECR.image(Reference.parse("quay.io/a/b:1")))
