"""Kill -9 in the midst of a push: what is sent again, counted by the registry, stays within its bound."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bundler.domain.digest import Digest
from tests import forked
from tests.fakes.archives import Sample, locked_image, sample
from tests.fakes.counting_sink import CountingSink
from tests.fakes.images import image, layer_bytes
from tests.journey import clean_environment
from tests.serving import write_bundle

pytestmark = pytest.mark.loopback
MIB = 1 << 20
WORKERS = 8
CHUNK_BYTES = 16 * MIB
"""Of a blob above 64 MiB, whose upload the next process goes on with."""
LARGE = bytes(80 * MIB)
KILLS = 24


@dataclass
class Place:
    folder: Path
    archive: Path
    sink: CountingSink
    made: Sample

    def start(self, said: Path):  # type: ignore[no-untyped-def]
        arguments = ["push", self.archive.name, f"{self.sink.authority}/team", "--trust", "trust", "-j", str(WORKERS)]
        environment = {**clean_environment(), "XDG_STATE_HOME": str(said.parent / "state")}
        return forked.start(arguments, folder=self.folder, environment=environment, said=said)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A bundle of 100 MiB: a layer that is sent in chunks, some of a few MiB, and many small ones."""
    folder = tmp_path_factory.mktemp("killed")
    made, blobs = sample(), dict[Digest, bytes]()
    middle = [layer_bytes(f"middle {number}", (1 + number) * MIB) for number in range(5)]
    small = [layer_bytes(f"small {number}", 3000 + number) for number in range(40)]
    images = [
        locked_image("team.example/large:1", image("large", layers=[LARGE, *small[:10]]), blobs),
        locked_image("team.example/middle:1", image("middle", layers=[*middle, *small[5:20]]), blobs),
        locked_image("team.example/small:1", image("small", layers=small), blobs),
    ]
    images += made.lock.images
    lock = made.lock.model_copy(update={"images": tuple(sorted(images, key=lambda one: str(one.reference)))})
    made = Sample(lock=lock, blobs={**made.blobs, **blobs})
    with CountingSink() as sink:
        yield Place(folder, write_bundle(made, folder), sink, made)


@pytest.mark.parametrize("seed", range(4))
def test_a_push_killed_again_and_again_sends_little_twice(place: Place, seed: int, tmp_path: Path) -> None:
    """A blob that is complete is never sent again; each worker loses one at most, and of a large one a chunk."""
    chance, sink, said, kills = random.Random(seed), place.sink, tmp_path / "said", 0
    while kills < KILLS // 4:
        sink.forget()
        killed, is_done = 0, False
        while not is_done:
            reached = sink.after(chance.randrange(1, 12 * MIB) if kills + killed < KILLS // 4 else 1 << 40)
            process = place.start(said)
            while not reached.wait(0.02) and process.is_alive():
                pass
            is_done = not forked.kill(process)
            killed += not is_done
            wait_until_quiet(sink)
        assert process.exitcode == 0, said.read_text()
        check(place, killed)
        kills += killed


def wait_until_quiet(sink: CountingSink) -> None:
    """Until the server has taken what stood in the connections of a process that is gone."""
    before = -1
    while before != (before := sink.received):
        time.sleep(0.01)


def check(place: Place, kills: int) -> None:
    sink = place.sink
    assert set(sink.completed.values()) == {1}
    wanted = {str(blob.digest) for one in place.made.lock.images for m in one.manifests for blob in m.blobs}
    assert wanted <= {digest for _, digest in sink.blobs}
    assert len(sink.places) - len(sink.completed) <= kills * WORKERS
    sent_once = sum(sink.blobs[key] for key in sink.completed)
    assert sink.received - sent_once <= kills * (CHUNK_BYTES + sum(range(1, 6)) * MIB)
