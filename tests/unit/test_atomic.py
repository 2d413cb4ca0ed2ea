from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.atomic import publish, publish_new, publish_stream
from bundler.errors import ConflictError, LocalResourceError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_published_file_has_its_content_and_its_mode_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    publish(path, b"old")
    publish(path, b"new", mode=0o600)
    assert (path.read_bytes(), path.stat().st_mode & 0o777, names(tmp_path)) == (b"new", 0o600, ["lock.json"])


def test_content_that_breaks_off_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "tool"
    publish(path, b"old")

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ConflictError("source", "broke off")

    with pytest.raises(ConflictError, match="broke off"):
        publish_stream(path, broken())
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["tool"])


def test_a_new_name_never_replaces_what_has_it(tmp_path: Path) -> None:
    path = tmp_path / "bundle.key"
    publish_new(path, b"first", mode=0o600)
    with pytest.raises(ConflictError, match="exists already"):
        publish_new(path, b"second")
    assert (path.read_bytes(), names(tmp_path)) == (b"first", ["bundle.key"])


def test_a_folder_that_is_not_there_is_a_local_error(tmp_path: Path) -> None:
    with pytest.raises(LocalResourceError, match="cannot be written"):
        publish(tmp_path / "none" / "x", b"")
