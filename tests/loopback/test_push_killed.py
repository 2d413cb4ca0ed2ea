"""Kill -9 in the midst of a push: what is sent again, counted by the registry, stays within its bound."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bundler.domain.digest import Digest
from tests.fakes.archives import Sample, locked_image, sample
from tests.fakes.counting_sink import CountingSink
from tests.fakes.counting_sink import Place as Upload
from tests.fakes.images import image
from tests.journey import clean_environment
from tests.kills import Chain, Command
from tests.serving import write_bundle

pytestmark = pytest.mark.loopback
MIB = 1 << 20
WORKERS = 8
SMALL_BYTES = 64 << 10
"""Of blobs up to here more are under way than there are workers, as many as the registry bears."""
RESUMED_BYTES = 64 * MIB
CHUNK_BYTES = 16 * MIB
"""Of a blob above `RESUMED_BYTES`, whose upload the next process goes on with where the registry keeps it."""
KILLS_BY_BYTES, SEEDS, LINKS = 40, 4, 5
KILLS_BY_REQUESTS, ROUNDS = 30, 3


@dataclass(frozen=True)
class Place:
    """A bundle, the registry that it goes to, and how many bytes and requests an undisturbed push costs."""

    folder: Path
    archive: Path
    sink: CountingSink
    made: Sample
    bytes: int
    requests: int

    def push(self, state: Path) -> Command:
        arguments = ["push", self.archive.name, f"{self.sink.authority}/team", "--trust", "trust", "-j", str(WORKERS)]
        environment = {**clean_environment(), "XDG_STATE_HOME": str(state / "state")}
        return Command(arguments=arguments, folder=self.folder, environment=environment, said=state / "said")

    def sizes(self) -> dict[str, int]:
        """Bytes of each blob that a push brings, by digest."""
        manifests = [manifest for one in self.made.lock.images for manifest in one.manifests]
        manifests += [one.manifest for one in self.made.lock.charts]
        return {str(blob.digest): blob.size for manifest in manifests for blob in manifest.blobs}


def bundle(folder: Path, sink: CountingSink, layers: list[list[bytes]]) -> Place:
    """A bundle with an image of each list of layers; it has been pushed once."""
    made, blobs = sample(), dict[Digest, bytes]()
    images = [
        locked_image(f"team.example/image-{number}:1", image(f"image {number}", layers=content), blobs)
        for number, content in enumerate(layers)
    ]
    images += made.lock.images
    lock = made.lock.model_copy(update={"images": tuple(sorted(images, key=lambda one: str(one.reference)))})
    made = Sample(lock=lock, blobs={**made.blobs, **blobs})
    place = Place(folder, write_bundle(made, folder), sink, made, bytes=0, requests=0)
    place.push(folder).finish()
    undisturbed = replace(place, bytes=sink.bytes.total, requests=sink.requests.total)
    sink.forget()
    return undisturbed


@pytest.fixture(scope="module", params=[True, False], ids=["kept", "given-up"])
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A bundle of 83 MiB: a layer that a registry may keep a part of, some of a few MiB, and many small ones."""
    chance = random.Random(83)
    middle = [chance.randbytes((1 + number) * MIB) for number in range(5)]
    small = [chance.randbytes(3000 + number) for number in range(40)]
    layers = [[bytes(RESUMED_BYTES + 4 * MIB), *small[:10]], [*middle, *small[5:20]], small]
    with CountingSink(keeps_cut=request.param) as sink:
        yield bundle(tmp_path_factory.mktemp("large"), sink, layers)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A bundle of many blobs, all of them small or next to it, whose push is mostly requests."""
    chance = random.Random(8)
    layers = [[chance.randbytes(size + number) for size in (3_000, 30_000, 200_000)] for number in range(24)]
    with CountingSink() as sink:
        yield bundle(
            tmp_path_factory.mktemp("small"),
            sink,
            [[blob for some in layers[first::4] for blob in some] for first in range(4)],
        )


@pytest.mark.parametrize("seed", range(SEEDS // 2))
def test_a_push_killed_again_and_again_sends_little_twice(large: Place, seed: int, tmp_path: Path) -> None:
    """A blob that is complete is never sent again; each worker loses one at most, and of a large one a chunk."""
    chance, left, sink = random.Random(seed), KILLS_BY_BYTES // SEEDS, large.sink
    chain = Chain(command=large.push(tmp_path), tally=sink.bytes, work=large.bytes, settle=sink.wait_until_gone)
    while left:
        before, lost = sink.bytes.total, list[list[Upload]]()
        for _ in chain.run(kills=min(left, LINKS), chance=chance):
            lost.append(unfinished(sink))
        left -= len(lost) - 1
        check(large, lost, sent=sink.bytes.total - before)
        sink.forget()


@pytest.mark.parametrize("part", range(ROUNDS))
def test_a_push_killed_at_any_request_sends_little_twice(small: Place, part: int, tmp_path: Path) -> None:
    """From the first question to the last tag."""
    sink, command = small.sink, small.push(tmp_path)
    for number in range(part, KILLS_BY_REQUESTS, ROUNDS):
        before = sink.bytes.total
        command.kill_at(sink.requests, sink.requests.total + 1 + number * (small.requests - 1) // KILLS_BY_REQUESTS)
        sink.wait_until_gone()
        lost = [unfinished(sink)]
        command.finish()
        check(small, [*lost, unfinished(sink)], sent=sink.bytes.total - before)
        sink.forget()


def unfinished(sink: CountingSink) -> list[Upload]:
    """The uploads into which something was sent, and which are no blob yet."""
    return [place for place in sink.places.values() if place.count and not place.is_done]


def check(place: Place, lost: list[list[Upload]], *, sent: int) -> None:
    """What each of the killed runs left, and the last one, which was not: that is what was sent in vain."""
    sink, sizes = place.sink, place.sizes()
    largest = max(sizes.values())
    assert set(sink.completed.values()) == {1}
    assert set(sizes) <= {digest for _, digest in sink.blobs}
    in_vain = lost[-1]
    assert sent == place.bytes + sum(upload.count for upload in in_vain)
    size_of = {upload.digest: sizes[upload.digest] if upload.digest else largest for upload in in_vain}  # "" in chunks
    for before, after in zip([[], *lost], lost, strict=False):
        new = [upload for upload in after if upload in in_vain and all(upload is not one for one in before)]
        assert sum(size_of[upload.digest] > SMALL_BYTES for upload in new) <= WORKERS
        assert len({upload.digest for upload in new}) == len(new), "one blob was under way twice"
        assert all(upload.count <= most_again(size_of[upload.digest], sink) for upload in new)


def most_again(size: int, sink: CountingSink) -> int:
    """Bytes of a blob that may be sent again after a kill."""
    return CHUNK_BYTES if size > RESUMED_BYTES and sink.keeps_cut else size
