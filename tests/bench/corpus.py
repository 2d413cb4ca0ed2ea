"""A corpus of images from the files of this machine's /usr: the same bytes each time, built once and kept.

20 images, 19 of them indexes of two platforms (five with attestations), two of Docker schema 2, four to eight layers,
shared bases and runtimes; gzip -6 and (every fifth image) zstd -3. At scale 1 about 290 blobs and 1.8 GB. What stands
for arm64 is the content of amd64 with every byte exchanged for another: other digests, equally compressible.

Version 2 is the next release: 8 images are the same, 8 have edited application layers, 4 stand on a patched base.

    python -m tests.bench.corpus [--scale 0.1] [--version 2] | --blobs 10000
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import os
import random
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import zstandard

from bundler.domain.oci import DOCKER_LIST, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST

HOME = Path("~/.cache/eks-bundler/bench").expanduser()
ROOT = Path("/usr")
MIB = 1 << 20
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
EDITION = "2"
"""Another one for another content; a corpus that is there is taken as it is."""
ARCHITECTURES = ("amd64", "arm64")
IMAGES = 20
SMALL_IMAGES, SMALL_BYTES = 100, 2048
_UNPACKED = 2.75
"""Bytes of /usr in a byte of gzip."""
_BASES = (28, 45, 70)
_RUNTIMES = (40, 60, 90, 120)
_LARGEST = 130
"""Sizes of shared layers, and of the largest one, in MiB as gzip."""
_FIRST, _SECOND = 1_700_000_000, 1_730_000_000
"""When the files of each version were changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What one layer is made of: `seed` is its number; a part of its files is edited."""

    seed: int
    files: tuple[str, ...]
    algorithm: str
    kind: str
    architecture: str = "amd64"
    changed: int = _FIRST
    edited: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A layer that is there."""

    digest: str
    size: int
    diff_id: str
    algorithm: str


@dataclass(frozen=True)
class Corpus:
    """A folder with `blobs/sha256` and `images.json`: an OCI layout without its index."""

    folder: Path

    @cached_property
    def images(self) -> Sequence[Mapping[str, str]]:
        """`repository`, `tag`, `digest` and `mediaType` of each image."""
        found: list[dict[str, str]] = json.loads((self.folder / "images.json").read_bytes())
        return found

    @cached_property
    def blobs(self) -> Mapping[str, int]:
        """Digest and size in bytes of everything, manifests included."""
        return {f"sha256:{path.name}": path.stat().st_size for path in (self.folder / "blobs" / "sha256").iterdir()}

    @property
    def total_bytes(self) -> int:
        return sum(self.blobs.values())

    def path(self, digest: str) -> Path:
        return self.folder / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def document(self, digest: str) -> dict[str, Any]:
        """A manifest or index."""
        found: dict[str, Any] = json.loads(self.path(digest).read_bytes())
        return found

    def below(self, digest: str) -> Iterator[tuple[str, bool]]:
        """Yield the digest of everything that an image consists of, and whether it is a manifest; itself last."""
        document = self.document(digest)
        for manifest in document.get("manifests", ()):
            yield from self.below(manifest["digest"])
        for blob in (*([document["config"]] if "config" in document else ()), *document.get("layers", ())):
            yield blob["digest"], False
        yield digest, True

    def platforms(self, digest: str) -> Iterator[str]:
        """Yield the manifests of an image, one of each platform; attestations are none."""
        listed = self.document(digest).get("manifests")
        if listed is None:
            yield digest
        else:
            yield from (each["digest"] for each in listed if each["platform"]["os"] != "unknown")

    @cached_property
    def layers(self) -> frozenset[str]:
        """Configs and layers: what no tool may change."""
        return frozenset(
            digest for image in self.images for digest, is_manifest in self.below(image["digest"]) if not is_manifest
        )


def ensure_images(*, scale: float = 1.0, version: int = 1) -> Corpus:
    """Return the corpus of images; build it where it is not there (minutes)."""
    home = HOME / "corpus" / f"{EDITION}-scale-{scale:g}"
    return _ensure(home / f"v{version}", lambda folder: _make_images(folder, home / "files.json", scale, version))


