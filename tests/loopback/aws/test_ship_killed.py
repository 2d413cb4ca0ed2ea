"""Kill -9 in the midst of `bundle ship`: what is sent again, counted by S3, is one part of each worker at most."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from bundler.domain.digest import Digest
from tests.fakes.archives import Sample, locked_image, sample
from tests.fakes.counting_s3 import Attempt, CountingS3, counting_s3
from tests.fakes.images import image
from tests.journey import clean_environment
from tests.kills import Chain, Command
from tests.serving import write_bundle

pytestmark = pytest.mark.loopback
MIB = 1 << 20
WORKERS = 8
PART = MIB
"""In place of 16 MiB: many of them, and a small bundle."""
KILLS, SEEDS, LINKS = 45, 3, 5


@dataclass(frozen=True)
class Place:
    folder: Path
    archive: Path

    def ship(self, server: CountingS3, said: Path) -> Command:
        environment = {
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "eu-central-1",
            "AWS_ENDPOINT_URL": server.url,
        }
        return Command(
            arguments=["ship", self.archive.name, "s3://bucket/in", "-j", str(WORKERS)],
            folder=self.folder,
            environment={**clean_environment(), **environment},
            said=said,
            constants={"bundler.domain.shipment:LEAST_PART_BYTES": PART},
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A bundle of 32 MiB."""
    folder, blobs, made = tmp_path_factory.mktemp("killed"), dict[Digest, bytes](), sample()
    layers = [random.Random(32).randbytes(32 * MIB)]
    images = [*made.lock.images, locked_image("team.example/large:1", image("large", layers=layers), blobs)]
    lock = made.lock.model_copy(update={"images": tuple(sorted(images, key=lambda one: str(one.reference)))})
    return Place(folder, write_bundle(Sample(lock=lock, blobs={**made.blobs, **blobs}), folder))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_ship_killed_again_and_again_sends_one_part_of_each_worker_twice(
    place: Place, seed: int, tmp_path: Path
) -> None:
    chance, left = random.Random(seed), KILLS // SEEDS
    content = place.archive.read_bytes()
    while left:
        with counting_s3(tmp_path) as server:
            runs = killed(
                Chain(
                    command=place.ship(server, tmp_path / "said"),
                    tally=server.bytes,
                    work=len(content),
                    settle=server.wait_until_gone,
                ),
                server,
                kills=min(left, LINKS),
                chance=chance,
            )
            left -= len(runs) - 1
            key = f"bucket/in/{place.archive.name}"
            assert server.content(key) == content
            server.objects.pop(key).path.unlink()
            assert not server.uploads
        check(runs, len(content))


def killed(chain: Chain, server: CountingS3, *, kills: int, chance: random.Random) -> list[list[Attempt]]:
    """What was sent by each of the runs that were killed, and by the last one, which was not."""
    runs = list[list[Attempt]]()
    for _ in chain.run(kills=kills, chance=chance):
        runs.append(list(server.attempts))
        server.attempts.clear()
    return runs


def check(runs: list[list[Attempt]], size: int) -> None:
    """Each part was stored once; each worker of a killed run had one under way that was not."""
    attempts = [attempt for run in runs for attempt in run]
    stored = sorted(attempt.part for attempt in attempts if attempt.is_stored)
    assert stored == list(range(1, -(-size // PART) + 1))
    for run in runs:
        cut = [attempt.count for attempt in run if not attempt.is_stored]
        assert len(cut) <= WORKERS
        assert max(cut, default=0) <= PART
    assert all(attempt.is_stored for attempt in runs[-1])
