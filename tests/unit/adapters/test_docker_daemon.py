"""What a daemon exports must be the image that was asked for (the SDK's side is played here)."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from bundler.adapters.docker_daemon import DockerDaemon
from bundler.cache import Cache
from bundler.domain.digest import Digest
from bundler.domain.oci import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from bundler.domain.reference import Reference
from bundler.errors import DigestError, FormatError
from tests.fakes.images import layer_bytes

NAME = Reference.parse("local.example/app:1")
LAYER = layer_bytes("layer", 3000)
CONFIG = json.dumps(
    {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(LAYER))]}}
).encode()
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": str(Digest.of(CONFIG)), "size": len(CONFIG)},
        "layers": [{"mediaType": OCI_LAYER, "digest": str(Digest.of(LAYER)), "size": len(LAYER)}],
    }
).encode()
INDEX = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [{"mediaType": OCI_MANIFEST, "digest": str(Digest.of(MANIFEST)), "size": len(MANIFEST)}],
    }
).encode()


def blob_name(content: bytes) -> str:
    return f"blobs/sha256/{Digest.of(content).hex}"


def archive_of(**changes: object) -> dict[str, bytes]:
    listed = {"Config": blob_name(CONFIG), "RepoTags": None, "Layers": [blob_name(LAYER)]} | changes
    blobs = {blob_name(content): content for content in (CONFIG, LAYER, MANIFEST, INDEX)}
    return blobs | {"manifest.json": json.dumps([listed]).encode()}


class FakeDocker:
    """As much of docker.DockerClient as one image needs."""

    def __init__(self, image_id: Digest, files: Mapping[str, bytes]) -> None:
        self.id = str(image_id)
        self.images = self
        self._files = files

    def get(self, name: str) -> FakeDocker:
        assert name == str(NAME)
        return self

    def save(self, chunk_size: int) -> Iterator[bytes]:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name, content in self._files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        packed.seek(0)
        return iter(lambda: packed.read(1000), b"")

    def close(self) -> None:
        pass


def daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image_id: Digest, files: Mapping[str, bytes]
) -> DockerDaemon:
    monkeypatch.setattr(DockerDaemon, "_connect", lambda self: FakeDocker(image_id, files))
    return DockerDaemon({}, cache=Cache(tmp_path))


@pytest.mark.parametrize("named", [CONFIG, MANIFEST, INDEX], ids=["config", "manifest", "index"])
def test_an_image_id_names_a_config_or_with_containerds_store_what_is_above_it(
    named: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = daemon(tmp_path, monkeypatch, Digest.of(named), archive_of())
    assert source.manifest(NAME).config.digest == Digest.of(CONFIG)


def test_another_image_than_the_one_asked_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for image_id, files in (
        (Digest.of(b"another"), archive_of()),
        (Digest.of(INDEX), archive_of() | {blob_name(INDEX): MANIFEST}),
        (Digest.of(MANIFEST), {name: content for name, content in archive_of().items() if content != MANIFEST}),
    ):
        with pytest.raises(DigestError, match="where"):
            daemon(tmp_path, monkeypatch, image_id, files).manifest(NAME)


def test_an_export_of_two_images_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = archive_of()
    files["manifest.json"] = json.dumps(json.loads(files["manifest.json"]) * 2).encode()
    with pytest.raises(FormatError, match="2 images"):
        daemon(tmp_path, monkeypatch, Digest.of(CONFIG), files).manifest(NAME)