def ensure_small(blobs: int = 10_000) -> Corpus:
    """Return the corpus of so many blobs of 2 KiB in 100 images."""
    return _ensure(HOME / "corpus" / f"{EDITION}-small-{blobs}", lambda folder: _make_small(folder, blobs))


def _forget_others(corpus: Corpus) -> None:
    """Remove what no image names: the other platform of the image that has one alone."""
    named = {digest for image in corpus.images for digest, _ in corpus.below(image["digest"])}
    for digest in set(corpus.blobs) - named:
        corpus.path(digest).unlink()


class _Maker(Protocol):
    def __call__(self, folder: Path) -> list[dict[str, str]]: ...


def _ensure(wanted: Path, make: _Maker) -> Corpus:
    """Build into a temporary folder and publish it by rename."""
    if not wanted.is_dir():
        wanted.parent.mkdir(parents=True, exist_ok=True)
        print(f"bench: building {wanted} (once)", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=wanted.parent) as name:
            folder = Path(name) / "corpus"
            (folder / "blobs" / "sha256").mkdir(parents=True)
            listing = make(folder)
            (folder / "images.json").write_text(json.dumps(listing, indent=1))
            _forget_others(Corpus(folder))
            folder.rename(wanted)
    return Corpus(wanted)


def _make_images(folder: Path, pool: Path, scale: float, version: int) -> list[dict[str, str]]:
    plan = _plan(_pool(pool), scale)
    wanted = {(layer, number): _variants(layer, number, version) for number, layers in plan for layer in layers}
    jobs = sorted(
        {variant for variants in wanted.values() for variant in variants},
        key=lambda layer: (-sum(Path(name).stat().st_size for name in layer.files), layer.seed, layer.architecture),
    )
    with ProcessPoolExecutor(os.cpu_count(), initializer=os.nice, initargs=(10,)) as pools:
        made = dict(zip(jobs, pools.map(_make_layer, jobs, [folder] * len(jobs)), strict=True))
    listing = []
    for number, layers in plan:
        platforms = list(zip(*(wanted[layer, number] for layer in layers), strict=True))
        listing.append(_make_image(folder, number, [[made[each] for each in one] for one in platforms], version))
    return listing


def _pool(kept: Path) -> list[tuple[str, int]]:
    """Return files and sizes: those of the first time, so that both versions are of the same files."""
    if not kept.is_file():
        kept.write_text(json.dumps(_walk(ROOT)))
    found = [(str(name), int(size)) for name, size in json.loads(kept.read_bytes())]
    changed = [name for name, size in found if not Path(name).is_file() or Path(name).stat().st_size != size]
    if changed:
        raise SystemExit(f"bench: {changed[0]} changed since the corpus was begun: remove {kept.parent}")
    return found


def _walk(root: Path) -> list[tuple[str, int]]:
    """Files of a tree, folder by folder, in an order that a seed gives."""
    folders = []
    for place, below, names in os.walk(root):
        below[:] = sorted(name for name in below if name != "__pycache__")
        files = [(path, path.stat().st_size) for path in (Path(place) / name for name in sorted(names)) if _fits(path)]
        if files:
            folders.append([(str(path), size) for path, size in files])
    random.Random(7).shuffle(folders)
    return [file for files in folders for file in files]


