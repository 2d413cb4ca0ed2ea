"""Kill -9 in the midst of a build: what is fetched again, counted by the registry, stays within its bound."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bundler.domain.digest import Digest
from tests import forked
from tests.fakes.counting_source import CountingSource, Sent
from tests.fakes.images import image, index, layer_bytes
from tests.journey import Workspace, clean_environment, workspace

pytestmark = pytest.mark.loopback
MIB = 1 << 20
WORKERS = 8
AGAIN_BYTES = 8 * MIB
"""Of the answer that a worker was reading: what was not recorded yet, and what stood in the two sockets."""
KILLS = 66


@dataclass
class Place:
    work: Workspace
    source: CountingSource
    archive: bytes

    def start(self, out: Path):  # type: ignore[no-untyped-def]
        arguments = ["build", "--locked", "--key", "keys/bundle.key", "--out", str(out), "-j", str(WORKERS)]
        environment = {**clean_environment(), **self.work.environment}
        return forked.start(arguments, folder=self.work.folder, environment=environment, said=out / "said")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A locked bundle of 110 MiB: two layers in parts, one below that, and many small ones."""
    folder = tmp_path_factory.mktemp("killed")
    small = [layer_bytes(f"small {number}", 3000 + number) for number in range(30)]
    images = {
        "team/large": image("large", layers=[layer_bytes("a", 45 * MIB), layer_bytes("b", 36 * MIB)]),
        "team/mixed": index(image("mixed", layers=[layer_bytes("c", 25 * MIB), *small[:15]])),
        "team/small": image("small", layers=small[15:]),
    }
    with CountingSource(images) as source:
        names = "\n".join(
            f"  - {{image: '{name}', reason: a test}}" for name in (f"up.example/{key}:1" for key in images)
        )
        (folder / "tool").write_bytes(b"#!/bin/sh\n")
        program = f"{{path: tool, sha256: {hashlib.sha256(b'#!/bin/sh' + chr(10).encode()).hexdigest()}}}"
        text = f"""\
apiVersion: eks-bundler/v1
kind: Bundle
name: killed
kubernetesVersion: "1.36"
source: {{region: eu-central-1}}
platforms: [linux/amd64]
operatorPlatforms: [linux/amd64]
images:
{names}
tools:
  helm: {{version: 4.1.4, platforms: {{linux/amd64: {program}}}}}
  kubectl: {{version: 1.35.2, platforms: {{linux/amd64: {program}}}}}
"""
        made = workspace(folder, None, text)
        (folder / "registries.yaml").write_text(f"up.example: {{url: '{source.url}'}}\n")
        made.environment = {**made.environment, "BUNDLE_REGISTRIES": str(folder / "registries.yaml")}
        made.bundle("lock")
        archive = made.build("--out", str(folder / "undisturbed"))
        yield Place(made, source, archive.read_bytes())


def lost(answers: list[Sent]) -> list[int]:
    """How many bytes of each answer left once more in the next one that held them, where there are any."""
    last: dict[Digest, list[tuple[int, int, int]]] = {}
    counts = [0] * len(answers)
    for number, new in enumerate(answers):
        kept = [(new.start, new.stop, number)]
        for start, stop, owner in last.get(new.digest, []):
            counts[owner] += max(0, min(stop, new.stop) - max(start, new.start))
            kept += [(start, min(stop, new.start), owner), (max(start, new.stop), stop, owner)]
        last[new.digest] = [part for part in kept if part[0] < part[1]]
    return [count for count in counts if count]


@pytest.mark.parametrize("seed", range(6))
def test_a_build_killed_again_and_again_fetches_little_twice(place: Place, seed: int, tmp_path: Path) -> None:
    chance, kills, runs = random.Random(seed), 0, list[list[Sent]]()
    while kills < KILLS // 6:
        place.source.log.clear()
        reached = place.source.after(chance.randrange(1, 14 * MIB))
        process = place.start(tmp_path)
        while not reached.wait(0.02) and process.is_alive():
            pass
        was_killed = forked.kill(process)
        kills += was_killed
        runs.append(list(place.source.log))
        if not was_killed:
            check(runs)
            assert process.exitcode == 0, (tmp_path / "said").read_text()
            (tmp_path / "killed-1.tar").unlink()
            runs.clear()
    process = place.start(tmp_path)
    process.join()
    assert (tmp_path / "killed-1.tar").read_bytes() == place.archive
    check(runs)


def check(runs: list[list[Sent]]) -> None:
    """Each worker of a killed run lost one answer at most, and of that little: never a blob that was finished."""
    again = lost([sent for run in runs for sent in run])
    assert len(again) <= WORKERS * len(runs)
    assert max(again, default=0) <= AGAIN_BYTES
