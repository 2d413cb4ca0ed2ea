"""A disk that is really full: a tmpfs of chosen size in a namespace of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.archives import sample

pytestmark = pytest.mark.sandbox
SCRIPT = """
import sys
from pathlib import Path
from bundler.errors import LocalResourceError
from tests.fakes.archives import sample
try:
    sample().build(Path(sys.argv[1]))
except LocalResourceError as error:
    print(error.exit_code, error, "|", error.safe, "|", *sorted(path.name for path in Path(sys.argv[1]).iterdir()))
"""


def run(folder: Path, size: int) -> str:
    """Build on a tmpfs of `size` bytes; return what the build said."""
    mount = f"mount -t tmpfs -o size={size} tmpfs {folder} && exec {sys.executable} -c '{SCRIPT}' {folder}"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("this host allows no user namespaces")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare (util-linux) is not installed")
def test_a_full_disk_ends_the_build_before_it_begins_and_says_how_much_is_missing(tmp_path: Path) -> None:
    total = sample().layout.total_bytes
    pages = -(-total // 4096) * 4096
    said = run(tmp_path, pages - 8192)
    assert said.startswith(f"6 {tmp_path}: has no room for an archive of {total} bytes: {total - (pages - 8192)} bytes")
    assert said.strip().endswith("| Nothing was fetched. |")


@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare (util-linux) is not installed")
def test_just_enough_room_is_enough(tmp_path: Path) -> None:
    pages = -(-sample().layout.total_bytes // 4096) * 4096
    assert run(tmp_path, pages) == ""