def _fits(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and 0 < path.stat().st_size <= 64 * MIB


def _plan(pool: Sequence[tuple[str, int]], scale: float) -> list[tuple[int, list[Layer]]]:
    """Return the layers of each image, for amd64 and version 1."""
    chance, rest = random.Random(42), iter(pool)
    numbers = iter(range(1000))

    def layer(kind: str, size_bytes: float, algorithm: str = "gzip") -> Layer:
        wanted = int(size_bytes * _UNPACKED * (scale if size_bytes > 64 << 10 else 1))
        return Layer(seed=next(numbers), files=_take(rest, wanted), algorithm=algorithm, kind=kind)

    bases = [layer("base", size * MIB) for size in _BASES]
    runtimes = [layer("runtime", size * MIB) for size in _RUNTIMES]
    images = []
    for number in range(IMAGES):
        count, algorithm = 4 + number % 5, "zstd" if number % 5 == 4 else "gzip"
        layers = [bases[number % 3], *([runtimes[number % 4]] if count > 4 else [])]
        for place in range(count - len(layers)):
            size = math.exp(chance.uniform(math.log(1024), math.log(34 * MIB)))
            layers.append(layer("app", _LARGEST * MIB if (number, place) == (7, 0) else size, algorithm))
        images.append((number, layers))
    return images


def _take(rest: Iterator[tuple[str, int]], wanted: int) -> tuple[str, ...]:
    """Take files of `wanted` bytes or a little more; one that is much too large is left out."""
    taken, total = [], 0
    for name, size in rest:
        if size <= wanted - total + wanted // 3 + 4096:
            taken.append(name)
            total += size
        if total >= wanted:
            return tuple(taken)
    raise SystemExit(f"bench: {ROOT} has too few files: 2.7 GB are needed at scale 1")


def _variants(layer: Layer, image: int, version: int) -> tuple[Layer, ...]:
    """Return what the layer is for each architecture in this version of an image."""
    changed, edited = _FIRST, 0.0
    if version == 2 and image % 5 == 2:
        changed, edited = _SECOND, 0.03 if layer.kind == "base" else 0.0
    elif version == 2 and image % 5 in (1, 4) and layer.kind == "app":
        changed, edited = _SECOND, 0.1
    return tuple(
        Layer(
            seed=layer.seed, files=layer.files, algorithm=layer.algorithm, kind=layer.kind,
            architecture=architecture, changed=changed, edited=edited,
        )
        for architecture in ARCHITECTURES
    )  # fmt: skip


class _Packer:
    """Takes a tar as it is written: counts, hashes, compresses."""

    def __init__(self, path: Path, algorithm: str) -> None:
        self._file = path.open("wb", buffering=MIB)
        self._packed, self._plain = hashlib.sha256(), hashlib.sha256()
        self._size = 0
        gzip = algorithm == "gzip"
        self._compress = zlib.compressobj(6, zlib.DEFLATED, 31) if gzip else zstandard.ZstdCompressor(3).compressobj()

    def write(self, content: bytes) -> int:
        self._plain.update(content)
        self._put(self._compress.compress(content))
        return len(content)

    def _put(self, packed: bytes) -> None:
        self._packed.update(packed)
        self._size += self._file.write(packed)

    def done(self, algorithm: str) -> Made:
        self._put(self._compress.flush())
        self._file.close()
        digests = (f"sha256:{each.hexdigest()}" for each in (self._packed, self._plain))
        return Made(digest=next(digests), size=self._size, diff_id=next(digests), algorithm=algorithm)


def _make_layer(layer: Layer, folder: Path) -> Made:
    temporary = folder / f".layer-{os.getpid()}"
    packer = _Packer(temporary, layer.algorithm)
    with tarfile.open(fileobj=packer, mode="w|", bufsize=MIB, format=tarfile.PAX_FORMAT) as tar:
        for name, content in _contents(layer):
            member = tarfile.TarInfo(name.lstrip("/"))
            member.size, member.mode, member.mtime = len(content), 0o644, layer.changed
            tar.addfile(member, io.BytesIO(content))
    made = packer.done(layer.algorithm)
    temporary.rename(folder / "blobs" / "sha256" / made.digest.removeprefix("sha256:"))
    return made


def _contents(layer: Layer) -> Iterator[tuple[str, bytes]]:
    letters = list(range(256))
    random.Random(12345).shuffle(letters)
    chance = random.Random(layer.seed * 7919 + 1)
    for name in layer.files:
        content = Path(name).read_bytes()
        if chance.random() < layer.edited:
            content = _edit(content, chance)
        # every eleventh layer is the same for all architectures
        yield name, content.translate(bytes(letters)) if layer.architecture == "arm64" and layer.seed % 11 else content


def _edit(content: bytes, chance: random.Random) -> bytes:
    edited = bytearray(content)
    for _ in range(max(1, len(edited) >> 16)):
        place = chance.randrange(len(edited))
        edited[place : place + 16] = chance.randbytes(16)
    return bytes(edited)


def _put(folder: Path, content: bytes) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    (folder / "blobs" / "sha256" / digest).write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


def _put_json(folder: Path, media_type: str, value: object) -> dict[str, object]:
    return {"mediaType": media_type, **_put(folder, json.dumps(value, indent=2).encode())}


def _make_image(folder: Path, number: int, platforms: Sequence[Sequence[Made]], version: int) -> dict[str, str]:
    docker = number in (3, 13)
    manifests: list[dict[str, object]] = []
    for architecture, layers in zip(ARCHITECTURES, platforms, strict=True):
        manifest = _make_manifest(folder, number, architecture, layers)
        manifests.append({**manifest, "platform": {"os": "linux", "architecture": architecture}})
        if number % 4 == 1 and not docker:
            manifests.append(_make_attestation(folder, manifest))
    index = {"schemaVersion": 2, "mediaType": DOCKER_LIST if docker else OCI_INDEX, "manifests": manifests}
    top = manifests[0] if number == 10 else _put_json(folder, str(index["mediaType"]), index)
    return {
        "repository": f"team{number % 4}/app-{number:02d}", "tag": f"v{version}",
        "digest": str(top["digest"]), "mediaType": str(top["mediaType"]),
    }  # fmt: skip


def _make_manifest(folder: Path, number: int, architecture: str, layers: Sequence[Made]) -> dict[str, object]:
    docker = number in (3, 13)
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": ["/bin/app"], "Env": [f"IMAGE={number}"], "Labels": {"about": "y" * 900}},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created_by": f"RUN step {place}"} for place in range(len(layers))],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST if docker else OCI_MANIFEST,
        "config": _put_json(folder, DOCKER_CONFIG if docker else OCI_CONFIG, config),
        "layers": [
            {
                "mediaType": DOCKER_LAYER if docker else f"{OCI_LAYER}+{layer.algorithm}",
                "digest": layer.digest,
                "size": layer.size,
            }
            for layer in layers
        ],
    }
    return _put_json(folder, str(manifest["mediaType"]), manifest)


