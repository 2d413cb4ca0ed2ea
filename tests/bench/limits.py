"""What this machine can at best, measured in the same run: SHA-256, disk, loopback, and the wire of a link.

python -m tests.bench.limits FOLDER     # hashes every file once, in one thread
"""

from __future__ import annotations

import hashlib
import http.client
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.bench.corpus import Corpus
from tests.bench.servers import LINK_BYTES_PER_S, LINK_LATENCY_S, OwnRegistry

CONNECTIONS = 16
_BLOCK = 1 << 20
_STREAMS = 4


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds for the bytes of the corpus; each is what one part of the work needs by itself."""

    sha256_s: float
    disk_s: float
    get_s: float
    put_s: float

    @property
    def build_s(self) -> float:
        """No build that writes and hashes what it gets is faster than its slowest part."""
        return max(self.sha256_s, self.disk_s, self.get_s)

    @property
    def push_s(self) -> float:
        return max(self.sha256_s, self.put_s)

    def described(self, total_bytes: int) -> str:
        """One line for people, in MB/s."""
        named = {"SHA-256": self.sha256_s, "disk": self.disk_s, "loopback GET": self.get_s, "loopback PUT": self.put_s}
        return ", ".join(f"{name} {total_bytes / seconds / 1e6:,.0f} MB/s" for name, seconds in named.items())


def measure_limits(corpus: Corpus, source: OwnRegistry, sink: OwnRegistry, folder: Path) -> Limits:
    """Measure what this machine can right now; the better of two runs, since a limit is a best."""
    sizes = sorted(corpus.blobs.items(), key=lambda item: -item[1])
    return Limits(
        sha256_s=_best(lambda: _parallel(_hash, [corpus.path(digest) for digest, _ in sizes])),
        disk_s=_best(lambda: _copy(corpus, folder / "disk")),
        get_s=_best(lambda: _get(corpus, source)),
        put_s=_best(lambda: _put(dict(sizes), sink)),
    )


def link_build_s(corpus: Corpus) -> float:
    """Seconds that a link takes for the bytes of the corpus, over all connections: nothing to measure."""
    return max(corpus.total_bytes / (CONNECTIONS * LINK_BYTES_PER_S), LINK_LATENCY_S)


def link_push_s(corpus: Corpus) -> float:
    """The same of a push, or its largest blob: an upload has one connection."""
    largest = max(corpus.blobs.values())
    return max(link_build_s(corpus), largest / LINK_BYTES_PER_S + 2 * LINK_LATENCY_S)


def _best(work: Callable[[], None]) -> float:
    taken = []
    for _ in range(2):
        begin = time.monotonic()
        work()
        taken.append(time.monotonic() - begin)
    return min(taken)


def _parallel(work: Callable[[Path], None], paths: list[Path]) -> None:
    with ThreadPoolExecutor(_STREAMS) as pool:
        list(pool.map(work, paths))


def _blocks(path: Path) -> Iterator[memoryview]:
    view = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(view):
            yield view[:count]


def _hash(path: Path) -> None:
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)


def _copy(corpus: Corpus, into: Path) -> None:
    with into.open("wb", buffering=0) as file:
        for digest in corpus.blobs:
            for block in _blocks(corpus.path(digest)):
                file.write(block)
    into.unlink()


def _get(corpus: Corpus, source: OwnRegistry) -> None:
    """Every blob to nowhere."""
    names = iter(sorted(corpus.layers))

    def stream(_: int) -> None:
        view = memoryview(bytearray(_BLOCK))
        with closing(http.client.HTTPConnection(source.address)) as connection:
            for name in names:
                connection.request("GET", f"/v2/x/blobs/{name}")
                answer = connection.getresponse()
                while answer.readinto(view):
                    pass

    _streams(stream)


def _put(sizes: Mapping[str, int], sink: OwnRegistry) -> None:
    """As many bytes from nowhere."""
    items = iter(sizes.values())
    block = bytes(_BLOCK)

    def stream(_: int) -> None:
        with closing(http.client.HTTPConnection(sink.address, blocksize=_BLOCK)) as connection:
            for size in items:
                connection.request("POST", "/v2/x/blobs/uploads/")
                begun = connection.getresponse()
                begun.read()
                body = (block[: min(_BLOCK, size - at)] for at in range(0, size, _BLOCK))
                location = f"{begun.headers['Location']}?digest=sha256:none"
                connection.request("PUT", location, body, {"Content-Length": str(size)})
                connection.getresponse().read()

    _streams(stream)
    sink.reset()


def _streams(stream: Callable[[int], None]) -> None:
    with ThreadPoolExecutor(_STREAMS) as pool:
        list(pool.map(stream, range(_STREAMS)))


def main(arguments: list[str]) -> None:
    for path in sorted(Path(arguments[0]).iterdir()):
        _hash(path)


if __name__ == "__main__":
    main(sys.argv[1:])
