"""`bundle lock` and `bundle build` against the lab's upstream, as processes."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import urllib3

from bundler.lab.lab import LabFacts
from bundler.lab.tools import Tools
from tests import forked
from tests.journey import Workspace, clean_environment, definition, small_definition, workspace

pytestmark = pytest.mark.loopback
ADDONS = """\
addons:
  - name: metrics-server
    namespace: kube-system
    chart:
      repository: https://kubernetes-sigs.github.io/metrics-server
      name: metrics-server
      version: 1.0.0-lab.1
"""


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture(scope="module")
def place(lab: LabFacts, tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a lock and an archive."""
    made = workspace(tmp_path_factory.mktemp("build"), lab, definition(tools, addons=ADDONS))
    made.build(SOURCE_DATE_EPOCH="1700000000")
    return made


def archive(place: Workspace) -> Path:
    return place.folder / "journey-1.tar"


def test_build_without_a_lock_makes_one_first_and_says_so(lab: LabFacts, tools: Tools, tmp_path: Path) -> None:
    fresh = workspace(tmp_path, lab, definition(tools))
    refused = fresh.bundle("build", "--locked", "--key", "keys/bundle.key", expect=2)
    assert "does not exist, and --locked was given" in refused.stderr
    done = fresh.bundle("build", "--key", "keys/bundle.key")
    assert "there is no bundle.lock.json: making it first" in done.stderr
    assert (tmp_path / "journey-1.tar").is_file()


def test_an_unchanged_upstream_leaves_the_lock_byte_for_byte(place: Workspace) -> None:
    lock = place.folder / "bundle.lock.json"
    before = lock.read_bytes(), lock.stat().st_mtime_ns
    done = place.bundle("lock", SOURCE_DATE_EPOCH="1800000000")
    assert "unchanged" in done.stdout
    assert (lock.read_bytes(), lock.stat().st_mtime_ns) == before


def test_a_new_lock_is_the_same_anywhere(place: Workspace, lab: LabFacts, tools: Tools, tmp_path: Path) -> None:
    other = workspace(tmp_path / "elsewhere", lab, definition(tools, addons=ADDONS))
    other.bundle("lock", SOURCE_DATE_EPOCH="1700000000", LC_ALL="C", TZ="Asia/Tokyo")
    assert (other.folder / "bundle.lock.json").read_bytes() == (place.folder / "bundle.lock.json").read_bytes()


def test_the_committed_lock_of_closed_minimal_is_what_lock_makes_here(
    lab: LabFacts, tools: Tools, tmp_path: Path
) -> None:
    folder = Path(__file__).parents[2] / "bundles" / "closed-minimal"
    for name in ("bundle.lab.yaml", "bundle.lab.lock.json"):
        (tmp_path / "bundles" / "closed-minimal").mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / name, tmp_path / "bundles" / "closed-minimal" / name)
    (tmp_path / ".cache" / "tools").mkdir(parents=True)
    for name, program in (("helm", tools.helm4), ("kubectl", tools.kubectl)):
        (tmp_path / ".cache" / "tools" / name).symlink_to(program.path)
    place = Workspace(
        folder=tmp_path / "bundles" / "closed-minimal",
        environment={**lab.environment(), "BUNDLE_CACHE_DIR": str(tmp_path / "cache")},
    )
    assert "unchanged" in place.bundle("lock", "bundle.lab.yaml").stdout
    committed = place.folder / "bundle.lab.lock.json"
    text = committed.read_bytes()
    committed.unlink()
    created = json.loads(text)["created"]
    epoch = str(int(dt.datetime.fromisoformat(created).timestamp()))
    place.bundle("lock", "bundle.lab.yaml", SOURCE_DATE_EPOCH=epoch)
    assert committed.read_bytes() == text


def test_nothing_of_this_machine_enters_lock_or_archive(place: Workspace, lab: LabFacts) -> None:
    found = (place.folder / "bundle.lock.json").read_bytes() + archive(place).read_bytes()[: 4 << 20]
    for text in (lab.source_url.removeprefix("http://"), str(place.folder), str(lab.state)):
        assert text.encode() not in found


