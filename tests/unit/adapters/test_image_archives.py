"""Tar archives and layouts from outside: understood when honest, refused by name when not."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from bundler.adapters.docker_archive import DockerArchive
from bundler.adapters.oci_layout import OciLayout
from bundler.adapters.tar_index import open_tar
from bundler.cache import Cache
from bundler.domain.digest import Digest
from bundler.domain.oci import Index, Manifest
from bundler.domain.reference import Reference
from bundler.errors import BundleError, DigestError, FormatError, LimitError, NotFoundUpstreamError
from tests.fakes.images import image, index, layer_bytes

NAME = Reference.parse("local.example/app:1")
LAYERS = [layer_bytes("one", 5000), layer_bytes("two", 700)]


def write_tar(path: Path, files: Mapping[str, bytes], *, form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def special(path: Path, *entries: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for entry in entries:
            archive.addfile(entry, io.BytesIO(bytes(entry.size)))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def config_of(layers: list[bytes], **more: object) -> bytes:
    ids = [str(Digest.of(layer)) for layer in layers]
    document = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ids}}
    return json.dumps(document | more).encode()


def saved(layers: list[bytes] | None = None, **changes: object) -> dict[str, bytes]:
    """The files of a `docker save` archive."""
    contents = LAYERS if layers is None else layers
    config = config_of(LAYERS)
    names = [f"{number}/layer.tar" for number in range(len(contents))]
    listed = {"Config": "config.json", "RepoTags": [str(NAME)], "Layers": names} | changes
    files = {"config.json": config, "manifest.json": json.dumps([listed]).encode()}
    return files | dict(zip(names, contents, strict=True))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_are_found_in_every_form_of_tar(form: int, tmp_path: Path) -> None:
    long = "a" * 90 + "/" + "b" * 90
    longer = "/".join(["c" * 60] * 5)
    files = {"./x": b"1", long: b"22", "empty": b"", "large": layer_bytes("large", 3 << 20)}
    if form != tarfile.USTAR_FORMAT:
        files[longer] = b"333"
    archive = open_tar(write_tar(tmp_path / "a.tar", files, form=form))
    for name, content in files.items():
        assert b"".join(archive.pieces(name)) == content
    assert archive.read("x", limit=10) == b"1"
    assert archive.find("nothing") is None
    archive.close()


def test_links_inside_the_archive_are_followed_and_never_outside(tmp_path: Path) -> None:
    path = special(
        tmp_path / "a.tar",
        entry("d", tarfile.DIRTYPE),
        entry("d/real", size=3),
        entry("e/soft", tarfile.SYMTYPE, "../d/real"),
        entry("e/hard", tarfile.LNKTYPE, "d/real"),
        entry("out", tarfile.SYMTYPE, "/etc/passwd"),
        entry("up", tarfile.SYMTYPE, "../../../etc/passwd"),
        entry("round", tarfile.SYMTYPE, "again"),
        entry("again", tarfile.SYMTYPE, "round"),
    )
    archive = open_tar(path)
    assert archive.find("e/soft") == archive.find("e/hard") == archive.find("d/real")
    assert [archive.find(name) for name in ("out", "up", "round", "d")] == [None] * 4
    archive.close()


def test_bad_archives_are_refused_by_name_and_at_once(tmp_path: Path) -> None:
    good = write_tar(tmp_path / "good.tar", {"a": b"x" * 1000, "b": b"y"}).read_bytes()
    header = bytearray(good[:512])
    huge = bytearray(header)
    huge[124:136] = b"\x80" + (1 << 50).to_bytes(11, "big")
    huge[148:156] = b" " * 8
    huge[148:156] = b"%06o\0 " % sum(huge)
    cases: dict[str, tuple[bytes, type[BundleError]]] = {
        "empty": (b"", FormatError),
        "text": (b"hello" * 300, FormatError),
        "gzip": (gzip.compress(good), FormatError),
        "cut in a header": (good[:700], FormatError),
        "cut in a file": (good[:900], FormatError),
        "without an end": (good[:2560], FormatError),
        "a flipped bit in a header": (good[:3] + b"\1" + good[4:], FormatError),
        "a petabyte": (bytes(huge) + good[512:], FormatError),
        "an extension of 200 MB": (pax_of(200 << 20), LimitError),
        "a malformed extension": (special_header(b"x", b"99 path=a\n"), FormatError),
        "a sparse file": (special_header(b"x", b"25 GNU.sparse.size=10000\n"), FormatError),
        "twice the same": (good[:1536] + good[:1536] + bytes(1024), FormatError),
        "a device": (special(tmp_path / "d", entry("dev", tarfile.CHRTYPE)).read_bytes(), FormatError),
        "a fifo": (special(tmp_path / "d", entry("fifo", tarfile.FIFOTYPE)).read_bytes(), FormatError),
        "a long name": (special(tmp_path / "d", entry("n" * 5000)).read_bytes(), LimitError),
    }
    for name, (content, error) in cases.items():
        path = tmp_path / "bad.tar"
        path.write_bytes(content)
        began = time.monotonic()
        with pytest.raises(error, match=str(path)):
            open_tar(path)
        assert time.monotonic() - began < 1, name
    with pytest.raises(NotFoundUpstreamError):
        open_tar(tmp_path / "absent.tar")
    with pytest.raises(NotFoundUpstreamError):
        open_tar(tmp_path)


def header_of(kind: bytes, size: int) -> bytes:
    head = bytearray(512)
    head[:1] = b"e"
    head[100:108] = b"0000644\0"
    head[124:136] = b"%011o\0" % size
    head[156:157] = kind
    head[257:265] = b"ustar\x0000"
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def pax_of(size: int) -> bytes:
    """An extension header that claims a size; the file is as long as it claims, but of zeros."""
    return header_of(b"x", size) + bytes(size) + bytes(1024)


def special_header(kind: bytes, content: bytes) -> bytes:
    padded = content + bytes(-len(content) % 512)
    return header_of(kind, len(content)) + padded + header_of(b"0", 0) + bytes(1024)


def test_mutated_archives_never_raise_anything_untyped(tmp_path: Path) -> None:
    chance = random.Random(7)
    good = write_tar(tmp_path / "good.tar", saved(), form=tarfile.PAX_FORMAT).read_bytes()
    path = tmp_path / "bad.tar"
    refused = 0
    for _ in range(1500):
        content = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content[: chance.randrange(len(content))] if chance.random() < 0.2 else content)
        try:
            DockerArchive(path, cache=Cache(tmp_path / "cache")).manifest(NAME)
        except BundleError:
            refused += 1
    assert refused > 300


def test_a_saved_image_becomes_an_oci_manifest_of_its_layers(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    source = DockerArchive(write_tar(tmp_path / "a.tar", saved()), cache=cache)
    found = source.manifest(NAME)
    assert [layer.digest for layer in found.layers] == [Digest.of(layer) for layer in LAYERS]
    assert found.config.digest == Digest.of(config_of(LAYERS))
    for blob, content in zip(found.blobs, [config_of(LAYERS), *LAYERS], strict=True):
        got = bytearray()
        source.read_blob(NAME, blob, got.extend, restart=got.clear)
        assert bytes(got) == content
    assert source.manifest(NAME.pinned(found.digest)) == found
    with pytest.raises(NotFoundUpstreamError):
        source.manifest(NAME.pinned(Digest.of(b"other")))


def test_compressed_layers_are_inflated_to_what_the_config_names(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    plain = DockerArchive(write_tar(tmp_path / "a.tar", saved()), cache=cache).manifest(NAME)
    packed = saved([gzip.compress(layer, mtime=0) for layer in LAYERS])
    source = DockerArchive(write_tar(tmp_path / "b.tar", packed), cache=Cache(tmp_path / "other"))
    assert source.manifest(NAME) == plain


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({"x": b""}, FormatError),
        (saved() | {"manifest.json": b"{}"}, FormatError),
        (saved() | {"manifest.json": b"[1]"}, FormatError),
        (saved() | {"manifest.json": b"[" * 5000}, FormatError),
        (saved(Config="../../etc/passwd"), NotFoundUpstreamError),
        (saved(Layers=["0/layer.tar"]), FormatError),
        (saved(Layers=["0/layer.tar", "2/layer.tar"]), NotFoundUpstreamError),
        (saved(Layers=["x"] * 1001), LimitError),
        (saved(RepoTags=["local.example/other:1"]), NotFoundUpstreamError),
        (saved([LAYERS[1], LAYERS[0]]), DigestError),
        (saved([LAYERS[0], LAYERS[1][:-1]]), DigestError),
        (saved([LAYERS[0], gzip.compress(LAYERS[1])[:-9]]), FormatError),
        (saved([LAYERS[0], b"\x1f\x8bnonsense"]), FormatError),
        (saved([LAYERS[0], b"\x28\xb5\x2f\xfd...."]), FormatError),
        (saved() | {"config.json": b"{}"}, FormatError),
        (saved() | {"config.json": b"\x00" * 10}, FormatError),
    ],
)
def test_bad_saved_images_are_refused(files: dict[str, bytes], error: type[BundleError], tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", files)
    with pytest.raises(error):
        DockerArchive(path, cache=Cache(tmp_path / "cache")).manifest(NAME)


def test_a_single_image_without_a_name_serves(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", saved(RepoTags=None))
    assert DockerArchive(path, cache=Cache(tmp_path / "cache")).manifest(NAME).layers


def layout_files(*, name: str = str(NAME)) -> dict[str, bytes]:
    whole = index(image("one"), image("two", platform="linux/arm64"))
    entries = [whole.descriptor(annotations={"org.opencontainers.image.ref.name": name})]
    files = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": entries}).encode(),
    }
    contents = dict(whole.blobs) | {digest: raw for digest, (_, raw) in whole.manifests.items()}
    return files | {f"blobs/sha256/{digest.hex}": content for digest, content in contents.items()}


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("kind", ["folder", "tar"])
@pytest.mark.parametrize("name", [str(NAME), "1"])
def test_layouts_are_read_as_folder_and_as_tar(kind: str, name: str, tmp_path: Path) -> None:
    files = layout_files(name=name)
    path = write_folder(tmp_path / "l", files) if kind == "folder" else write_tar(tmp_path / "l.tar", files)
    source = OciLayout(path)
    whole = source.manifest(NAME)
    assert isinstance(whole, Index)
    child = source.manifest(NAME.pinned(whole.manifests[1].digest))
    assert isinstance(child, Manifest)
    for blob in child.blobs:
        got = bytearray()
        source.read_blob(NAME, blob, got.extend, restart=got.clear)
        assert Digest.of(bytes(got)) == blob.digest
    with pytest.raises(NotFoundUpstreamError):
        source.manifest(Reference.parse("local.example/app:2"))


def test_damaged_and_odd_layouts_are_refused(tmp_path: Path) -> None:
    files = layout_files()
    whole = OciLayout(write_folder(tmp_path / "good", files)).manifest(NAME)
    blob = f"blobs/sha256/{whole.digest.hex}"
    cases: list[tuple[dict[str, bytes], type[BundleError]]] = [
        ({"oci-layout": b'{"imageLayoutVersion":"2.0.0"}'}, FormatError),
        ({"oci-layout": b"x" * 100_000}, LimitError),
        ({"index.json": b"[]"}, FormatError),
        ({"index.json": b'{"manifests":[{}]}'}, FormatError),
        ({"index.json": json.dumps({"manifests": [{"a": 1}] * 10_001}).encode()}, LimitError),
        ({blob: files[blob] + b" "}, DigestError),
    ]
    for number, (changes, error) in enumerate(cases):
        with pytest.raises(error):
            OciLayout(write_folder(tmp_path / str(number), files | changes)).manifest(NAME)
    with pytest.raises(FormatError, match="no oci-layout"):
        OciLayout(write_folder(tmp_path / "empty", {"x": b""})).manifest(NAME)


def test_a_link_in_a_layout_is_not_followed(tmp_path: Path) -> None:
    files = layout_files()
    folder = write_folder(tmp_path / "l", files)
    source = OciLayout(folder)
    whole = source.manifest(NAME)
    place = folder / f"blobs/sha256/{whole.digest.hex}"
    (tmp_path / "elsewhere").write_bytes(place.read_bytes())
    place.unlink()
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError):
        source.manifest(NAME)
