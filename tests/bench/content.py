"""Blocks from a seed: all different; zstd makes of them what it makes of a Debian's /usr (3:1, 200 MiB/s and core)."""

from __future__ import annotations

import random
from collections.abc import Iterator

from bundler.domain.blocks import BLOCK_BYTES

SEED = 20_260
_PAGE_BYTES = 4096
_BASES = 32
"""As many as a frame has blocks: what comes again comes with other letters, and no compressor sees the likeness."""
_WORDS = 1_500
_NOISE, _ZEROS = 0.18, 0.12


def blocks(count: int, *, seed: int = SEED) -> Iterator[bytes]:
    """Yield `count` different blocks of 512 KiB, the same for the same seed."""
    chance = random.Random(seed)
    bases = [_base(chance) for _ in range(min(count, _BASES))]
    letters = b""
    for number in range(count):
        if number % _BASES == 0:
            letters = bytes(chance.sample(range(256), 256))
        yield bases[number % _BASES].translate(letters)


def _base(chance: random.Random) -> bytes:
    """Return pages of words, common ones often; some pages are noise, some zeros."""
    words = [chance.randbytes(chance.randint(4, 20)) for _ in range(_WORDS)]
    weights = [(1 + place) ** -1.2 for place in range(_WORDS)]
    pages: list[bytes] = []
    for _ in range(BLOCK_BYTES // _PAGE_BYTES):
        kind = chance.random()
        if kind < _NOISE:
            page = chance.randbytes(_PAGE_BYTES)
        elif kind < _NOISE + _ZEROS:
            page = b""
        else:
            page = b"".join(chance.choices(words, weights, k=800))
        pages.append(page[:_PAGE_BYTES].ljust(_PAGE_BYTES, b"\0"))
    return b"".join(pages)
