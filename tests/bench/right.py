"""Whether the result of a run is right: every blob there, with the bytes that its digest names."""

from __future__ import annotations

import hashlib
import os
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import IO

import zstandard

from tests.bench.corpus import Corpus
from tests.bench.images import LAYOUT, OUT, PACKAGE
from tests.bench.measure import Place
from tests.bench.ours import PREFIX, UPSTREAM
from tests.bench.servers import OwnRegistry

MOST_DELTA, DELTA_SLACK_BYTES = 1.02, 4 << 20
"""Of the bytes that are new; metadata and tools are carried whole, which shows in a small corpus alone."""
OURS_BELOW = f"{PREFIX}/{UPSTREAM}/"
"""Where our push puts the repositories of the corpus."""
OURS = "ours"
_BLOCK = 1 << 20


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
    with tarfile.open(path) as tar:
        places = {_digest(member): (member.offset_data, member.size) for member in tar if member.isfile()}
    found = {digest: place for digest, place in places.items() if digest in corpus.blobs}
    with path.open("rb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
        right = pool.map(lambda digest: _hash_at(file.fileno(), *found[digest]) == digest, found)
        return frozenset(found) if all(right) else frozenset()


def _digest(member: tarfile.TarInfo) -> str:
    return f"sha256:{member.name.rpartition('/')[2]}"


def _hash_at(handle: int, offset: int, size: int) -> str:
    """Hash a part of a file; threads do it side by side: verifying must not take longer than the run."""
    digest = hashlib.sha256()
    for at in range(offset, offset + size, _BLOCK):
        digest.update(os.pread(handle, min(_BLOCK, offset + size - at), at))
    return f"sha256:{digest.hexdigest()}"


def package_is_right(corpus: Corpus, place: Place, said: str) -> bool:
    """The same of a package of zarf's, a tar in zstd."""
    found = set()
    with (
        (place.folder / PACKAGE).open("rb") as packed,
        closing(zstandard.ZstdDecompressor().stream_reader(packed)) as plain,
        tarfile.open(fileobj=plain, mode="r|") as tar,
    ):
        for member in tar:
            content = tar.extractfile(member)
            if content is not None and _digest(member) in corpus.blobs:
                if f"sha256:{_hash_stream(content)}" != _digest(member):
                    return False
                found.add(_digest(member))
    return required(corpus, configs=True) <= found


def _hash_stream(content: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := content.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


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


def sink_is_right(corpus: Corpus, sink: OwnRegistry, who: str, place: Place, said: str) -> bool:
    """Whether every image is there by its tag, and in its repository each of its blobs; `who` pushed them."""
    blobs, manifests = sink.held()
    wanted = list(_wanted(corpus, who))
    return all(f"{name}@{each}" in manifests for name, named, _ in wanted for each in named) and all(
        f"{name}@{each}" in blobs for name, _, held in wanted for each in held
    )


def registry_is_right(corpus: Corpus, who: str, place: Place, said: str) -> bool:
    """The same, asked over HTTP; docker-registry has hashed what it took."""
    url = f"{place.stub['registry']}/v2"
    return all(
        all(_is_there(f"{url}/{name}/manifests/{each}") for each in named)
        and all(_is_there(f"{url}/{name}/blobs/{each}") for each in held)
        for name, named, held in _wanted(corpus, who)
    )


def _wanted(corpus: Corpus, who: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield the repository of each image, the manifests that are asked for in it, and the blobs.

    Ours has a place of its own. zarf, which takes no index, has the manifest of each platform by its digest.
    """
    for image in corpus.images:
        name = f"{OURS_BELOW if who == OURS else ''}{image['repository']}"
        named = list(corpus.platforms(image["digest"])) if who == "zarf" else [image["tag"]]
        yield name, named, list(_blobs(corpus, image["digest"], configs=who == OURS))


def _is_there(url: str) -> bool:
    accepted = {"Accept": "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, */*"}
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD", headers=accepted)).close()
    except urllib.error.HTTPError:
        return False
    return True
