"""What a bake uploads, and digests of folders."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from bundler.archive.image_archive import image_archive
from bundler.archive.payload import SCRIPTS, Payload, folder_digest, write_payload
from bundler.data import data_folder
from bundler.domain.digest import Digest
from bundler.domain.preload import Preload, plan_preload
from bundler.errors import BundleError, DefinitionError, DigestError, LocalResourceError, LockChangedError, PolicyError
from tests.fakes.images import image, index
from tests.fakes.preloads import GOV, Contents, ami_of, lock_of, locked

AMD, ARM = image("cni"), image("cni", platform="linux/arm64")
WHOLE = index(AMD, ARM)
LOCK = lock_of(locked("registry.k8s.io/cni:v1", WHOLE, AMD, ARM), targets=(GOV,))
(CNI,) = plan_preload(ami_of(LOCK), LOCK)
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n"


def test_an_image_archive_is_an_oci_layout_of_one_platform() -> None:
    raw = b"".join(image_archive(CNI, Contents(WHOLE)))
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        members = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    assert json.loads(members.pop("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads(members.pop("index.json"))["manifests"]
    assert entry["digest"] == str(WHOLE.digest)
    assert entry["annotations"]["io.containerd.image.name"] == CNI.names[0]
    wanted = {WHOLE.digest, AMD.digest, *AMD.blobs}
    assert {path: Digest.of(content) for path, content in members.items()} == {
        f"blobs/sha256/{digest.hex}": digest for digest in wanted
    }


def test_an_image_archive_has_the_same_bytes_each_time() -> None:
    raw = b"".join(image_archive(CNI, Contents(WHOLE)))
    assert raw == b"".join(image_archive(CNI, Contents(WHOLE)))


def test_an_image_archive_is_never_whole_in_memory() -> None:
    big = image("big", layers=[bytes(1 << 20)])
    lock = lock_of(locked("registry.k8s.io/big:v1", big))
    (preload,) = plan_preload(ami_of(lock), lock)
    assert max(map(len, image_archive(preload, Contents(big)))) <= 1024


@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw + b"x", lambda raw: b"x" + raw[1:]])
def test_content_that_is_not_what_its_digest_says_ends_the_archive(change: object) -> None:
    contents = Contents(WHOLE)
    layer = CNI.manifest.blobs[1].digest
    contents.blobs[layer] = change(contents.blobs[layer])  # type: ignore[operator]
    with pytest.raises(DigestError, match=str(layer)):
        list(image_archive(CNI, contents))


def payload(folder: Path, *preloads: Preload, **more: object) -> Payload:
    """A payload with scripts of its own; keys of the AMI as they are given."""
    scripts = folder / "scripts"
    scripts.mkdir(exist_ok=True)
    for name in SCRIPTS:
        (scripts / name).write_text(name)
    paths = {key: more.pop(key) for key in ("certificates_file", "hosts_folder") if key in more}
    return Payload(
        ami=ami_of(LOCK, **more),
        preloads=preloads,
        scripts=scripts,
        certificates=paths.get("certificates_file"),  # type: ignore[arg-type]
        hosts=paths.get("hosts_folder"),  # type: ignore[arg-type]
    )


def hosts(folder: Path, path: str = "mirror.internal:5000/hosts.toml") -> Path:
    file = folder / "hosts" / path
    file.parent.mkdir(parents=True)
    file.write_text("server = 'https://mirror.internal:5000'\n")
    return folder / "hosts"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_payload_holds_scripts_images_certificates_and_hosts(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(CERTIFICATE)
    given = payload(
        tmp_path,
        CNI,
        certificates=Digest.of(CERTIFICATE),
        registry_hosts=folder_digest(hosts(tmp_path)),
        certificates_file=tmp_path / "ca.pem",
        hosts_folder=tmp_path / "hosts",
    )
    write_payload(tmp_path / "payload", given, read=Contents(WHOLE))
    archive = f"{WHOLE.digest.hex}.tar"
    assert files(tmp_path / "payload") == {
        *SCRIPTS,
        "bundle-release",
        "images.list",
        f"images/{archive}",
        "certificates.pem",
        "hosts/mirror.internal:5000/hosts.toml",
    }
    line = "\t".join((archive, str(WHOLE.digest), *CNI.names))
    assert (tmp_path / "payload" / "images.list").read_text() == f"{line}\n"


def test_a_payload_is_written_again_with_the_same_digest_and_nothing_of_before(tmp_path: Path) -> None:
    folder = tmp_path / "payload"
    write_payload(folder, payload(tmp_path, CNI), read=Contents(WHOLE))
    before = folder_digest(folder)
    (folder / "images" / "old.tar").write_bytes(b"")
    write_payload(folder, payload(tmp_path, CNI), read=Contents(WHOLE))
    assert folder_digest(folder) == before
    write_payload(folder, payload(tmp_path), read=Contents())
    assert not list((folder / "images").iterdir())


def test_our_own_scripts_are_where_a_payload_takes_them_from() -> None:
    assert all((data_folder("packer") / "al2023" / name).is_file() for name in SCRIPTS)


def test_a_release_says_what_it_was_made_from_and_nothing_that_a_shell_would_evaluate(tmp_path: Path) -> None:
    source = {"id": "ami-0123456789abcdef0", "owner": "123456789012", "region": "us-east-1", "name": "x"}
    given = payload(tmp_path, source={**source, "release": "1.34.2-$(id)"})
    write_payload(tmp_path / "payload", given, read=Contents())
    assert (tmp_path / "payload" / "bundle-release").read_text() == (
        'NAME="workers"\nARCHITECTURE="amd64"\nKIND="bake"\nSOURCE_AMI="ami-0123456789abcdef0"\n'
    )


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (CERTIFICATE + b"changed", LockChangedError),
        (CERTIFICATE + b"-----BEGIN EC PRIVATE KEY-----\n", PolicyError),
        (b"nothing", DefinitionError),
        (None, LocalResourceError),
    ],
)
def test_certificates_that_are_not_those_of_the_lock_or_hold_a_key_are_refused(
    content: bytes | None, error: type[BundleError], tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)
    given = payload(tmp_path, certificates=Digest.of(CERTIFICATE), certificates_file=tmp_path / "ca.pem")
    with pytest.raises(error):
        write_payload(tmp_path / "payload", given, read=Contents())
    assert not (tmp_path / "payload").exists()


def test_what_the_lock_has_and_nobody_gives_is_missed(tmp_path: Path) -> None:
    for key in ("certificates", "registry_hosts"):
        with pytest.raises(LockChangedError, match="is absent"):
            write_payload(tmp_path / "payload", payload(tmp_path, **{key: Digest.of(b"")}), read=Contents())


@pytest.mark.parametrize("path", ["hosts.toml", "a/b/hosts.toml", "a b/hosts.toml", "a/other.toml", ".a/hosts.toml"])
def test_registry_hosts_are_a_folder_of_hosts(path: str, tmp_path: Path) -> None:
    folder = hosts(tmp_path, path)
    given = payload(tmp_path, registry_hosts=folder_digest(folder), hosts_folder=folder)
    with pytest.raises(DefinitionError, match=r"HOST/hosts\.toml"):
        write_payload(tmp_path / "payload", given, read=Contents())


def test_a_folders_digest_is_that_of_paths_and_contents_alone(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, names in ((one, ("b/c", "a", "d")), (other, ("d", "a", "b/c"))):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
    (other / "a").chmod(0o755)
    (other / "empty").mkdir()
    os.utime(other / "d", (1, 1))
    assert folder_digest(one) == folder_digest(other)
    seen = {folder_digest(one)}
    (one / "a").write_text("changed")
    seen.add(folder_digest(one))
    (one / "a").rename(one / "e")
    seen.add(folder_digest(one))
    assert len(seen) == 3


def test_links_devices_and_odd_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")
    for number, make in enumerate(
        (
            lambda path: path.symlink_to(tmp_path / "outside"),
            lambda path: path.symlink_to(tmp_path),
            os.mkfifo,
            lambda path: Path(os.fsdecode(os.fsencode(path) + b"\xff")).write_text(""),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        make(folder / "x")
        with pytest.raises(DefinitionError, match="neither a file nor a folder"):
            folder_digest(folder)


def test_what_is_no_folder_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="is not a folder"):
        folder_digest(tmp_path / "absent")
