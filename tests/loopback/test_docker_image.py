"""An image that exists only in a Docker daemon, from `bundle lock` to a registry, as processes."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.images import layer_bytes
from tests.journey import Workspace, small_definition, workspace
from tests.peers import StartRegistry

if TYPE_CHECKING:
    from docker import DockerClient

pytestmark = pytest.mark.loopback
IMAGE = "local.example/team/only-here:1"
ENTRY = f"  - {{image: '{IMAGE}', reason: a test, from: {{dockerDaemon: true}}, platforms: [linux/amd64]}}\n"


@pytest.fixture(scope="module")
def client(dockerd: str) -> Iterator[DockerClient]:
    import docker

    made = docker.DockerClient(base_url=dockerd)
    yield made
    made.close()


def make_image(client: DockerClient, seed: str) -> Any:
    """Give the daemon an image of two layers under the name; return it."""
    files = {
        "Dockerfile": b"FROM scratch\nCOPY one /one\nCOPY two /two\nENTRYPOINT ['/one']\n",
        "one": layer_bytes(seed, 100_000),
        "two": layer_bytes(f"{seed} two", 1_500_000),
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    packed.seek(0)
    client.images.build(fileobj=packed, custom_context=True, tag=IMAGE)
    return client.images.get(IMAGE)


@pytest.fixture
def image(client: DockerClient) -> Any:
    return make_image(client, "first")


@pytest.fixture
def place(dockerd: str, image: Any, tmp_path: Path) -> Workspace:
    """A workspace whose bundle is locked."""
    text = small_definition(tmp_path / "in", images=1).replace("images:\n", f"images:\n{ENTRY}")
    made = workspace(tmp_path / "in", None, text)
    made.environment = {**made.environment, "DOCKER_HOST": dockerd}
    made.bundle("lock")
    return made


def locked(place: Workspace) -> dict[str, Any]:
    lock = json.loads((place.folder / "bundle.lock.json").read_bytes())
    found: dict[str, Any] = next(image for image in lock["images"] if image["reference"] == IMAGE)
    return found


def cached(place: Workspace, digest: str) -> Path:
    return place.folder / "cache" / "blobs" / "sha256" / digest.removeprefix("sha256:")


def told(place: Workspace, *arguments: str, expect: int, **more: str) -> str:
    done = place.bundle(*arguments, expect=expect, **more)
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def test_an_image_of_the_daemon_is_pinned_carried_and_pushed_with_the_same_layers(
    place: Workspace, image: Any, docker_registry: StartRegistry, skopeo: Callable[..., bytes]
) -> None:
    pinned = locked(place)
    assert (pinned["origin"], pinned["imageId"]) == ("docker", image.id)
    archive, address = place.build(), docker_registry()
    place.bundle("push", archive.name, f"{address}/team", "--trust", "trust")
    name = f"docker://{address}/team/{IMAGE}"
    config = json.loads(skopeo("inspect", "--config", "--tls-verify=false", name))
    raw = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", name))
    layers = image.attrs["RootFS"]["Layers"]
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in raw["layers"]] == layers
    assert raw["config"]["digest"] == image.id
    shown = json.loads(place.bundle("inspect", archive.name, "--trust", "trust", "-o", "json").stdout)
    assert [item["origin"] for item in shown["images"]] == ["docker", "layout"]


def test_build_needs_no_daemon_while_the_cache_has_everything(place: Workspace) -> None:
    place.bundle("build", "--key", "keys/bundle.key", DOCKER_HOST="unix:///nowhere.sock")


def test_what_the_cache_lost_is_exported_again(place: Workspace) -> None:
    whole = place.build().read_bytes()
    (manifest,) = locked(place)["manifests"]
    for lost in ([manifest], manifest["blobs"][:1], manifest["blobs"][1:]):
        (place.folder / "small-1.tar").unlink()
        for blob in lost:
            cached(place, blob["digest"]).unlink()
        assert place.build().read_bytes() == whole


def test_an_unchanged_image_leaves_the_lock_even_after_a_lost_cache(place: Workspace) -> None:
    lock = place.folder / "bundle.lock.json"
    before = lock.read_bytes()
    shutil.rmtree(place.folder / "cache")
    assert "unchanged" in place.bundle("lock").stdout
    assert lock.read_bytes() == before


def test_a_changed_image_id_is_a_moved_tag(place: Workspace, image: Any, client: DockerClient) -> None:
    lock, other = place.folder / "bundle.lock.json", make_image(client, "second")
    before = lock.read_bytes()
    assert other.id != image.id
    said = told(place, "lock", expect=2)
    assert "1 image moved upstream" in said
    assert re.search(rf"{re.escape(IMAGE)}\s+was [0-9a-f]{{12}}, is [0-9a-f]{{12}}", said)
    assert "bundle lock --update" in said
    assert lock.read_bytes() == before
    done = place.bundle("lock", "--update").stdout
    assert re.search(rf"^~ [0-9a-f]{{12}}  {re.escape(IMAGE)} \(was ", done, re.MULTILINE)
    assert locked(place)["imageId"] == other.id


@pytest.mark.parametrize("lost", ["manifest", "config", "layer"])
def test_without_daemon_and_cache_entry_the_image_id_is_named(place: Workspace, image: Any, lost: str) -> None:
    (manifest,) = locked(place)["manifests"]
    digest = {"manifest": manifest, "config": manifest["blobs"][0], "layer": manifest["blobs"][1]}[lost]["digest"]
    cached(place, digest).unlink()
    said = told(place, "build", "--key", "keys/bundle.key", expect=6, DOCKER_HOST=f"unix://{place.folder}/gone.sock")
    assert f"{IMAGE} cause: the exported image {image.id} is not in the cache, and cannot be exported again" in said
    assert "next: Start the daemon, or say where it is: DOCKER_HOST=" in said
    assert not (place.folder / "small-1.tar").exists()
    place.build()


def test_an_image_that_was_replaced_cannot_fill_a_lost_cache_entry(
    place: Workspace, image: Any, client: DockerClient
) -> None:
    (manifest,) = locked(place)["manifests"]
    cached(place, manifest["blobs"][1]["digest"]).unlink()
    make_image(client, "second")
    said = told(place, "build", "--key", "keys/bundle.key", expect=2)
    assert f"the exported image {image.id} is not in the cache" in said
    assert "bundle lock --update" in said


def test_an_image_that_the_daemon_never_had_is_named(place: Workspace) -> None:
    definition = place.folder / "bundle.yaml"
    definition.write_text(definition.read_text().replace("only-here:1", "nobody:1"))
    said = told(place, "lock", expect=2)
    assert "local.example/team/nobody:1 cause: the Docker daemon has no such image" in said
    assert "next: " in said


def test_lock_without_a_daemon_says_how_to_name_one(place: Workspace) -> None:
    said = told(place, "lock", expect=6, DOCKER_HOST=f"unix://{place.folder}/gone.sock")
    assert "Docker daemon cause: does not run" in said
    assert "DOCKER_HOST=unix:///" in said
