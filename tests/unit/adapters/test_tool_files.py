from __future__ import annotations

from pathlib import Path

import pytest

from bundler.adapters.tool_files import tool_file
from bundler.domain.digest import Digest
from bundler.errors import DigestError

PROGRAM = b"#!/bin/sh\n"


def test_a_tool_is_written_once_and_can_be_run(tmp_path: Path) -> None:
    path = tool_file(tmp_path, "helm", Digest.of(PROGRAM), [PROGRAM[:4], memoryview(PROGRAM[4:])])
    written = path.stat()
    assert (path.read_bytes(), written.st_mode & 0o777) == (PROGRAM, 0o700)
    assert tool_file(tmp_path, "helm", Digest.of(PROGRAM), []) == path
    assert path.stat().st_mtime_ns == written.st_mtime_ns


def test_a_tool_that_somebody_changed_is_written_again(tmp_path: Path) -> None:
    path = tool_file(tmp_path, "helm", Digest.of(PROGRAM), [PROGRAM])
    path.write_bytes(b"other")
    assert tool_file(tmp_path, "helm", Digest.of(PROGRAM), [PROGRAM]).read_bytes() == PROGRAM


def test_what_is_not_the_pinned_program_never_gets_its_name(tmp_path: Path) -> None:
    with pytest.raises(DigestError, match="helm: is not the program that was pinned"):
        tool_file(tmp_path, "helm", Digest.of(PROGRAM), [b"other"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
