"""F08: ten thousand single bits flipped, in archives and in the cache: not one is missed, each is found before use."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from bundler.archive.header import BLOCK_BYTES
from bundler.archive.reader import Archive, open_archive
from bundler.cache import Cache
from bundler.domain.digest import Digest
from bundler.domain.lock import LockedFile
from bundler.errors import DigestError, RefusedError
from tests.fakes.archives import Forgery, MemorySource, Sample, sample
from tests.fakes.images import layer_bytes

SAMPLE = sample()
GOOD = Forgery.of(SAMPLE).bytes()
LAYOUT = SAMPLE.layout
ENVELOPE = range(BLOCK_BYTES, BLOCK_BYTES + len(GOOD[BLOCK_BYTES : BLOCK_BYTES + LAYOUT.slot_bytes].rstrip()))
FIRST_BLOB = min(member.header_offset for member in LAYOUT.blobs)
ARCHIVE_FLIPS, CACHE_FLIPS = 9000, 1000
EVERY_BYTES = 4 << 10


def flip(raw: bytearray, bit: int) -> None:
    raw[bit // 8] ^= 1 << bit % 8


def is_accepted(archive: Archive) -> bool:
    try:
        archive.verify_all(workers=1)
    except RefusedError:
        return False
    return True


def opens(raw: bytearray) -> bool:
    try:
        return is_accepted(open_archive(MemorySource(raw), SAMPLE.trust))
    except RefusedError:
        return False


def test_f08_of_9000_bits_all_over_an_archive_none_is_missed() -> None:
    """Of the envelope's spelling, which nobody signs, one may differ; then the bundle is the same to the last byte."""
    raw, missed = bytearray(GOOD), list[int]()
    opened = open_archive(MemorySource(raw), SAMPLE.trust)
    step = len(raw) * 8 // ARCHIVE_FLIPS | 1
    bits = range(0, len(raw) * 8, step)
    for bit in bits:
        flip(raw, bit)
        accepted = is_accepted(opened) if bit // 8 >= FIRST_BLOB else opens(raw)
        if accepted and bit // 8 not in ENVELOPE:
            missed.append(bit)
        flip(raw, bit)
    assert raw == GOOD
    assert len(bits) >= ARCHIVE_FLIPS - 100
    assert {bit % 8 for bit in bits} == set(range(8))
    assert not missed


def with_large_file(size: int) -> Sample:
    """The sample and a file of `size` bytes."""
    content = layer_bytes("large", size)
    made = sample()
    blob = replace(made.lock.files[0].content, digest=Digest.of(content), size=size)
    file = LockedFile(name="large", purpose="a large file", content=blob)
    lock = made.lock.model_copy(update={"files": tuple(sorted((*made.lock.files, file), key=lambda one: one.name))})
    return Sample(lock=lock, blobs={**made.blobs, blob.digest: content})


def test_f08_a_bit_in_each_4_kib_of_a_large_member_is_found_by_name() -> None:
    size = 1 << 20
    made = with_large_file(size)
    raw = bytearray(Forgery.of(made).bytes())
    archive = open_archive(MemorySource(raw), made.trust)
    digest = next(file.content.digest for file in made.lock.files if file.name == "large")
    member = archive.blob(digest)
    for number, at in enumerate(range(member.offset, member.offset + size, EVERY_BYTES)):
        bit = (at + number * 509 % EVERY_BYTES) * 8 + number % 8
        flip(raw, bit)
        with pytest.raises(DigestError) as caught:
            b"".join(archive.stream(digest))
        flip(raw, bit)
        assert re.search(rf"{re.escape(member.path)}.* bytes {member.offset}", caught.value.cause), caught.value


@pytest.mark.parametrize("size", [1, 300, 70_000])
def test_f08_a_bit_in_a_cache_entry_is_found_and_the_entry_dropped(tmp_path: Path, size: int) -> None:
    cache, content = Cache(tmp_path), layer_bytes("entry", size)
    digest, flips = Digest.of(content), min(8 * size, CACHE_FLIPS // 2)
    path = cache.path(digest)
    path.parent.mkdir(parents=True)
    for number in range(flips):
        raw = bytearray(content)
        flip(raw, 8 * size * number // flips)
        path.write_bytes(raw)
        if number % 2:
            assert cache.get(digest) is None
        else:
            with pytest.raises(DigestError, match="dropped"):
                list(cache.read(digest))
        assert not cache.has(digest)
    assert cache.put(content) == digest
    assert cache.get(digest) == content