def test_two_builds_of_one_lock_are_byte_identical(place: Workspace, tmp_path: Path) -> None:
    """Other folder, umask, locale, time zone, cache, number of workers, and a later time."""
    other = Workspace(folder=tmp_path, environment={**place.environment, "BUNDLE_CACHE_DIR": str(tmp_path / "c")})
    for name in ("bundle.yaml", "bundle.lock.json"):
        shutil.copy(place.folder / name, tmp_path / name)
    shutil.copytree(place.folder / "keys", tmp_path / "keys")
    before = os.umask(0o077)
    try:
        second = other.build("-j", "3", LC_ALL="C", TZ="Pacific/Auckland", SOURCE_DATE_EPOCH="1900000000")
    finally:
        os.umask(before)
    assert digest_of(second) == digest_of(archive(place))


def test_a_build_that_is_done_is_looked_at_and_not_done_again(tmp_path: Path) -> None:
    work = workspace(tmp_path, None, small_definition(tmp_path))
    built = work.build()
    before = built.stat().st_mtime_ns, digest_of(built)
    assert "is complete already" in work.bundle("build", "--key", "keys/bundle.key").stderr
    assert (built.stat().st_mtime_ns, digest_of(built)) == before
    with built.open("r+b") as file:
        file.seek(-40_000, os.SEEK_END)
        file.write(b"damage")
    work.build()
    assert digest_of(built) == before[1]


def test_a_lock_names_the_archive_before_it(tmp_path: Path) -> None:
    work = workspace(tmp_path, None, small_definition(tmp_path))
    done = json.loads(work.bundle("build", "--key", "keys/bundle.key", "-o", "json").stdout)
    (tmp_path / "bundle.yaml").write_text(
        small_definition(tmp_path / "next", images=2)
        .replace("layout: layout", "layout: next/layout")
        .replace("path: tool", "path: next/tool")
    )
    work.bundle("lock", "--previous", "small-1.tar")
    lock = json.loads((tmp_path / "bundle.lock.json").read_bytes())
    assert (lock["sequence"], lock["previous"]) == (2, done["root"])
    assert work.build().name == "small-2.tar"
    work.bundle("lock", "--previous", "sha256:short", expect=2)


def test_inspect_and_verify_know_the_archive(place: Workspace) -> None:
    shown = json.loads(place.bundle("inspect", "journey-1.tar", "--trust", "trust", "-o", "json").stdout)
    assert [image["reference"].split("/")[-1] for image in shown["images"]] == [
        "metrics-server:v1.0.0-lab.1",
        "pause:v1.0.0-lab.1",
    ]
    assert shown["bytes"] == archive(place).stat().st_size
    assert "complete and signed" in place.bundle("verify", "journey-1.tar", "--trust", "trust").stdout


def test_without_an_accepted_trust_root_verify_refuses_and_prints_the_command(place: Workspace) -> None:
    done = place.bundle("verify", "journey-1.tar", "--trust", "nowhere", expect=3)
    assert "bundle trust accept trust.json --expect sha256:" in " ".join(done.stderr.split())


def test_platform_manifests_are_byte_identical_to_the_sources(place: Workspace, lab: LabFacts) -> None:
    """The source is asked by plain HTTP, the archive is read by tar."""
    lock = json.loads((place.folder / "bundle.lock.json").read_bytes())
    for image in lock["images"]:
        host, _, rest = image["reference"].partition("/")
        path, _, _ = rest.partition(":")
        wanted = list(image["manifests"])
        wanted += [image["target"]] if image["form"] == "index" else []
        wanted += [image["upstream"]] if "upstream" in image else []
        for manifest in wanted:
            url = f"{lab.source_url}/v2/{host}/{path}/manifests/{manifest['digest']}"
            upstream = urllib3.request("GET", url, headers={"Accept": manifest["mediaType"]}).data
            name = f"blobs/sha256/{manifest['digest'][7:]}"
            ours = subprocess.run(["tar", "-xOf", archive(place), name], capture_output=True, check=True).stdout
            assert ours == upstream


def test_skopeo_copies_every_oci_image_out_under_its_full_name(
    place: Workspace, skopeo: Callable[..., bytes], tmp_path: Path
) -> None:
    index = json.loads(
        subprocess.run(["tar", "-xOf", archive(place), "index.json"], capture_output=True, check=True).stdout
    )
    names = [
        entry["annotations"]["org.opencontainers.image.ref.name"]
        for entry in index["manifests"]
        if entry["mediaType"].startswith("application/vnd.oci.image.index")
    ]
    assert names
    for number, name in enumerate(names):
        skopeo("copy", "--all", f"oci-archive:{archive(place)}:{name}", f"dir:{tmp_path}/{number}")


