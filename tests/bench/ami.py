"""Export and restore of an AMI's blocks, against a stub that answers each request 100 ms late."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bundler.archive.packs import unpack
from bundler.cache import Cache
from bundler.domain.blocks import BLOCK_BYTES, BlockIndex, Volume, parse_block_index
from bundler.domain.packs import PackTable, parse_pack_table
from tests.bench.archive import lay_out
from tests.bench.corpus import HOME
from tests.bench.images import INSTALL, find_path
from tests.bench.measure import Command, Peer, Place, Scenario, Where, run, stub
from tests.bench.musts import MUSTS
from tests.bench.sides import INDEX, PACKS, RAW, TABLE
from tests.bench.stub import SNAPSHOT


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is moved, and how late each answer is."""

    listed: int = 2048
    distinct: int = 2048
    gib: int = 1  # no holes: who uploads a file reads all of it
    latency_ms: float = 100

    @property
    def options(self) -> tuple[str, ...]:
        values = {
            "--listed": self.listed, "--distinct": self.distinct, "--gib": self.gib, "--latency-ms": self.latency_ms
        }  # fmt: skip
        return tuple(str(each) for pair in values.items() for each in pair)


@contextmanager
def prepared(size: Size, folder: Path) -> Iterator[Place]:
    """Start the stub, and prepare what restore begins with: an exported AMI, and the same blocks as they are."""
    with stub(*size.options) as facts:
        place = Place(stub=facts, prepared=folder, folder=folder)
        for side, verify in (("ours-export", packs_are_right), ("boto3-export", raw_is_right)):
            assert run(side_command(side)(place), place, verify).verified
        _as_an_archive(folder)
        numbers = [number for number, _ in expected(facts).volumes[0]]
        (folder / "numbers.json").write_text(json.dumps({"gib": size.gib, "blocks": numbers}))
        yield place


def _as_an_archive(folder: Path) -> None:
    """Put the packs that were exported into one file."""
    table = parse_pack_table((folder / TABLE).read_bytes(), subject=TABLE)
    cache = Cache(folder)
    lay_out([cache.path(pack) for pack in table.packs], folder / PACKS)
    shutil.rmtree(folder / "blobs")


def ours_and_peaks(size: Size, folder: Path) -> Mapping[str, float]:
    """Export and restore; both must be right. Return the most memory that each had, in MiB."""
    folder.mkdir(parents=True)
    with stub(*size.options) as facts:
        place = Place(stub=facts, prepared=folder, folder=folder)
        export = run(side_command("ours-export")(place), place, packs_are_right)
        _as_an_archive(folder)
        restore = run(side_command("ours-restore")(place), place, snapshot_is_right)
    assert export.verified
    assert restore.verified
    return {"export": export.peak_mib, "restore": restore.peak_mib}


@contextmanager
def export_place(begun: Place) -> Iterator[Place]:
    """A run of an export has an empty folder."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=begun.prepared) as name:
        yield Place(stub=begun.stub, prepared=begun.prepared, folder=Path(name))


def side_command(side: str) -> Command:
    """Run one of `tests.bench.sides`; restores read what was prepared."""

    def command(place: Place) -> list[str]:
        folder = place.prepared if side.endswith("restore") else place.folder
        return [sys.executable, "-m", "tests.bench.sides", side, place.url, str(folder)]

    return command


def scenarios(where: Where) -> Sequence[Scenario]:
    """Both directions, each against the bare loop and coldsnap."""
    coldsnap = find_path("coldsnap")
    return (
        Scenario(
            name="ami-export",
            ours=side_command("ours-export"),
            verify=packs_are_right,
            where=where,
            peers=(_boto3("export"), _coldsnap(coldsnap, "export")),
        ),
        Scenario(
            name="ami-restore",
            ours=side_command("ours-restore"),
            verify=snapshot_is_right,
            where=where,
            peers=(_boto3("restore"), _coldsnap(coldsnap, "restore")),
        ),
    )


def _boto3(direction: str) -> Peer:
    import boto3

    return Peer(
        name="boto3",
        version=str(boto3.__version__),
        command=side_command(f"boto3-{direction}"),
        verify=raw_is_right if direction == "export" else snapshot_is_right,
        must=MUSTS[f"ami-{direction}"]["boto3"],
        is_limit=True,
    )


def _coldsnap(program: str | None, direction: str) -> Peer:
    def export(place: Place) -> list[str]:
        return [str(program), "--endpoint", place.url, "download", "--no-progress", SNAPSHOT, str(place.folder / RAW)]

    def restore(place: Place) -> list[str]:
        return [str(program), "--endpoint", place.url, "upload", "--no-progress", str(place.prepared / RAW)]

    commands = {"export": export, "restore": restore}
    return Peer(
        name="coldsnap",
        version=_version(program),
        command=None if program is None else commands[direction],
        verify=raw_is_right if direction == "export" else snapshot_is_right,
    )


def _version(program: str | None) -> str:
    """What cargo noted: the program does not tell."""
    if program is None:
        return f"missing: {INSTALL['coldsnap']}"
    notes = HOME / ".crates.toml"
    found = re.search(r"coldsnap (\d[^ ]*) ", notes.read_text()) if notes.is_file() else None
    return found[1] if Path(program).parent == HOME / "bin" and found is not None else ""


def expected(facts: Mapping[str, object]) -> BlockIndex:
    """The block index of the stub's snapshot."""
    sha256 = [bytes.fromhex(each) for each in _list(facts["sha256"])]
    listed, step, gib = (int(str(facts[name])) for name in ("listed", "step", "gib"))
    records = ((place * step, sha256[place % len(sha256)]) for place in range(listed))
    return BlockIndex(volumes=(Volume.of("/dev/xvda", gib, records),))


def _list(value: object) -> list[str]:
    assert isinstance(value, list)
    return [str(each) for each in value]


def packs_are_right(place: Place, said: str) -> bool:
    """Whether index, table and packs of an export give the stub's blocks."""
    index = parse_block_index((place.folder / INDEX).read_bytes(), subject=INDEX)
    table = parse_pack_table((place.folder / TABLE).read_bytes(), subject=TABLE)
    wanted = expected(place.stub)
    return index == wanted and set(_unpacked(table, Cache(place.folder))) == set(wanted.distinct())


def _unpacked(table: PackTable, cache: Cache) -> Iterator[bytes]:
    for frame in table.frames:
        with cache.path(table.packs[frame.pack]).open("rb") as file:
            file.seek(frame.offset)
            content = file.read(frame.length)
        for _, block in unpack(content, frame, table=table, subject="pack"):
            yield hashlib.sha256(block).digest()


def raw_is_right(place: Place, said: str) -> bool:
    """Whether a file holds the stub's blocks, each at its place."""
    with (place.folder / RAW).open("rb") as file:
        for number, digest in expected(place.stub).volumes[0]:
            file.seek(number * BLOCK_BYTES)
            if hashlib.sha256(file.read(BLOCK_BYTES)).digest() != digest:
                return False
    return True


def snapshot_is_right(place: Place, said: str) -> bool:
    """Whether the stub holds the blocks, and was asked to seal them."""
    found = re.search(r"snap-[0-9a-f]+", said)
    if found is None:
        return False
    with urllib.request.urlopen(f"{place.url}/_put/{found[0]}", timeout=60) as answer:
        put = json.load(answer)
    volume = expected(place.stub).volumes[0]
    return bool(put == {"count": len(volume), "sha256": volume.aggregate.hex(), "completed": True})
