"""tests/kube/nodeadm.py with a stand-in for Go: the real build takes minutes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

KUBE = Path(__file__).parents[1] / "kube"
GO = r"""#!/bin/sh
echo "go $*" >> "$CALLS"
case "$1 $2" in
  "env GOVERSION") echo go1.26.9 ;;
  "install -v")
    if [ "$FAKE" = unreachable ]; then echo 'dial tcp: lookup proxy.invalid: no such host' >&2; exit 1; fi
    if [ "$FAKE" = broken ]; then echo 'x.go:1: syntax error' >&2; exit 1; fi
    mkdir -p "$GOBIN"; echo built > "$GOBIN/nodeadm" ;;
  "version -m")
    if [ "$FAKE" = other ]; then echo mod nodeadm h1:other=; exit; fi
    echo "mod nodeadm v0 h1:8yRBVsjGmI7qQsPWtIrbWP+XfwHO9Wq7gdLVzjqiZFs=" ;;
  *) echo "unexpected: $*" >&2; exit 9 ;;
esac
"""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A copy of tests/kube, a fake Go, an empty cache."""

    folder: Path

    def build(self, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "CALLS": str(self.folder / "calls"),
            "BUNDLE_CACHE_DIR": str(self.folder / "cache"),
            **more,
        }
        argv = [sys.executable, str(self.folder / "kube" / "nodeadm.py")]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)

    def published(self) -> list[Path]:
        return sorted((self.folder / "cache" / "nodeadm").glob("[!.]*/nodeadm"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    shutil.copytree(KUBE, tmp_path / "kube")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "go").write_text(GO)
    (tmp_path / "bin" / "go").chmod(0o755)
    return Bench(folder=tmp_path)


def test_a_build_prints_the_program_and_a_second_one_only_finds_it(bench: Bench) -> None:
    first = bench.build()
    [program] = bench.published()
    assert (first.returncode, first.stdout) == (0, f"NODEADM={program}\n"), first.stderr
    (bench.folder / "calls").unlink()
    assert bench.build().stdout == first.stdout
    assert not (bench.folder / "calls").exists()


def test_a_program_that_is_given_is_printed_and_nothing_is_done(bench: Bench) -> None:
    done = bench.build(NODEADM="/given")
    assert (done.returncode, done.stdout, done.stderr) == (0, "NODEADM=/given\n", "")
    assert bench.published() == []


@pytest.mark.parametrize(
    ("fake", "code", "words"),
    [("unreachable", 75, "cannot be reached"), ("broken", 1, "syntax error"), ("other", 1, "is not what it was")],
)
def test_a_failed_build_says_why_and_leaves_no_program(bench: Bench, fake: str, code: int, words: str) -> None:
    done = bench.build(FAKE=fake)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert bench.published() == []
