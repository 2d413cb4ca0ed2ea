"""Certificate authorities as files: what this host believes and what `--ca-file` adds, for us and for programs."""

from __future__ import annotations

from pathlib import Path

from bundler.errors import LocalResourceError


def joined(*files: Path) -> bytes:
    """Return what the files hold, each file once.

    Raises:
        LocalResourceError: one cannot be read.
    """
    content = b""
    for path in dict.fromkeys(files):
        try:
            content += path.read_bytes() + b"\n"
        except OSError as error:
            raise LocalResourceError(str(path), f"cannot be read as CA certificates: {error.strerror}") from error
    return content
