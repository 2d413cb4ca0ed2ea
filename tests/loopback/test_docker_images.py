"""Images that only a Docker daemon or a `docker save` archive has, with Debian's real dockerd."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bundler.adapters.docker_archive import DockerArchive
from bundler.adapters.docker_daemon import DockerDaemon
from bundler.cache import Cache
from bundler.domain.digest import Digest
from bundler.domain.oci import OCI_LAYER, Manifest, parse_config_platform
from bundler.domain.reference import Reference
from bundler.errors import LocalResourceError, MissingToolError, NotFoundUpstreamError
from tests.fakes.images import layer_bytes
from tests.fakes.scripted_server import client_of
from tests.peers import StartRegistry

if TYPE_CHECKING:
    from docker import DockerClient

pytestmark = pytest.mark.loopback


def tar_of(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture(scope="session")
def docker_client(dockerd: str) -> Iterator[DockerClient]:
    import docker

    client = docker.DockerClient(base_url=dockerd)
    yield client
    client.close()


@pytest.fixture
def image_name(docker_client: DockerClient, request: pytest.FixtureRequest) -> Reference:
    """An image of two layers and a config of its own, built from nothing in the daemon."""
    name = f"local.example/{request.node.name.lower()[:60].rstrip('-_[]')}:1"
    context = tar_of(
        Dockerfile=b'FROM scratch\nCOPY one /one\nCOPY two /two\nENTRYPOINT ["/one"]\n',
        one=layer_bytes(name, 200_000),
        two=layer_bytes(name + "2", 3_000_000),
    )
    docker_client.images.build(fileobj=io.BytesIO(context), custom_context=True, tag=name)
    return Reference.parse(name)


def daemon(dockerd: str, cache: Path) -> DockerDaemon:
    return DockerDaemon({"DOCKER_HOST": dockerd}, cache=Cache(cache))


def read(source: DockerDaemon | DockerArchive, reference: Reference, manifest: Manifest) -> list[bytes]:
    contents = []
    for blob in manifest.blobs:
        content = bytearray()
        source.read_blob(reference, blob, content.extend, restart=content.clear)
        contents.append(bytes(content))
    return contents


def test_an_image_of_the_daemon_is_pinned_with_the_same_layers(
    dockerd: str, docker_client: DockerClient, image_name: Reference, tmp_path: Path
) -> None:
    image = docker_client.images.get(str(image_name))
    source = daemon(dockerd, tmp_path / "cache")
    found = source.manifest(image_name)
    assert str(source.image_id(image_name)) == image.id == str(found.config.digest)
    assert [str(layer.digest) for layer in found.layers] == image.attrs["RootFS"]["Layers"]
    assert {layer.media_type for layer in found.layers} == {OCI_LAYER}
    config, *layers = read(source, image_name, found)
    assert parse_config_platform(config, subject="x").os == "linux"
    for layer, name in zip(layers, ("one", "two"), strict=True):
        with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
            assert archive.getnames() == [name]


def test_the_same_image_gets_the_same_digest_from_a_fresh_cache_and_from_the_kept_one(
    dockerd: str, image_name: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from docker.models.images import Image

    first = daemon(dockerd, tmp_path / "one").manifest(image_name)
    assert daemon(dockerd, tmp_path / "two").manifest(image_name) == first

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the image was exported again")

    monkeypatch.setattr(Image, "save", refuse)
    assert daemon(dockerd, tmp_path / "one").manifest(image_name) == first


def test_a_lost_or_damaged_cache_entry_is_exported_again(dockerd: str, image_name: Reference, tmp_path: Path) -> None:
    source, cache = daemon(dockerd, tmp_path), Cache(tmp_path)
    found = source.manifest(image_name)
    before = read(source, image_name, found)
    cache.drop(found.layers[0].digest)
    damaged = cache.path(found.layers[1].digest)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert read(source, image_name, found) == before
    cache.drop(found.config.digest)
    assert source.manifest(image_name) == found


def test_an_image_that_was_replaced_is_another_one(
    dockerd: str, docker_client: DockerClient, image_name: Reference, tmp_path: Path
) -> None:
    source = daemon(dockerd, tmp_path)
    pinned = image_name.pinned(source.manifest(image_name).digest)
    assert source.manifest(pinned).digest == pinned.digest
    docker_client.api.import_image_from_data(tar_of(other=b"x"), repository=image_name.name, tag="1")
    with pytest.raises(NotFoundUpstreamError, match=str(source.image_id(image_name))):
        source.manifest(pinned)


def test_an_imported_image_reaches_a_registry_with_its_layers(
    dockerd: str,
    docker_client: DockerClient,
    docker_registry: StartRegistry,
    skopeo: Callable[..., bytes],
    tmp_path: Path,
) -> None:
    layer = tar_of(file=layer_bytes("imported", 500_000))
    docker_client.api.import_image_from_data(layer, repository="local.example/imported", tag="1")
    reference = Reference.parse("local.example/imported:1")
    source = daemon(dockerd, tmp_path / "cache")
    found = source.manifest(reference)
    assert [blob.digest for blob in found.layers] == [Digest.of(layer)]
    target = Reference.parse(f"{docker_registry()}/imported:1")
    client = client_of()
    for blob, content in zip(found.blobs, read(source, reference, found), strict=True):
        client.upload_blob(target, blob, lambda start, content=content: iter([memoryview(content)[start:]]))
    client.put_manifest(target, found.raw, found.media_type)
    skopeo("copy", "--src-tls-verify=false", f"docker://{target}", f"dir:{tmp_path / 'dir'}")
    assert (tmp_path / "dir" / Digest.of(layer).hex).read_bytes() == layer
    image = docker_client.images.get(str(reference))
    assert str(Digest.of((tmp_path / "dir" / found.config.digest.hex).read_bytes())) == image.id


def test_docker_save_and_skopeo_archives_give_the_daemons_manifest(
    dockerd: str, docker_client: DockerClient, image_name: Reference, skopeo: Callable[..., bytes], tmp_path: Path
) -> None:
    expected = daemon(dockerd, tmp_path / "cache").manifest(image_name)
    saved, copied = tmp_path / "saved.tar", tmp_path / "copied.tar"
    saved.write_bytes(b"".join(docker_client.images.get(str(image_name)).save(named=str(image_name))))
    daemon_host = f"--src-daemon-host={dockerd}"
    skopeo("copy", daemon_host, f"docker-daemon:{image_name}", f"docker-archive:{copied}:{image_name}")
    for number, path in enumerate((saved, copied)):
        source = DockerArchive(path, cache=Cache(tmp_path / f"cache-{number}"))
        assert source.manifest(image_name).layers == expected.layers
        assert (
            read(source, image_name, expected)[1:]
            == read(daemon(dockerd, tmp_path / "cache"), image_name, expected)[1:]
        )
        with pytest.raises(NotFoundUpstreamError, match=image_name.repository):
            source.manifest(Reference.parse("local.example/other:1"))
    assert DockerArchive(saved, cache=Cache(tmp_path / "cache-0")).manifest(image_name) == expected


def test_an_image_that_the_daemon_does_not_have_is_named(dockerd: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundUpstreamError, match=r"local\.example/nobody:1: the Docker daemon has no such image"):
        daemon(dockerd, tmp_path).manifest(Reference.parse("local.example/nobody:1"))


def test_a_daemon_that_does_not_run_is_a_local_error_with_a_hint(tmp_path: Path) -> None:
    source = daemon(f"unix://{tmp_path}/none.sock", tmp_path)
    with pytest.raises(LocalResourceError, match=r"does not run: there is no .*none\.sock") as caught:
        source.manifest(Reference.parse("local.example/app:1"))
    assert "DOCKER_HOST" in caught.value.hint


def test_without_the_sdk_the_extra_to_install_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(MissingToolError) as caught:
        DockerDaemon({}, cache=Cache(tmp_path)).manifest(Reference.parse("local.example/app:1"))
    assert "pip install 'eks-bundler[build]'" in caught.value.hint
