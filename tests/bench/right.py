"""Whether the result of a run is right: every blob there, with the bytes that its digest names."""

from __future__ import annotations

import hashlib
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.bench.corpus import Corpus
from tests.bench.images import LAYOUT, OUT
from tests.bench.measure import Place
from tests.bench.ours import PREFIX, UPSTREAM
from tests.bench.servers import OwnRegistry

MOST_DELTA, DELTA_SLACK_BYTES = 1.02, 4 << 20
"""Of the bytes that are new; metadata and tools are carried whole, which shows in a small corpus alone."""
OURS_BELOW = f"{PREFIX}/{UPSTREAM}/"
"""Where our push puts the repositories of the corpus."""


def required(corpus: Corpus, *, configs: bool) -> frozenset[str]:
    """Layers of both platforms, and configs where nobody may change them; attestations may stay behind.

    skopeo makes of Docker's configs those of OCI when it writes a layout.
    """
    return frozenset(digest for image in corpus.images for digest in _blobs(corpus, image["digest"], configs=configs))


def _blobs(corpus: Corpus, digest: str, *, configs: bool) -> Iterator[str]:
    document = corpus.document(digest)
    for manifest in document.get("manifests", ()):
        if manifest["platform"]["os"] != "unknown":
            yield from _blobs(corpus, manifest["digest"], configs=configs)
    if "config" in document:
        yield from (blob["digest"] for blob in (*([document["config"]] if configs else ()), *document["layers"]))


def tar_is_right(corpus: Corpus, name: str, place: Place, said: str) -> bool:
    """Whether a tar has every blob, each with the bytes that its digest names."""
    return required(corpus, configs=name != OUT) <= _whole_blobs(corpus, place.folder / name)


def _whole_blobs(corpus: Corpus, path: Path) -> frozenset[str]:
    """The blobs of the corpus that a tar has; none where one of them is not what its digest names."""
    found = set()
    with tarfile.open(path) as tar:
        for member in tar:
            digest = member.name.rpartition("/")[2]
            if member.isfile() and f"sha256:{digest}" in corpus.blobs:
                content = tar.extractfile(member)
                assert content is not None
                if hashlib.file_digest(content, "sha256").hexdigest() != digest:  # type: ignore[arg-type]
                    return frozenset()
                found.add(f"sha256:{digest}")
    return frozenset(found)


def delta_is_right(corpus: Corpus, before: Corpus, name: str, place: Place, said: str) -> bool:
    """Whether a tar has every blob that is new since `before`, and hardly a byte more."""
    wanted = required(corpus, configs=True) - before.layers
    return (
        _whole_blobs(corpus, place.folder / name) >= wanted
        and (place.folder / name).stat().st_size <= MOST_DELTA * new_bytes(corpus, before) + DELTA_SLACK_BYTES
    )


def new_bytes(corpus: Corpus, before: Corpus) -> int:
    """Bytes of what an earlier release did not have."""
    return sum(size for digest, size in corpus.blobs.items() if digest not in before.blobs)


def each_tar_is_there(corpus: Corpus, place: Place, said: str) -> bool:
    return len(list(place.folder.glob(f"{LAYOUT}-*.tar"))) == len(corpus.images)


def out_is_there(place: Place, said: str) -> bool:
    return (place.folder / OUT).is_file()


def every_file_is_there(corpus: Corpus, place: Place, said: str) -> bool:
    """Whether a folder has each blob with its size."""
    found = {f"sha256:{path.name}": path.stat().st_size for path in (place.folder / LAYOUT).iterdir()}
    return all(found.get(digest) == corpus.blobs[digest] for digest in corpus.layers)


def nothing(place: Place, said: str) -> bool:
    return True


def sink_is_right(corpus: Corpus, sink: OwnRegistry, below: str, place: Place, said: str) -> bool:
    """Whether every image is there by its tag, and in its repository each of its blobs."""
    blobs, manifests = sink.held()
    return all(
        f"{below}{image['repository']}@{image['tag']}" in manifests
        and all(
            f"{below}{image['repository']}@{digest}" in blobs
            for digest in _blobs(corpus, image["digest"], configs=bool(below))
        )
        for image in corpus.images
    )


def registry_is_right(corpus: Corpus, below: str, place: Place, said: str) -> bool:
    """The same, asked over HTTP; docker-registry has hashed what it took."""
    names = [(f"{below}{image['repository']}", image) for image in corpus.images]
    wanted = [f"{name}/manifests/{image['tag']}" for name, image in names]
    wanted += [
        f"{name}/blobs/{digest}"
        for name, image in names
        for digest in _blobs(corpus, image["digest"], configs=bool(below))
    ]
    return all(_is_there(f"{place.stub['registry']}/v2/{each}") for each in wanted)


def _is_there(url: str) -> bool:
    accepted = {"Accept": "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, */*"}
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD", headers=accepted)).close()
    except urllib.error.HTTPError:
        return False
    return True
