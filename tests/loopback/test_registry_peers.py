"""The client against the real docker-registry, with the real skopeo at the other end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urljoin

import pytest

from bundler.adapters.docker_credentials import DockerCredentials
from bundler.adapters.kept_uploads import KeptUploads
from bundler.adapters.oci_layout import OciLayout
from bundler.adapters.oci_registry import RegistryClient
from bundler.adapters.registry_upload import UploadSettings
from bundler.domain.digest import Digest
from bundler.domain.oci import OCI_MANIFEST, Index, Manifest
from bundler.domain.reference import Reference
from bundler.errors import AccessError, DigestError, MissingBlobError, NotFoundUpstreamError
from bundler.ports import ImageSource
from tests.fakes.images import FakeImage, blob_descriptor, image, index, layer_bytes
from tests.fakes.scripted_server import Wallet, client_of
from tests.peers import StartRegistry

pytestmark = pytest.mark.loopback

PASSWORD = "s3cret-PASSWORD"
HTPASSWD = "user:$2b$04$u/7TEA5nz5EcAGrPs/Ov7.WgpDXSWfQ/4wbrSHm8kgMEyf/gKZmUe\n"  # bcrypt of PASSWORD


def pieces_of(content: bytes) -> Callable[[int], Iterator[memoryview]]:
    return lambda start: iter([memoryview(content)[start:]]) if start < len(content) else iter(())


def push(client: RegistryClient, reference: Reference, pushed: FakeImage) -> None:
    """Blobs first, then children, then the image itself."""
    for content in pushed.blobs.values():
        client.upload_blob(reference, blob_descriptor(content), pieces_of(content))
    for media_type, raw in pushed.manifests.values():
        if raw != pushed.raw:
            client.put_manifest(Reference.parse(f"{reference.name}@{Digest.of(raw)}"), raw, media_type)
    client.put_manifest(reference, pushed.raw, pushed.media_type)


def pull(source: ImageSource, reference: Reference) -> dict[Digest, bytes]:
    """Everything below a reference, by digest."""
    found = source.manifest(reference)
    everything = {found.digest: found.raw}
    children = found.manifests if isinstance(found, Index) else ()
    for child in children:
        everything |= pull(source, reference.pinned(child.digest))
    for blob in found.blobs if isinstance(found, Manifest) else ():
        content = bytearray()
        source.read_blob(reference, blob, content.extend, restart=content.clear)
        everything[blob.digest] = bytes(content)
    return everything


def contents(pushed: FakeImage) -> dict[Digest, bytes]:
    return dict(pushed.blobs) | {digest: raw for digest, (_, raw) in pushed.manifests.items()}


MULTI = index(image("amd"), image("arm", platform="linux/arm64/v8"))
DOCKER = index(image("d-amd", docker=True), image("d-arm", platform="linux/arm64", docker=True), docker=True)
SINGLE = image("single", layers=[layer_bytes("large", 3 << 20), layer_bytes("small", 10)])


@pytest.mark.parametrize("pushed", [MULTI, DOCKER, SINGLE], ids=["oci index", "docker list", "one manifest"])
def test_what_we_push_we_and_skopeo_read_back_byte_for_byte(
    pushed: FakeImage, docker_registry: StartRegistry, skopeo: Callable[..., bytes], tmp_path: Path
) -> None:
    authority = docker_registry()
    reference = Reference.parse(f"{authority}/team/app:1")
    client = client_of()
    assert client.manifest_digest(reference) is None
    push(client, reference, pushed)
    assert client.manifest_digest(reference) == pushed.digest
    assert client.tags(reference) == ("1",)
    assert pull(client, reference) == contents(pushed)
    assert skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{reference}") == pushed.raw
    skopeo("copy", "--all", "--src-tls-verify=false", f"docker://{reference}", f"dir:{tmp_path / 'dir'}")
    for digest, content in pushed.blobs.items():
        assert (tmp_path / "dir" / digest.hex).read_bytes() == content


def test_what_skopeo_pushes_and_lays_out_we_read_byte_for_byte(
    docker_registry: StartRegistry, skopeo: Callable[..., bytes], tmp_path: Path
) -> None:
    authority = docker_registry()
    origin = Reference.parse(f"{authority}/origin:1")
    client = client_of()
    push(client, origin, MULTI)
    copy = Reference.parse(f"{authority}/copy:1")
    insecure = ("--src-tls-verify=false", "--dest-tls-verify=false")
    skopeo("copy", "--all", "--preserve-digests", *insecure, f"docker://{origin}", f"docker://{copy}")
    assert pull(client, copy) == contents(MULTI)

    layout, archive = tmp_path / "layout", tmp_path / "archive.tar"
    skopeo(
        "copy", "--all", "--preserve-digests", "--src-tls-verify=false", f"docker://{origin}", f"oci:{layout}:{origin}"
    )
    skopeo(
        "copy",
        "--all",
        "--preserve-digests",
        "--src-tls-verify=false",
        f"docker://{origin}",
        f"oci-archive:{archive}:1",
    )
    for source in (OciLayout(layout), OciLayout(archive)):
        assert pull(source, origin) == contents(MULTI)
        with pytest.raises(NotFoundUpstreamError, match="holds"):
            source.manifest(Reference.parse(f"{authority}/origin:2"))


def test_a_registry_with_a_password(
    docker_registry: StartRegistry, skopeo: Callable[..., bytes], tmp_path: Path
) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    authority = docker_registry(auth={"htpasswd": {"realm": "x", "path": str(tmp_path / "htpasswd")}})
    auth_file = tmp_path / "auth.json"
    skopeo("login", "--tls-verify=false", f"--authfile={auth_file}", "-u", "user", "-p", PASSWORD, authority)
    reference = Reference.parse(f"{authority}/app:1")
    client = client_of(provider=DockerCredentials({"REGISTRY_AUTH_FILE": str(auth_file)}))
    push(client, reference, SINGLE)
    assert pull(client, reference) == contents(SINGLE)
    with pytest.raises(AccessError) as caught:
        client_of(provider=Wallet("wrong")).manifest(reference)
    assert "log in" in caught.value.hint.lower()
    with pytest.raises(AccessError):
        client_of().manifest(reference)


def test_an_upload_that_another_process_began_goes_on_in_chunks(docker_registry: StartRegistry, tmp_path: Path) -> None:
    content, begun, began_at = layer_bytes("large", 3_500_000), 500_000, list[int]()
    authority, blob, kept = docker_registry(), blob_descriptor(content), KeptUploads(tmp_path)
    place = part_of_an_upload(authority, content[:begun])
    kept.keep(f"http://{authority}/app@{blob.digest}", place)
    client = client_of(uploads=UploadSettings(chunk_bytes=1 << 20, resume_bytes=1 << 20, kept=kept))

    def reopen(start: int) -> Iterator[memoryview]:
        began_at.append(start)
        yield memoryview(content)[start:]

    name, held = Reference.parse(f"{authority}/app"), bytearray()
    assert client.upload_blob(name, blob, reopen) is False
    assert began_at == [0, *range(begun, len(content), 1 << 20)]
    client.read_blob(name, blob, held.extend, restart=held.clear)
    assert held == content


def part_of_an_upload(authority: str, content: bytes) -> str:
    """Send the first bytes of a blob; return where the upload goes on."""
    connection = HTTPConnection(authority, timeout=30)
    place = f"http://{authority}/v2/app/blobs/uploads/"
    try:
        for method, body in (("POST", b""), ("PATCH", content)):
            headers = {"Content-Type": "application/octet-stream"}
            connection.request(method, place.removeprefix(f"http://{authority}"), body, headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 202
            place = urljoin(place, str(answer.headers["Location"]))
    finally:
        connection.close()
    return place


def test_a_blob_is_mounted_from_a_neighbour(docker_registry: StartRegistry) -> None:
    authority = docker_registry()
    client = client_of()
    blob = layer_bytes("mounted", 100_000)
    first, second = Reference.parse(f"{authority}/first"), Reference.parse(f"{authority}/second")
    assert client.upload_blob(first, blob_descriptor(blob), pieces_of(blob)) is False

    def unread(start: int) -> Iterator[memoryview]:
        raise AssertionError(f"asked for the bytes from {start} on")

    assert client.upload_blob(second, blob_descriptor(blob), unread, mount_from="first") is True
    assert client.has_blob(second, Digest.of(blob))
    assert client.upload_blob(second, blob_descriptor(blob[1:]), pieces_of(blob[1:]), mount_from="first") is False


def test_what_is_not_there_is_named(docker_registry: StartRegistry) -> None:
    authority = docker_registry()
    client = client_of()
    with pytest.raises(NotFoundUpstreamError, match=f"{authority}/app:1"):
        client.manifest(Reference.parse(f"{authority}/app:1"))
    with pytest.raises(MissingBlobError):
        client.put_manifest(Reference.parse(f"{authority}/app:1"), SINGLE.raw, OCI_MANIFEST)
    with pytest.raises(NotFoundUpstreamError):
        client.read_blob(Reference.parse(f"{authority}/app"), blob_descriptor(b"x"), bytearray().extend, restart=list)


def test_damage_in_the_registrys_store_is_noticed(docker_registry: StartRegistry, tmp_path: Path) -> None:
    authority = docker_registry()
    reference = Reference.parse(f"{authority}/app:1")
    client = client_of()
    push(client, reference, SINGLE)
    large = max(SINGLE.blobs, key=lambda digest: len(SINGLE.blobs[digest]))
    [stored] = tmp_path.rglob(f"{large.hex}/data")
    damaged = bytearray(stored.read_bytes())
    damaged[12345] ^= 1
    stored.write_bytes(damaged)
    with pytest.raises(DigestError, match=str(large)):
        pull(client, reference)


def test_a_chart_goes_through_oras_and_our_client(
    docker_registry: StartRegistry, skopeo: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests

    from bundler.adapters.oras_artifacts import ArtifactRegistry, pull_chart, push_chart

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("requests was used")

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", refuse)
    authority = docker_registry()
    reference = Reference.parse(f"{authority}/charts/demo:1.0.0")
    about = json.dumps({"apiVersion": "v2", "name": "demo", "version": "1.0.0"}).encode()
    client = client_of()
    digest = push_chart(client, reference, config=about, content=b"a chart")
    assert push_chart(client, reference, config=about, content=b"a chart") == digest
    chart = pull_chart(client, reference)
    assert (chart.config, chart.content, chart.manifest.digest) == (about, b"a chart", digest)
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{reference}")
    assert Digest.of(raw) == digest
    assert ArtifactRegistry(client).get_manifest(str(reference)) == json.loads(raw)


def test_oras_has_no_way_past_our_client() -> None:
    from bundler.adapters.oras_artifacts import ArtifactRegistry

    registry = ArtifactRegistry(client_of())
    target = "127.0.0.1:1/app:1"
    for attempt in (
        lambda: registry.get_blob(target, str(SINGLE.digest)),
        lambda: registry.get_tags(target),
        lambda: registry.delete_tag(target, "1"),
        lambda: registry.pull(target),
        lambda: registry.session.get("http://127.0.0.1:1/"),
        lambda: registry.auth.authenticate_request(None),
    ):
        with pytest.raises(RuntimeError, match="oras tried"):
            attempt()
