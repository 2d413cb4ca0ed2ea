"""Peak memory of `bundle`: as much for a bundle of 2 GiB as for one of 0.2 GiB with the same number of blobs."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bundler.domain.digest import Digest
from bundler.lab.lab import LabFacts
from tests.journey import Workspace, small_definition, workspace
from tests.peers import StartRegistry, boto_client

pytestmark = [pytest.mark.loopback, pytest.mark.slow, pytest.mark.timeout(900)]
MIB = 1 << 20
SMALL, LARGE = 200 * MIB, 2048 * MIB
LAYERS = 8
MOST_GROWTH_MIB = 20
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")
_LAYER = "application/vnd.oci.image.layer.v1.tar"


def add_blob(layout: Path, content: bytes, media_type: str) -> dict[str, object]:
    """Put `content` into a layout; return its descriptor."""
    digest = Digest.of(content)
    (layout / "blobs" / "sha256" / digest.hex).write_bytes(content)
    return {"mediaType": media_type, "digest": str(digest), "size": len(content)}


def add_layers(layout: Path, size: int) -> Iterator[dict[str, object]]:
    """Put layers of zeros, each with a number at its end, into a layout; on disk they take hardly any room."""
    zeros = hashlib.sha256()
    for _ in range(size // MIB - 1):
        zeros.update(bytes(MIB))
    for number in range(LAYERS):
        tail, sha256 = number.to_bytes(MIB), zeros.copy()
        sha256.update(tail)
        with (layout / "blobs" / "sha256" / sha256.hexdigest()).open("wb") as file:
            file.seek(size - MIB)
            file.write(tail)
        yield {"mediaType": _LAYER, "digest": f"sha256:{sha256.hexdigest()}", "size": size}


def add_image(layout: Path, total: int) -> str:
    """Put an image of `total` bytes into a layout; return its name."""
    layers = list(add_layers(layout, total // LAYERS))
    rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": add_blob(layout, config, "application/vnd.oci.image.config.v1+json"),
        "layers": layers,
    }
    entry = add_blob(layout, json.dumps(manifest).encode(), str(manifest["mediaType"]))
    entry["annotations"] = {"org.opencontainers.image.ref.name": "registry.example/weight:1"}
    index = json.loads((layout / "index.json").read_bytes())
    index["manifests"].append(entry)
    (layout / "index.json").write_text(json.dumps(index))
    return "registry.example/weight:1"


def weighty(folder: Path, lab: LabFacts, total: int) -> Workspace:
    """A workspace whose definition holds about `total` bytes."""
    text = small_definition(folder, images=1)
    name = add_image(folder / "layout", total)
    entry = f"  - {{image: '{name}', reason: a test, from: {{layout: layout}}, platforms: [linux/amd64]}}"
    place = workspace(folder, lab, text.replace("images:\n", f"images:\n{entry}\n"))
    place.environment = {**place.environment, "AWS_ENDPOINT_URL": lab.aws_url}
    return place


def peak_mib(place: Workspace, *arguments: str) -> float:
    """Run `bundle`, which must succeed; return the most memory that it ever had (VmHWM)."""
    process, peak = place.start(*arguments), 0
    while process.poll() is None:
        with suppress(OSError):
            found = _PEAK.search(Path(f"/proc/{process.pid}/status").read_text())
            peak = max(peak, int(found[1])) if found else peak
        time.sleep(0.01)
    assert process.returncode == 0, arguments
    assert peak
    return peak / 1024


def peaks(place: Workspace, lab: LabFacts, registry: StartRegistry, storage: Path) -> dict[str, float]:
    """The peak of each step from build to a registry; what is done with is removed at once."""
    trust, found = ("--trust", "trust"), {}
    place.bundle("lock")
    found["build"] = peak_mib(place, "build", "--key", "keys/bundle.key")
    archive = place.folder / "small-1.tar"
    shutil.rmtree(place.folder / "layout")
    found["verify"] = peak_mib(place, "verify", archive.name, *trust)
    found["push"] = peak_mib(place, "push", archive.name, f"{registry()}/team", *trust)
    forget_pushed(storage)
    address = f"s3://{lab.bucket}/memory"
    found["ship"] = peak_mib(place, "ship", archive.name, address)
    archive.unlink()
    found["push from S3"] = peak_mib(place, "push", f"{address}/{archive.name}", f"{registry()}/team", *trust)
    forget_pushed(storage)
    boto_client(lab, "s3").delete_object(Bucket=lab.bucket, Key=f"memory/{archive.name}")
    return found


def forget_pushed(storage: Path) -> None:
    for folder in storage.glob("registry-*/"):
        shutil.rmtree(folder)


def test_memory_does_not_grow_with_the_bundle(lab: LabFacts, docker_registry: StartRegistry, tmp_path: Path) -> None:
    small = peaks(weighty(tmp_path / "small", lab, SMALL), lab, docker_registry, tmp_path)
    large = peaks(weighty(tmp_path / "large", lab, LARGE), lab, docker_registry, tmp_path)
    grown = [step for step in small if large[step] - small[step] >= MOST_GROWTH_MIB]
    assert not grown, f"peak MiB: {small} -> {large}"