def test_a_moved_tag_is_shown_and_needs_update(lab: LabFacts, tools: Tools, tmp_path: Path) -> None:
    place = workspace(tmp_path, lab, definition(tools))
    place.bundle("lock")
    path = tmp_path / "bundle.lock.json"
    lock = json.loads(path.read_bytes())
    pinned = lock["images"][0]["upstream"]["digest"]
    text = path.read_text().replace(pinned, "sha256:" + "0" * 64)
    path.write_text(text)
    refused = place.bundle("lock", expect=2)
    assert "pause" in refused.stderr
    assert "--update" in refused.stderr
    assert path.read_text() == text
    done = place.bundle("lock", "--update")
    assert re.search(r"^~ [0-9a-f]{12}  registry.k8s.io/pause:v1.0.0-lab.1 \(was 0{12}\)$", done.stdout, re.MULTILINE)
    assert json.loads(path.read_bytes())["sequence"] == 2


BAD = {
    "tag absent": ("pause:v1.0.0-lab.1", "pause:v9", 2, "does not exist", ""),
    "image absent": ("registry.k8s.io/pause:", "registry.k8s.io/paws:", 2, "does not exist", ""),
    "platform absent": ("linux/amd64, linux/arm64", "linux/amd64, linux/s390x", 2, "no platform linux/s390x", ""),
    "unpinned chart": ("      version: 1.0.0-lab.1\n", "", 2, "version is missing", ""),
    "chart version absent": ("version: 1.0.0-lab.1", "version: 9.9.9", 2, "9.9.9", ""),
    "unknown key": ("name: journey", "nmae: journey", 2, "did you mean 'name'", ""),
    "wrong digest of a tool": (
        "sha256: 210d576a",
        "sha256: 210d576b",
        3,
        "is not the file that the definition pins",
        "",
    ),
}


@pytest.mark.parametrize(("old", "new", "code", "cause", "_"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_with_object_cause_and_next_step(
    lab: LabFacts, tools: Tools, tmp_path: Path, old: str, new: str, code: int, cause: str, _: str
) -> None:
    text = definition(tools, addons=ADDONS)
    assert old in text
    place = workspace(tmp_path, lab, text.replace(old, new, 1))
    done = place.bundle("build", "--key", "keys/bundle.key", expect=code)
    told = " ".join(done.stderr.split())
    assert cause in told
    assert re.search(r" safe: \S.* next: \S", told)
    assert "Traceback" not in told
    assert not list(tmp_path.glob("*.tar"))
    (tmp_path / "bundle.yaml").write_text(text)
    place.build()


def test_an_unreachable_registry_is_exit_5(lab: LabFacts, tools: Tools, tmp_path: Path) -> None:
    place = workspace(tmp_path, lab, definition(tools))
    registries = tmp_path / "registries.yaml"
    registries.write_text("registry.k8s.io: {url: 'http://127.0.0.1:9'}\n")
    done = place.bundle("lock", expect=5, BUNDLE_REGISTRIES=str(registries))
    assert "registry.k8s.io/pause" in done.stderr


@pytest.mark.slow
def test_kill_9_of_build_at_50_moments_changes_nothing(tmp_path: Path) -> None:
    """Each run is killed some steps later than the one before, until one comes to its end; then it is the first again.

    What each left is gone on with, and the bytes are the same.
    """
    work = workspace(tmp_path, None, small_definition(tmp_path))
    wanted = digest_of(work.build(SOURCE_DATE_EPOCH="1700000000"))
    final, cache, chance, step = tmp_path / "small-1.tar", tmp_path / "cache", random.Random(3), 0
    final.unlink()
    environment, codes = {**clean_environment(), **work.environment}, Counter[int | None]()
    while codes[-signal.SIGKILL] < 50:
        if codes.total() % 10 == 0:
            shutil.rmtree(cache)
        step += chance.randrange(1, 40)
        process = forked.start(
            ["build", "--key", "keys/bundle.key"],
            folder=tmp_path,
            environment=environment,
            said=tmp_path / "said",
            dies_at=step,
        )
        process.join()
        codes[process.exitcode] += 1
        step = step if process.exitcode else 0
        assert not final.exists() or digest_of(final) == wanted
        if codes.total() % 5 == 0:
            assert digest_of(work.build()) == wanted
        final.unlink(missing_ok=True)
    assert set(codes) == {-signal.SIGKILL, 0}
    assert digest_of(work.build()) == wanted
    assert not list(tmp_path.glob("*.partial"))
