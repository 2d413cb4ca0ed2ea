"""Peak memory of a build from a registry, in parts, and of a push, with eight workers: it does not follow the size.

`BUNDLE_TEST_GIB` says how large the large bundle is, 2 GiB without it.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from bundler.domain.digest import Digest
from bundler.domain.oci import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from tests.fakes.counting_sink import CountingSink
from tests.fakes.counting_source import CountingSource
from tests.fakes.images import FakeImage
from tests.journey import workspace

pytestmark = [pytest.mark.loopback, pytest.mark.slow, pytest.mark.timeout(600)]
MIB = 1 << 20
LAYERS, NUMBER_BYTES = 8, 8
SMALL = 200 * MIB
LARGE = int(float(os.environ.get("BUNDLE_TEST_GIB", "2")) * 1024) * MIB
MOST_MIB, MOST_GROWTH_MIB = 120, 20
ZEROS = memoryview(bytes(MIB))


class Zeros:
    """A blob of zeros with a number at its end, made as it is read."""

    def __init__(self, size: int, number: int) -> None:
        self._size = size
        self._end = number.to_bytes(NUMBER_BYTES)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, span: slice) -> memoryview | bytes:
        start, stop, _ = span.indices(self._size)
        end = self._size - NUMBER_BYTES
        if stop <= end:
            return ZEROS[: stop - start]
        return bytes(max(0, end - start)) + self._end[max(0, start - end) : stop - end]


def heavy(total: int) -> FakeImage:
    """An image of `total` bytes in large layers that take no room."""
    size = total // LAYERS // MIB * MIB
    zeros, blobs, layers = hashlib.sha256(), dict[Digest, object](), list[dict[str, object]]()
    for _ in range(size // MIB - 1):
        zeros.update(ZEROS)
    zeros.update(ZEROS[NUMBER_BYTES:])
    for number in range(LAYERS):
        sha256 = zeros.copy()
        sha256.update(number.to_bytes(NUMBER_BYTES))
        digest = Digest(f"sha256:{sha256.hexdigest()}")
        blobs[digest] = Zeros(size, number)
        layers.append({"mediaType": OCI_LAYER, "digest": str(digest), "size": size})
    rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()
    blobs[Digest.of(config)] = config
    entry = {"mediaType": OCI_CONFIG, "digest": str(Digest.of(config)), "size": len(config)}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entry, "layers": layers}
    raw = json.dumps(document).encode()
    manifests = {Digest.of(raw): (OCI_MANIFEST, raw)}
    return FakeImage(raw=raw, media_type=OCI_MANIFEST, blobs=blobs, manifests=manifests)  # type: ignore[arg-type]


def peaks(folder: Path, total: int) -> dict[str, float]:
    """The peaks of a build and a push of `total` bytes, in MiB; what is done with is removed at once."""
    folder.mkdir()
    (folder / "tool").write_bytes(b"tool")
    program = f"{{path: tool, sha256: {hashlib.sha256(b'tool').hexdigest()}}}"
    text = f"""\
apiVersion: eks-bundler/v1
kind: Bundle
name: heavy
kubernetesVersion: "1.36"
source: {{region: eu-central-1}}
platforms: [linux/amd64]
operatorPlatforms: [linux/amd64]
images:
  - {{image: 'up.example/team/heavy:1', reason: a test}}
tools:
  helm: {{version: 4.1.4, platforms: {{linux/amd64: {program}}}}}
  kubectl: {{version: 1.35.2, platforms: {{linux/amd64: {program}}}}}
"""
    with CountingSource({"team/heavy": heavy(total)}) as source, CountingSink(hashes=False) as sink:
        place = workspace(folder, None, text)
        (folder / "registries.yaml").write_text(f"up.example: {{url: '{source.url}'}}\n")
        own = {"BUNDLE_REGISTRIES": str(folder / "registries.yaml"), "XDG_STATE_HOME": str(folder / "state")}
        place.environment = {**place.environment, **own}
        place.bundle("lock")
        built = place.peak_mib("build", "--locked", "--key", "keys/bundle.key", "-j", "8")
        pushed = place.peak_mib("push", "heavy-1.tar", f"{sink.authority}/team", "--trust", "trust", "-j", "8")
        (folder / "heavy-1.tar").unlink()
        assert len(source.log) > LAYERS
        assert sink.received > total - LAYERS * MIB
    return {"build": built, "push": pushed}


def test_the_peak_of_eight_workers_is_small_and_the_same_for_a_bundle_of_any_size(tmp_path: Path) -> None:
    small, large = peaks(tmp_path / "small", SMALL), peaks(tmp_path / "large", LARGE)
    assert max(*small.values(), *large.values()) <= MOST_MIB, (small, large)
    grown = [step for step in small if large[step] - small[step] >= MOST_GROWTH_MIB]
    assert not grown, f"peak MiB: {small} -> {large}"
