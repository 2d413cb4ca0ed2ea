"""Two workers with different bytes for one place: what is hashed is what stands there, or the member does not count."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.archive.header import BLOCK_BYTES
from bundler.archive.members import Member
from bundler.archive.partial import PartialFile
from bundler.archive.writer import MemberWriter, no_failpoint
from bundler.domain.digest import Digest
from bundler.errors import DigestError

SIZE = 10_000
CONTENT = hashlib.shake_128(b"layer").digest(SIZE)
DIGEST = Digest.of(CONTENT)
MEMBER = Member(role="layer", size=SIZE, digest=DIGEST, offset=BLOCK_BYTES)


class Overtaken(PartialFile):
    """A file to which somebody else writes between a worker's decision to write and its writing."""

    overtake: Callable[[], None] | None = None

    def write(self, content: bytes | memoryview, offset: int) -> None:
        overtake, self.overtake = self.overtake, None
        if overtake is not None and offset >= MEMBER.offset:
            overtake()
        super().write(content, offset)


@pytest.mark.parametrize("start", [0, 4000, 9000])
def test_bytes_that_were_hashed_are_not_overwritten_by_a_slower_worker(tmp_path: Path, start: int) -> None:
    """A registry that ignores a range sends what another worker is taking at that moment, and it may differ."""
    file = Overtaken(tmp_path / "x.tar")
    file.open(MEMBER.end)
    place = MemberWriter(file, MEMBER, committed=lambda member: None, failpoint=no_failpoint)
    place.put(0, CONTENT[:start])
    file.overtake = lambda: place.put(start, CONTENT[start:])
    place.put(start, b"?" * 1000)
    place.put(0, CONTENT)
    with pytest.raises(DigestError):
        place.commit()
    place.restart()
    place.put(0, CONTENT)
    place.commit()
    assert file.read(MEMBER.offset, SIZE) == CONTENT
    file.close()
