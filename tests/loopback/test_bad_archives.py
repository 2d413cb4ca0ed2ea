"""Damaged and foreign archives at the command line: exit code 3, a message that helps, and nothing written anywhere."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bundler.lab.lab import LabFacts
from bundler.lab.plain import plain_registry
from bundler.lab.request_log import mutations, read_requests
from tests.journey import Workspace, small_definition, workspace

pytestmark = pytest.mark.loopback
GOOD, BAD = "small-1.tar", "bad.tar"
TRUST = ("--trust", "trust")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with an archive, and one whose keys nobody accepted there."""
    folder = tmp_path_factory.mktemp("bad")
    made = workspace(folder, None, small_definition(folder))
    made.build()
    made.bundle("trust", "init", "--out", "other-keys")
    made.bundle("build", "--key", "other-keys/bundle.key", "--out", "other")
    return made


def good(place: Workspace) -> bytes:
    return (place.folder / GOOD).read_bytes()


def member(place: Workspace, number: int) -> str:
    listed = subprocess.run(["tar", "-tf", place.folder / GOOD], capture_output=True, text=True, check=True)
    return listed.stdout.split()[number]


def offset(place: Workspace, name: str) -> int:
    """Where the content of a member begins, as tar says."""
    argv = ["tar", "-tRvf", place.folder / GOOD]
    listed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    block = next(line.split()[1] for line in listed if line.endswith(name))
    return (int(block.rstrip(":")) + 1) * 512


def refused(place: Workspace, content: bytes, *arguments: str) -> str:
    """Run a command on an archive of this content; it must refuse it, and say all it has to say."""
    (place.folder / BAD).write_bytes(content)
    return told(place, *arguments, expect=3)


def told(place: Workspace, *arguments: str, expect: int, subject: str = BAD) -> str:
    done = place.bundle(*arguments, expect=expect)
    said = " ".join(done.stderr.split())
    assert f" error: {subject} cause: " in said or f"Refused: {subject} cause: " in said, said
    assert " next: " in said, said
    assert "Traceback" not in said
    assert not done.stdout
    return said


def layer(place: Workspace) -> str:
    lock = json.loads((place.folder / "bundle.lock.json").read_bytes())
    blob = lock["images"][0]["manifests"][0]["blobs"][1]
    return f"blobs/sha256/{blob['digest'][7:]}"


CUTS = [100, 512, 40_000, 70_000, 0.6, -1]


@pytest.mark.parametrize("cut", CUTS)
def test_an_archive_that_is_cut_is_refused(place: Workspace, cut: float) -> None:
    whole = good(place)
    end = int(len(whole) * cut) if isinstance(cut, float) else cut
    refused(place, whole[:end], "verify", BAD, *TRUST)


def test_an_empty_archive_is_refused(place: Workspace) -> None:
    assert "is empty" in refused(place, b"", "verify", BAD, *TRUST)


FLIPS = ["its first header", "root.dsse.json", "trust.json", "members.jsonl", "lock.json", "index.json", "a layer"]


@pytest.mark.parametrize("where", FLIPS)
def test_a_flipped_bit_is_found_wherever_it_is(place: Workspace, where: str) -> None:
    content, name = bytearray(good(place)), layer(place) if where == "a layer" else where
    content[10 if where == "its first header" else offset(place, name) + 20] ^= 1
    refused(place, bytes(content), "verify", BAD, *TRUST)


@pytest.mark.parametrize("kind", ["text", "gzip", "another tar"])
def test_what_is_no_bundle_is_told(place: Workspace, kind: str) -> None:
    content = {"text": b"hello\n" * 1000, "gzip": b"\x1f\x8b" + bytes(2000), "another tar": b""}[kind]
    if kind == "another tar":
        content = subprocess.run(["tar", "-cf", "-", "keys"], cwd=place.folder, capture_output=True, check=True).stdout
    refused(place, content, "verify", BAD, *TRUST)


def test_an_archive_signed_by_another_key_is_refused_by_every_command(place: Workspace) -> None:
    foreign = (place.folder / "other" / GOOD).read_bytes()
    with registry(place) as address:
        for command in (("verify", BAD), ("inspect", BAD), ("push", BAD, f"{address}/team")):
            said = refused(place, foreign, *command, *TRUST)
            assert said.startswith("Signature error: bad.tar cause: ")


@contextmanager
def registry(place: Workspace) -> Iterator[str]:
    """A registry that nothing may be asked of."""
    log = place.folder / "registry" / "requests.jsonl"
    with plain_registry(log.parent) as url:
        yield url.removeprefix("http://")
    assert list(read_requests(log)) == []


@pytest.mark.parametrize("cut", [70_000, 0.6, -1])
def test_push_asks_nothing_of_the_registry_for_an_archive_that_is_cut(place: Workspace, cut: float) -> None:
    whole = good(place)
    end = int(len(whole) * cut) if isinstance(cut, float) else cut
    with registry(place) as address:
        refused(place, whole[:end], "push", BAD, f"{address}/team", *TRUST)


def test_a_damaged_layer_never_becomes_a_blob_or_an_image_of_the_registry(place: Workspace, tmp_path: Path) -> None:
    content, name = bytearray(good(place)), layer(place)
    content[offset(place, name) + 39_000] ^= 1
    with plain_registry(tmp_path) as url:
        said = refused(place, bytes(content), "push", BAD, f"{url.removeprefix('http://')}/team", *TRUST)
    assert f"cause: {name} (layer, bytes " in said
    done = [str(line["path"]) for line in mutations(tmp_path / "requests.jsonl") if line["method"] == "PUT"]
    assert not [path for path in done if "/manifests/" in path]
    blobs = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert name.rpartition("/")[2] not in blobs


def test_install_touches_nothing_for_a_bad_archive(place: Workspace, lab: LabFacts) -> None:
    before = len(mutations(lab.requests_file))
    site = ("--site", str(lab.site_file), "--yes", *TRUST)
    known = Workspace(folder=place.folder, environment={**place.environment, **lab.environment()})
    flipped = bytearray(good(place))
    flipped[offset(place, "lock.json") + 20] ^= 1
    for content in (good(place)[:70_000], bytes(flipped), (place.folder / "other" / GOOD).read_bytes()):
        refused(known, content, "install", BAD, *site)
    assert len(mutations(lab.requests_file)) == before


def test_without_an_accepted_trust_root_every_command_prints_how_to_accept_one(place: Workspace) -> None:
    for command in (("verify", GOOD), ("inspect", GOOD), ("push", GOOD, "127.0.0.1:9/team")):
        done = place.bundle(*command, "--trust", "nowhere", expect=3)
        assert "bundle trust accept trust.json --expect sha256:" in " ".join(done.stderr.split())


def test_a_file_that_is_not_there_and_a_folder(place: Workspace) -> None:
    told(place, "verify", "nothing.tar", *TRUST, expect=2, subject="nothing.tar")
    told(place, "verify", "keys", *TRUST, expect=3, subject="keys")