def _make_attestation(folder: Path, subject: Mapping[str, object]) -> dict[str, object]:
    """What BuildKit puts beside an image."""
    predicate = {"buildType": "x" * 3000}
    statement = {"_type": "https://in-toto.io/Statement/v0.1", "subject": [subject], "predicate": predicate}
    layer = _put_json(folder, "application/vnd.in-toto+json", statement)
    config = {
        "architecture": "unknown", "os": "unknown", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }  # fmt: skip
    described = _put_json(folder, OCI_CONFIG, config)
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described, "layers": [layer]}
    return {
        **_put_json(folder, OCI_MANIFEST, manifest),
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {
            "vnd.docker.reference.digest": subject["digest"],
            "vnd.docker.reference.type": "attestation-manifest",
        },
    }


def _make_small(folder: Path, blobs: int) -> list[dict[str, str]]:
    """A config and layers of 2 KiB in each image."""
    chance, listing = random.Random(3), []
    for number in range(SMALL_IMAGES):
        contents = [chance.randbytes(SMALL_BYTES) for _ in range(blobs // SMALL_IMAGES - 1)]
        layers = [{"mediaType": f"{OCI_LAYER}+gzip", **_put(folder, _gzip(each))} for each in contents]
        plain = [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in contents]
        config = {
            "architecture": "amd64", "os": "linux", "number": number, "rootfs": {"type": "layers", "diff_ids": plain},
        }  # fmt: skip
        described = _put_json(folder, OCI_CONFIG, config)
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described, "layers": layers}
        top = _put_json(folder, OCI_MANIFEST, manifest)
        listing.append(
            {"repository": f"small/s{number:04d}", "tag": "v1", "digest": str(top["digest"]), "mediaType": OCI_MANIFEST}
        )
    return listing


def _gzip(content: bytes) -> bytes:
    """Real gzip: skopeo compresses what is not, and then it is another blob."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(content) + packer.flush()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.corpus", description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of the size of layers above 64 KiB")
    parser.add_argument("--version", type=int, choices=(1, 2), default=1)
    parser.add_argument("--blobs", type=int, help="so many blobs of 2 KiB instead")
    asked = parser.parse_args(arguments)
    if asked.blobs is None:
        corpus = ensure_images(scale=asked.scale, version=asked.version)
    else:
        corpus = ensure_small(asked.blobs)
    print(json.dumps({"folder": str(corpus.folder), "blobs": len(corpus.blobs), "bytes": corpus.total_bytes}))


if __name__ == "__main__":
    main(sys.argv[1:])
