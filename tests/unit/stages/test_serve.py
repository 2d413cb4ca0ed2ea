"""What `bundle serve` hands out of an archive that is right, and of one that is not."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.archive.reader import Archive, open_archive
from bundler.domain.http_message import Request
from bundler.domain.lock import Blob
from bundler.errors import DigestError, FormatError, NetworkError
from bundler.stages import serve as stage
from bundler.stages.serve import Opened, Served
from tests.fakes.archives import MemorySource, sample
from tests.fakes.images import layer_bytes

SAMPLE = sample()
PAUSE = next(image for image in SAMPLE.lock.images if image.reference.repository == "pause")
LAYER = max((blob for manifest in PAUSE.manifests for blob in manifest.blobs), key=lambda blob: blob.size)


class CountingSource(MemorySource):
    """Counts the bytes that are read as streams."""

    streamed = 0
    failing = False
    piece_bytes = 700

    def stream(self, offset: int, length: int) -> Iterator[memoryview]:
        if self.failing:
            raise NetworkError(self.name, "does not answer")
        content = memoryview(self.read_at(offset, length))
        for start in range(0, length, self.piece_bytes):
            piece = content[start : start + self.piece_bytes]
            self.streamed += len(piece)
            yield piece


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return SAMPLE.build(tmp_path_factory.mktemp("archive")).read_bytes()


@pytest.fixture
def source(raw: bytes) -> CountingSource:
    return CountingSource(bytearray(raw))


@pytest.fixture
def archive(source: CountingSource) -> Archive:
    return open_archive(source, SAMPLE.trust)


def ask(served: Served, blob: Blob = LAYER, kind: str = "blobs", **headers: str) -> Opened:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    path = f"/v2/{PAUSE.reference.name}/{kind}/{blob.digest}"
    return served.answer(Request(method="GET", path=path, headers=named))


def body(opened: Opened) -> bytes:
    return b"".join(map(bytes, opened.pieces))


def damage(source: MemorySource, archive: Archive, blob: Blob, at: int) -> None:
    assert isinstance(source.content, bytearray)
    source.content[archive.blob(blob.digest).offset + at] ^= 1


def test_blobs_and_manifests_come_byte_for_byte(archive: Archive) -> None:
    served = Served(archive)
    assert body(ask(served)) == SAMPLE.blobs[LAYER.digest]
    for manifest in PAUSE.manifests:
        assert body(ask(served, manifest, "manifests")) == SAMPLE.blobs[manifest.digest]


def test_head_reads_nothing(archive: Archive, source: CountingSource) -> None:
    opened = Served(archive).answer(Request(method="HEAD", path=f"/v2/{PAUSE.reference.name}/blobs/{LAYER.digest}"))
    assert (body(opened), opened.answer.length, source.streamed) == (b"", LAYER.size, 0)


def test_a_damaged_blob_never_completes(archive: Archive, source: CountingSource) -> None:
    damage(source, archive, LAYER, LAYER.size - 1)
    opened, sent = ask(Served(archive)), bytearray()
    assert opened.answer.status == 200
    with pytest.raises(DigestError, match="is damaged"):
        sent.extend(byte for piece in opened.pieces for byte in bytes(piece))
    assert len(sent) < LAYER.size


def test_a_damaged_blob_of_one_piece_is_an_error_and_the_next_one_is_served(
    archive: Archive, source: CountingSource
) -> None:
    manifest = PAUSE.manifests[0]
    damage(source, archive, manifest, 3)
    source.piece_bytes = 1 << 20
    served = Served(archive)
    opened = ask(served, manifest, "manifests")
    assert (opened.answer.status, isinstance(opened.failure, DigestError)) == (500, True)
    assert json.loads(body(opened))["errors"][0]["code"] == "UNKNOWN"
    assert body(ask(served)) == SAMPLE.blobs[LAYER.digest]


def test_a_source_that_does_not_answer_is_503(archive: Archive, source: CountingSource) -> None:
    source.failing = True
    opened = ask(Served(archive))
    assert (opened.answer.status, isinstance(opened.failure, NetworkError)) == (503, True)


@pytest.mark.parametrize("where", [0, 400, LAYER.size - 1])
def test_no_range_of_a_damaged_blob_is_served(archive: Archive, source: CountingSource, where: int) -> None:
    damage(source, archive, LAYER, where)
    served = Served(archive)
    for _ in range(2):
        opened = ask(served, range="bytes=200-210")
        assert (opened.answer.status, isinstance(opened.failure, DigestError)) == (500, True)


def test_the_first_range_reads_the_blob_and_later_ones_their_block(
    archive: Archive, source: CountingSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "BLOCK_BYTES", 64)
    served = Served(archive)
    assert body(ask(served, range="bytes=70-71")) == SAMPLE.blobs[LAYER.digest][70:72]
    first, source.streamed = source.streamed, 0
    assert body(ask(served, range="bytes=60-70")) == SAMPLE.blobs[LAYER.digest][60:71]
    assert (first >= LAYER.size, source.streamed) == (True, 128)


def test_a_blob_that_is_damaged_later_is_seen(archive: Archive, source: CountingSource) -> None:
    served = Served(archive)
    assert len(body(ask(served, range="bytes=0-9"))) == 10
    damage(source, archive, LAYER, 500)
    assert isinstance(ask(served, range="bytes=0-9").failure, DigestError)


@given(start=st.integers(0, LAYER.size - 1), length=st.integers(1, LAYER.size), block=st.sampled_from([1, 7, 64, 4096]))
def test_a_range_is_that_part_of_the_blob(raw: bytes, start: int, length: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "BLOCK_BYTES", block)
        opened = ask(Served(open_archive(MemorySource(raw), SAMPLE.trust)), range=f"bytes={start}-{start + length - 1}")
        assert opened.answer.status == 206
        assert body(opened) == SAMPLE.blobs[LAYER.digest][start : start + length]


def test_an_empty_layer_is_served(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its digest is checked before there is a piece."""
    empty = Blob(media_type="x/y", digest=SAMPLE.lock.files[0].content.digest, size=0)
    manifest = PAUSE.manifests[0].model_copy(update={"blobs": (empty,)})
    image = PAUSE.model_copy(update={"manifests": (manifest,)})
    made = sample(images=(image,))
    opened = open_archive(MemorySource(made.build(tmp_path_factory.mktemp("e")).read_bytes()), made.trust)
    assert body(ask(Served(opened), empty)) == b""
    assert ask(Served(opened), empty, range="bytes=0-").answer.status == 416


def test_without_a_password_nothing_is_said(archive: Archive) -> None:
    served = Served(archive, allowed=lambda user, password: (user, password) == ("me", "right"))
    for headers in ({}, {"authorization": "Basic bWU6d3Jvbmc="}, {"authorization": "Bearer x"}):
        opened = served.answer(Request(method="PUT", path="/v2/any/thing", headers=headers))
        assert opened.answer.status == 401
        assert opened.answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert body(ask(served, authorization="Basic bWU6cmlnaHQ=")) == SAMPLE.blobs[LAYER.digest]


def test_a_source_that_ends_early_never_completes(raw: bytes) -> None:
    class Short(MemorySource):
        def stream(self, offset: int, length: int) -> Iterator[memoryview]:
            yield from list(super().stream(offset, length))[:-1]

    assert LAYER.size > 700
    with pytest.raises(FormatError, match="ends before"):
        body(ask(Served(open_archive(Short(raw), SAMPLE.trust))))


def test_layers_of_the_sample_are_of_several_pieces() -> None:
    assert LAYER.size == len(layer_bytes("shared", 900))
