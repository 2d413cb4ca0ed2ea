"""`bundle build --split` and what follows, as processes: kills, several folders, the lab's S3, repair, memory."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bundler.archive.identity import self_consistent
from bundler.lab.lab import LabFacts
from bundler.lab.tools import Tools
from bundler.wiring import Surroundings, archive_source
from tests.fakes.sliced import Sliced
from tests.journey import Workspace, definition, small_definition, workspace

pytestmark = pytest.mark.loopback
SPLIT = ("--split", "200KiB")


@pytest.fixture
def place(lab: LabFacts, tmp_path: Path) -> Workspace:
    """A workspace with keys, a definition and its lock."""
    made = workspace(tmp_path, lab, small_definition(tmp_path))
    made.environment = {**made.environment, "AWS_ENDPOINT_URL": lab.aws_url}
    return made


def cut(place: Workspace) -> Sliced:
    table = place.build(*SPLIT)
    assert table.name == "small-1.parts.json"
    made = Sliced(table_path=table, whole=b"")
    return Sliced(table_path=table, whole=b"".join(made.path(part.number).read_bytes() for part in made.parts))


def test_the_parts_are_the_archive_that_build_makes_without_split(place: Workspace) -> None:
    whole = place.build()
    content = whole.read_bytes()
    made = cut(place)
    assert made.whole == content
    assert not whole.exists()
    assert place.build(*SPLIT) == place.build() == made.table_path
    refused = place.bundle("build", "--key", "keys/bundle.key", "--split", "300K", expect=2)
    assert "complete, in parts of 204800 bytes" in " ".join(refused.stderr.split())
    made.path(1).unlink()
    assert place.build() == whole
    assert whole.read_bytes() == content


def test_every_command_reads_parts_from_several_folders(place: Workspace) -> None:
    made = cut(place)
    for name, numbers in {"disk": (1, 3), "stick": (0,)}.items():
        (place.folder / name).mkdir()
        for number in numbers:
            made.path(number).rename(place.folder / name / made.parts[number].name)
    options = ("small-1.parts.json", "--trust", "trust", "-o", "json")
    shown = json.loads(place.bundle("inspect", *options, "--parts", "disk", "--parts", "stick").stdout)
    assert shown["bytes"] == len(made.whole)
    done = json.loads(place.bundle("verify", *options, BUNDLE_PARTS="disk stick").stdout)
    assert done["root"] == shown["root"]
    refused = place.bundle("verify", *options, "--parts", "stick", expect=3)
    assert "small-1.tar.001 is missing; small-1.tar.003 is missing" in " ".join(refused.stderr.split())


KILLED = """\
import os, signal, sys
from pathlib import Path
from bundler.archive.slicing import slice_archive
from bundler.domain.digest import Digest
left = [int(sys.argv[2])]
def failpoint(name):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
slice_archive(Path("small-1.tar"), root=Digest(sys.argv[1]), part_bytes=200 << 10, failpoint=failpoint)
"""


@pytest.mark.parametrize("at", [3, 6])
def test_killed_while_it_cuts_the_next_build_finishes_and_fetches_nothing(place: Workspace, at: int) -> None:
    done = json.loads(place.bundle("build", "--key", "keys/bundle.key", "-o", "json").stdout)
    content = (place.folder / "small-1.tar").read_bytes()
    killed = subprocess.run([sys.executable, "-c", KILLED, done["root"], str(at)], cwd=place.folder, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (place.folder / "small-1.tar.slicing").exists()
    again = place.bundle("build", "--key", "keys/bundle.key", "-o", "json")
    assert "small-1.parts.json is complete already" in again.stderr
    made = Sliced(table_path=place.folder / json.loads(again.stdout)["archive"], whole=content)
    assert b"".join(made.path(part.number).read_bytes() for part in made.parts) == content
    assert {path.name for path in place.folder.glob("small-1.*")} == {
        made.table_path.name,
        *(part.name for part in made.parts),
    }


def test_parts_are_shipped_read_from_s3_and_mended_from_there(place: Workspace, lab: LabFacts) -> None:
    made = cut(place)
    prefix = f"s3://{lab.bucket}/parts"
    shipped = json.loads(place.bundle("ship", "small-1.parts.json", prefix, "-o", "json").stdout)
    assert shipped["archive"] == f"{prefix}/small-1.parts.json"
    slip = json.loads((place.folder / "small-1.slip.json").read_bytes())
    assert [part["address"] for part in slip["parts"]] == [f"{prefix}/{part.name}" for part in made.parts]
    assert slip["archive"]["name"] == "small-1.parts.json"
    done = json.loads(place.bundle("verify", shipped["archive"], "--trust", "trust", "-o", "json").stdout)
    assert (done["root"], done["bytes"]) == (slip["root"], len(made.whole))

    made.flip(1)
    made.path(2).unlink()
    refused = place.bundle("verify", "small-1.parts.json", "--trust", "trust", expect=3)
    told = " ".join(refused.stderr.split())
    assert "small-1.tar.001 is damaged" in told
    assert "small-1.tar.002 is missing" in told
    place.bundle("verify", "small-1.parts.json", "--trust", "trust", "--parts", prefix)
    mended = json.loads(place.bundle("repair", "small-1.parts.json", "--from", prefix, "-o", "json").stdout)
    assert mended["mended"] == ["small-1.tar.001", "small-1.tar.002"]
    assert made.parts[2].size < mended["fetchedBytes"] < 2 * made.table.part_bytes
    assert b"".join(made.path(part.number).read_bytes() for part in made.parts) == made.whole
    assert "nothing was damaged" in place.bundle("repair", "small-1.parts.json").stdout


def test_without_a_copy_and_without_a_cache_the_registry_mends(lab: LabFacts, tools: Tools, tmp_path: Path) -> None:
    made = workspace(tmp_path, lab, definition(tools))
    named = made.build("--split", "8M")
    lock = json.loads((tmp_path / "bundle.lock.json").read_bytes())
    layer = max(lock["images"][0]["manifests"][0]["blobs"], key=lambda blob: int(blob["size"]))
    path = f"blobs/sha256/{layer['digest'].removeprefix('sha256:')}"
    files = sorted(tmp_path.glob("journey-1.tar.*"))
    before = [file.read_bytes() for file in files]
    with archive_source(str(named), Surroundings()) as source:
        member = next(member for member in self_consistent(source).members if member.path == path)
    number, at = divmod(member.offset, 8 << 20)
    content = bytearray(before[number])
    content[at] ^= 1
    files[number].write_bytes(content)
    shutil.rmtree(tmp_path / "cache")
    mended = json.loads(made.bundle("repair", named.name, "-o", "json").stdout)
    assert mended["mended"] == [files[number].name]
    assert mended["fetchedBytes"] == layer["size"]
    assert [file.read_bytes() for file in files] == before
    assert sorted(tmp_path.glob("journey-1.tar.*")) == files


def test_a_damaged_part_is_not_shipped(place: Workspace, lab: LabFacts) -> None:
    made = cut(place)
    made.flip(2)
    refused = place.bundle("ship", "small-1.parts.json", f"s3://{lab.bucket}/damaged", expect=3)
    assert "bundle repair small-1.parts.json --from COPY" in " ".join(refused.stderr.split())


def test_a_missing_part_of_a_prefix_is_named(place: Workspace, lab: LabFacts) -> None:
    made = cut(place)
    prefix = f"s3://{lab.bucket}/lacking"
    place.bundle("ship", "small-1.parts.json", prefix)
    for name in ("disk", "empty"):
        (place.folder / name).mkdir()
    shutil.move(made.path(1), place.folder / "disk")
    refused = place.bundle("inspect", "small-1.parts.json", "--trust", "trust", "--parts", "empty", expect=3)
    assert "small-1.tar.001 is missing" in " ".join(refused.stderr.split())
    done = place.bundle("inspect", "small-1.parts.json", "--trust", "trust", "--parts", "empty", "--parts", prefix)
    assert "small-1" in done.stdout


@pytest.mark.slow
def test_memory_does_not_follow_the_size_of_what_is_cut_read_and_mended(lab: LabFacts, tmp_path: Path) -> None:
    peaks = []
    for name, each in (("small", 40_000), ("large", 4 << 20)):
        made = workspace(tmp_path / name, lab, small_definition(tmp_path / name, name=name, layer_bytes_each=each))
        (made.folder / "copy").mkdir()
        shutil.copy(made.build(), made.folder / "copy")
        size = str(max(100_000, (made.folder / f"{name}-1.tar").stat().st_size // 8))
        peak = made.peak_mib("build", "--key", "keys/bundle.key", "--split", size)
        (made.folder / f"{name}-1.tar.003").unlink()
        mending = made.peak_mib("repair", f"{name}-1.parts.json", "--from", "copy")
        peaks.append((peak, mending, made.peak_mib("verify", f"{name}-1.parts.json", "--trust", "trust")))
    for small, large in zip(*peaks, strict=True):
        assert large - small < 20, peaks
