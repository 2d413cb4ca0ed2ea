"""`bundle build` and `bundle lock` on disks that are really full: a small tmpfs, made larger for the second run."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.journey import Workspace, clean_environment, small_definition, workspace

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare (util-linux) is not installed"),
]
BUILD = ("build", "--key", "keys/bundle.key", "--out", "out")
KIB = 1 << 10


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a command did on the full disk: exit code, stderr in one line, and the files there and in out/ then."""

    code: int
    told: str
    files: tuple[str, ...]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a lock, and the archive as it should be in expected/."""
    folder = tmp_path_factory.mktemp("template")
    workspace(folder, None, small_definition(folder)).build("--out", "expected")
    return folder


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Workspace:
    """A copy of the template, and an empty folder out/."""
    folder = tmp_path / "place"
    shutil.copytree(template, folder)
    for name in ("before", "out", "after"):
        (folder / name).mkdir()
    return Workspace(folder=folder, environment={"BUNDLE_CACHE_DIR": str(folder / "cache")})


def on_full_disk(place: Workspace, folder: str, size: int, *command: str) -> Run:
    """Run `bundle` with `folder` on a tmpfs of `size` bytes, then again with room: the second run must succeed.

    What stands in the folder then is copied to after/.
    """
    bundle = shlex.join([sys.executable, "-m", "bundler", *command])
    script = f"""
        mount -t tmpfs -o size={size} tmpfs {folder} || exit 97
        cp -a before/. {folder} || exit 98
        {bundle} 2>stderr; echo $? >code
        (ls -A {folder}; ls -A out) | sort -u >files
        mount -o remount,size=64m {folder} || exit 99
        {bundle} && cp -a {folder}/. after
    """
    environment = {**clean_environment(), **place.environment, "PYTHONPATH": str(Path(__file__).parents[2])}
    argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    done = subprocess.run(
        argv, cwd=place.folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    if "unshare:" in done.stderr:
        pytest.skip("this host allows no user namespaces")
    assert done.returncode == 0, done.stdout + done.stderr
    read = {name: (place.folder / name).read_text() for name in ("code", "stderr", "files")}
    return Run(code=int(read["code"]), told=" ".join(read["stderr"].split()), files=tuple(read["files"].split()))


def refused(run: Run) -> None:
    assert run.code == 6, run.told
    assert "Local error: " in run.told
    assert " next: " in run.told
    assert "Traceback" not in run.told


def test_a_disk_without_room_for_the_archive_ends_the_build_before_anything_is_fetched(place: Workspace) -> None:
    expected = place.folder / "expected" / "small-1.tar"
    run = on_full_disk(place, "out", expected.stat().st_size // 4096 * 4096 - 8192, *BUILD)
    refused(run)
    assert f"has no room for an archive of {expected.stat().st_size} bytes" in run.told
    assert "safe: Nothing was fetched. next: Make room, or name another folder with --out" in run.told
    assert run.files == ()
    assert [path.name for path in (place.folder / "after").iterdir()] == ["small-1.tar"]
    assert (place.folder / "after" / "small-1.tar").read_bytes() == expected.read_bytes()


def test_what_an_earlier_run_fetched_is_kept_when_the_disk_has_no_room_for_the_rest(place: Workspace) -> None:
    """The disk holds a quarter of the archive, as an interrupted build leaves it without reserved space."""
    expected = (place.folder / "expected" / "small-1.tar").read_bytes()
    (place.folder / "before" / "small-1.tar.partial").write_bytes(expected[: len(expected) // 4])
    run = on_full_disk(place, "out", len(expected) // 2, *BUILD)
    refused(run)
    assert run.files == ("small-1.tar.partial",)
    assert (place.folder / "after" / "small-1.tar").read_bytes() == expected


@pytest.mark.parametrize("command", [BUILD, ("lock",)], ids=["build", "lock"])
@pytest.mark.parametrize("size", [4 * KIB, 32 * KIB])
def test_a_full_cache_ends_with_exit_6_and_no_archive(place: Workspace, command: tuple[str, ...], size: int) -> None:
    shutil.rmtree(place.folder / "cache")
    (place.folder / "cache").mkdir()
    if command == BUILD:  # which makes the lock first
        (place.folder / "bundle.lock.json").unlink()
    run = on_full_disk(place, "cache", size, *command)
    refused(run)
    assert not [name for name in run.files if name.startswith("small-1")]
    assert (place.folder / "bundle.lock.json").exists()
    assert (place.folder / "out" / "small-1.tar").exists() == (command == BUILD)


def test_a_lock_that_does_not_fit_on_the_disk_leaves_the_old_one(place: Workspace) -> None:
    for name in ("bundle.yaml", "bundle.lock.json", "tool"):
        shutil.copy(place.folder / name, place.folder / "before" / name)
    shutil.copytree(place.folder / "layout", place.folder / "before" / "layout")
    old = (place.folder / "before" / "bundle.lock.json").read_bytes()
    entry = (place.folder / "before" / "bundle.yaml").read_text().replace("reason: a test", "reason: 'another reason'")
    (place.folder / "before" / "bundle.yaml").write_text(entry)
    used = sum(
        -(-path.stat().st_size // 4096) * 4096 for path in (place.folder / "before").rglob("*") if path.is_file()
    )
    run = on_full_disk(place, "out", used + 4096, "lock", "out/bundle.yaml")
    refused(run)
    assert "bundle.lock.json" in run.files
    assert (place.folder / "after" / "bundle.lock.json").read_bytes() != old
    assert not [path for path in (place.folder / "after").iterdir() if path.name.startswith(".")]


def test_a_limit_on_the_size_of_files_is_told_as_one(place: Workspace) -> None:
    """`ulimit -f`: what is missing is not room."""
    script = f"ulimit -f 100; exec {shlex.join([sys.executable, '-m', 'bundler', *BUILD])}"
    environment = {**clean_environment(), **place.environment, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=place.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    told = " ".join(done.stderr.split())
    refused(Run(code=done.returncode, told=told, files=()))
    assert "File too large" in told
    assert not list((place.folder / "out").iterdir())
    place.bundle(*BUILD)
