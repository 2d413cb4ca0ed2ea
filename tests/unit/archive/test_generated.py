"""Content that is made whenever it is read."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from bundler.archive.generated import CHUNK_BYTES, Generated, measured
from bundler.archive.layout import LOCK_PATH
from bundler.archive.root import MEMBERS_PATH
from bundler.domain.digest import Digest
from bundler.domain.lock import lock_bytes
from tests.fakes.archives import sample


@given(pieces=st.lists(st.binary(max_size=40)))
def test_content_is_its_pieces_in_any_form(pieces: list[bytes]) -> None:
    generated = Generated({"a": lambda: pieces})
    whole = b"".join(pieces)
    assert generated["a"] == b"".join(generated.chunks("a")) == whole
    assert measured(lambda: pieces) == (len(whole), Digest.of(whole))
    assert Digest.of_pieces(pieces) == Digest.of(whole)


def test_lines_come_in_chunks_of_a_mebibyte_and_are_never_all_there() -> None:
    line, count = bytes(170), 100_000

    def lines() -> Iterator[bytes]:
        return (line for _ in range(count))

    generated = Generated({"lines": lines})
    tracemalloc.start()
    try:
        sizes = [len(chunk) for chunk in generated.chunks("lines")]
        size, _ = measured(lines)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(sizes) == size == count * len(line)
    assert all(CHUNK_BYTES <= each < CHUNK_BYTES + len(line) for each in sizes[:-1])
    assert peak < 4 * CHUNK_BYTES


def test_whether_there_is_such_content_is_known_without_making_it() -> None:
    def never() -> list[bytes]:
        raise AssertionError

    generated = Generated({"a": never})
    assert "a" in generated
    assert "b" not in generated
    assert (list(generated), len(generated)) == (["a"], 1)


def test_a_layout_makes_its_lock_and_its_table_anew() -> None:
    made = sample()
    layout = made.layout
    assert layout.generated[LOCK_PATH] == lock_bytes(made.lock)
    for path in (LOCK_PATH, MEMBERS_PATH):
        assert layout.generated[path] is not layout.generated[path]
        (member,) = (member for member in layout.members if member.path == path)
        assert (member.size, member.digest) == measured(partial(layout.generated.chunks, path))
