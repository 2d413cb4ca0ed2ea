"""Thousands of mutated archives: refused with a typed error, or the same content; nothing wrong is ever handed out."""

from __future__ import annotations

import random
import resource
from collections.abc import Callable

import pytest

from bundler.archive.reader import open_archive
from bundler.errors import RefusedError
from tests.fakes.archives import Forgery, MemorySource, sample

SAMPLE = sample()
GOOD = Forgery.of(SAMPLE).bytes()
LAYOUT = SAMPLE.layout
HEADERS = [0, *(member.header_offset for member in LAYOUT.members)]
ENVELOPE_END = len(GOOD[512 : 512 + LAYOUT.slot_bytes].rstrip()) + 512
CASES = 6000

Mutation = Callable[[random.Random, bytearray], None]


def flip_bits(chance: random.Random, raw: bytearray) -> None:
    for _ in range(chance.randrange(1, 17)):
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)


def cut(chance: random.Random, raw: bytearray) -> None:
    del raw[chance.randrange(len(raw)) :]


def block(chance: random.Random, raw: bytearray) -> int:
    return chance.randrange(len(raw) // 512) * 512


def double_block(chance: random.Random, raw: bytearray) -> None:
    at = block(chance, raw)
    raw[at:at] = raw[at : at + 512]


def swap_blocks(chance: random.Random, raw: bytearray) -> None:
    one, two = block(chance, raw), block(chance, raw)
    raw[one : one + 512], raw[two : two + 512] = raw[two : two + 512], raw[one : one + 512]


def drop_block(chance: random.Random, raw: bytearray) -> None:
    at = block(chance, raw)
    del raw[at : at + 512]


def seal(raw: bytearray, at: int) -> None:
    raw[at + 148 : at + 156] = b" " * 8
    raw[at + 148 : at + 156] = b"%06o\0 " % sum(raw[at : at + 512])


def change_header(chance: random.Random, raw: bytearray) -> None:
    """Change a field of a header, mostly with its checksum made right."""
    at = chance.choice(HEADERS)
    start, length = chance.choice([(0, 100), (100, 8), (124, 12), (148, 8), (156, 1), (157, 100), (257, 8), (345, 155)])
    for _ in range(chance.randrange(1, 5)):
        raw[at + start + chance.randrange(length)] = chance.randrange(256)
    if chance.random() < 0.7:
        seal(raw, at)


def insert_special(chance: random.Random, raw: bytearray) -> None:
    """Put a link, device or extension header with a right checksum somewhere."""
    name = chance.choice([b"../../x", b"/etc/x", b"a\0b", b"root.dsse.json", b"x" * 99])
    header = bytearray(512)
    header[: len(name)] = name
    header[124:136] = b"%011o\0" % chance.choice([0, 1, 512, (1 << 33) - 1])
    header[156] = chance.choice(b"0123456xgLKSVDMN\0")
    header[157:166] = b"../../etc"
    header[257:265] = b"ustar\x0000"
    seal(header, 0)
    at = block(chance, raw)
    if chance.random() < 0.5:
        raw[at:at] = header
    else:
        raw[at : at + 512] = header


def append(chance: random.Random, raw: bytearray) -> None:
    raw += chance.randbytes(chance.randrange(1, 2000))


def change_envelope(chance: random.Random, raw: bytearray) -> None:
    for _ in range(chance.randrange(1, 3)):
        raw[chance.randrange(512, ENVELOPE_END)] = chance.choice(b'{}[]",:\\0eE+-.unltrfs/=A \xff\x00')


def change_envelope_length(chance: random.Random, raw: bytearray) -> None:
    at = chance.randrange(512, ENVELOPE_END)
    raw[at:at] = chance.choice([b" ", b"\n", b'"', b"{", b"\\u0041", b"[]", b'"keyid":"",'])
    del raw[512 + LAYOUT.slot_bytes]


def overwrite(chance: random.Random, raw: bytearray) -> None:
    start = chance.randrange(len(raw))
    end = min(len(raw), start + chance.randrange(1, 600))
    raw[start:end] = chance.randbytes(end - start)


MUTATIONS: list[Mutation] = [
    flip_bits,
    cut,
    double_block,
    swap_blocks,
    drop_block,
    change_header,
    insert_special,
    append,
    change_envelope,
    change_envelope_length,
    overwrite,
]


def attempt(raw: bytes) -> bool:
    """Whether the archive passes; what it hands out before is right even when it does not."""
    try:
        archive = open_archive(MemorySource(raw), SAMPLE.trust)
    except RefusedError:
        return False
    for member in LAYOUT.blobs:
        got = bytearray()
        try:
            for chunk in archive.stream(member.digest):
                got += chunk
        except RefusedError:
            assert len(got) < member.size or not member.size
        else:
            assert got == SAMPLE.blobs[member.digest]
    try:
        archive.verify_all(workers=1)
    except RefusedError:
        return False
    return True


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_a_mutated_archive_is_refused_or_holds_the_same(mutate: Mutation) -> None:
    chance = random.Random(mutate.__name__)
    accepted = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(CASES // len(MUTATIONS)):
        raw = bytearray(GOOD)
        mutate(chance, raw)
        if attempt(bytes(raw)):
            accepted += 1
            # Only the spelling of the envelope, which nobody signs, may differ; the bundle's identity does not.
            assert raw[ENVELOPE_END + 8 :] == GOOD[ENVELOPE_END + 8 :]
    assert accepted < CASES // len(MUTATIONS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_every_single_bit_of_headers_counts() -> None:
    for at in HEADERS:
        for byte in (0, 99, 100, 107, 124, 134, 135, 147, 148, 153, 156, 157, 256, 257, 263, 345, 511):
            raw = bytearray(GOOD)
            raw[at + byte] ^= 1
            assert not attempt(bytes(raw))


def test_the_fuzz_target_itself_lets_the_honest_archive_pass() -> None:
    assert attempt(GOOD)
