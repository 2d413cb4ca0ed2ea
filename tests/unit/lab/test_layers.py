from __future__ import annotations

import gzip
import io
import tarfile

import pytest
import zstandard

from bundler.domain.digest import Digest
from bundler.lab.layers import Compression, Content, Entry, Layer, gzip_stored, tar_stream, zstd_raw

SIZES = [0, 1, 511, 512, 65_535, 65_536, 131_072, 131_073, 300_000]


def entries(size: int) -> tuple[Entry, ...]:
    return (
        Entry(path="usr"),
        Entry(path="usr/program", content=Content.of(bytes(range(256)) * (size // 256 + 1))),
        Entry(path="etc-note", mode=0o644, content=Content.of(b"note\n")),
        Entry(path="bin", mode=0o777, link="usr"),
    )


@pytest.mark.parametrize("size", SIZES)
def test_gzip_of_stored_blocks_is_gzip(size: int) -> None:
    content = bytes(size)
    assert gzip.decompress(b"".join(gzip_stored([content[:7], content[7:]]))) == content


@pytest.mark.parametrize("size", SIZES)
def test_zstd_of_raw_blocks_is_zstd_with_its_size_stated(size: int) -> None:
    content = bytes(size)
    packed = b"".join(zstd_raw([content[:7], content[7:]], size))
    assert zstandard.ZstdDecompressor().decompress(packed) == content
    assert zstandard.frame_content_size(packed) == size


def test_how_the_content_arrives_does_not_change_the_bytes() -> None:
    content = bytes(range(256)) * 1000
    pieces = [content[start : start + 999] for start in range(0, len(content), 999)]
    assert b"".join(gzip_stored(pieces)) == b"".join(gzip_stored([content]))
    assert b"".join(zstd_raw(pieces, len(content))) == b"".join(zstd_raw([content], len(content)))


def test_the_tar_is_read_by_others_and_belongs_to_root_of_1970() -> None:
    with tarfile.open(fileobj=io.BytesIO(b"".join(tar_stream(entries(1000))))) as archive:
        found = {member.name: member for member in archive}
        content = archive.extractfile("usr/program")
        assert content is not None
        assert content.read() == bytes(range(256)) * 4
    assert list(found) == ["usr", "usr/program", "etc-note", "bin"]
    assert found["usr"].isdir()
    assert (found["usr/program"].mode, found["etc-note"].mode) == (0o755, 0o644)
    assert (found["bin"].issym(), found["bin"].linkname) == (True, "usr")
    assert {(member.uid, member.gid, member.mtime) for member in found.values()} == {(0, 0, 0)}


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_layer_states_what_it_then_gives(compression: Compression) -> None:
    layer = Layer(entries=entries(200_000), compression=compression)
    packed = b"".join(layer.read())
    plain = gzip.decompress(packed) if compression == "gzip" else zstandard.ZstdDecompressor().decompress(packed)
    assert (layer.measured.digest, layer.measured.size) == (Digest.of(packed), len(packed))
    assert layer.measured.diff_id == Digest.of(plain)
    assert plain == b"".join(tar_stream(entries(200_000)))


@pytest.mark.parametrize(
    ("compression", "digest"),
    [
        ("gzip", "05abac9aaa83cf244d113749dafd2c7b797b89487fc59556b56c503b95ab667d"),
        ("zstd", "29733858a43738c016106786da1c979513ce777384400ceef2d15e34e58f6ea3"),
    ],
)
def test_a_layer_has_the_same_digest_everywhere(compression: Compression, digest: str) -> None:
    assert Layer(entries=entries(200_000), compression=compression).measured.digest.text == f"sha256:{digest}"
