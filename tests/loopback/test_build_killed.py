"""Kill -9 in the midst of a build: what is fetched again, counted by the registry, stays within its bound."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bundler.domain.digest import Digest
from tests.fakes.counting_source import CountingSource, Sent
from tests.fakes.images import image, index
from tests.journey import Workspace, clean_environment, workspace
from tests.kills import Chain, Command

pytestmark = pytest.mark.loopback
MIB = 1 << 20
WORKERS = 8
AGAIN_BYTES = 8 * MIB
"""Of the answer that a worker was reading: what was not recorded yet, and what stood in the two sockets."""
KILLS, SEEDS, LINKS = 90, 6, 5


@dataclass
class Place:
    """The bundle, where it comes from, what it becomes, and how many bytes of blobs an undisturbed build fetches."""

    folder: Workspace
    source: CountingSource
    archive: bytes
    work: int

    def build(self, out: Path) -> Command:
        arguments = ["build", "--locked", "--key", "keys/bundle.key", "--out", str(out), "-j", str(WORKERS)]
        environment = {**clean_environment(), **self.folder.environment}
        return Command(arguments=arguments, folder=self.folder.folder, environment=environment, said=out / "said")

    def runs(self, out: Path, *, kills: int, chance: random.Random) -> list[list[Sent]]:
        """What was sent to each of the builds that were killed, and to the last one, which was not."""
        source, answers = self.source, list[list[Sent]]()
        chain = Chain(command=self.build(out), tally=source.bytes, work=self.work, settle=source.wait_until_gone)
        source.log.clear()
        for _ in chain.run(kills=kills, chance=chance):
            answers.append(list(source.log))
            source.log.clear()
        return answers


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A locked bundle of 53 MiB: a layer in parts, two below that, and many small ones."""
    folder, chance = tmp_path_factory.mktemp("killed"), random.Random(90)
    middle = [chance.randbytes(12 * MIB), chance.randbytes(5 * MIB)]
    small = [chance.randbytes(3000 + number) for number in range(30)]
    images = {
        "team/large": image("large", layers=[chance.randbytes(36 * MIB)]),
        "team/mixed": index(image("mixed", layers=[*middle, *small[:15]])),
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
        locked = source.bytes.total
        archive = made.build("--out", str(folder / "undisturbed")).read_bytes()
        yield Place(made, source, archive, work=source.bytes.total - locked)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_build_killed_again_and_again_fetches_little_twice(place: Place, seed: int, tmp_path: Path) -> None:
    chance, left = random.Random(seed), KILLS // SEEDS
    while left:
        runs = place.runs(tmp_path, kills=min(left, LINKS), chance=chance)
        left -= len(runs) - 1
        assert (tmp_path / "killed-1.tar").read_bytes() == place.archive
        (tmp_path / "killed-1.tar").unlink()
        again = lost(runs)
        assert sum(sent.stop - sent.start for run in runs for sent in run) == place.work + sum(map(sum, again))
        check(again)


def check(again: list[list[int]]) -> None:
    """Each worker of a killed run lost one answer at most, and of that little: never a blob that was finished."""
    assert max(map(len, again)) <= WORKERS
    assert max(max(counts, default=0) for counts in again) <= AGAIN_BYTES
    assert not again[-1], "the run that was not killed"


def lost(runs: list[list[Sent]]) -> list[list[int]]:
    """By run, how many bytes of each answer left once more in later ones, where there are any."""
    again: list[dict[int, int]] = [{} for _ in runs]
    held: dict[Digest, list[tuple[int, int, int, int]]] = {}
    for run, answers in enumerate(runs):
        for number, new in enumerate(answers):
            kept = [(new.start, new.stop, run, number)]
            for start, stop, owner, answer in held.get(new.digest, []):
                count = max(0, min(stop, new.stop) - max(start, new.start))
                if count:
                    again[owner][answer] = again[owner].get(answer, 0) + count
                kept += [(start, min(stop, new.start), owner, answer), (max(start, new.stop), stop, owner, answer)]
            held[new.digest] = [span for span in kept if span[0] < span[1]]
    return [list(counts.values()) for counts in again]
