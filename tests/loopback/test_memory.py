"""Peak memory of `bundle`: as much for a bundle of 2 GiB as for one of 0.2 GiB with the same number of blobs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bundler.lab.lab import LabFacts
from tests.journey import Workspace, heavy_definition, workspace
from tests.peers import StartRegistry, boto_client

pytestmark = [pytest.mark.loopback, pytest.mark.slow, pytest.mark.timeout(900)]
MIB = 1 << 20
SMALL, LARGE = 200 * MIB, 2048 * MIB
MOST_GROWTH_MIB = 20


def heavy_workspace(folder: Path, lab: LabFacts, total: int) -> Workspace:
    """A workspace whose bundle has about `total` bytes."""
    place = workspace(folder, lab, heavy_definition(folder, total))
    place.environment = {**place.environment, "AWS_ENDPOINT_URL": lab.aws_url}
    return place


def peaks(place: Workspace, lab: LabFacts, registry: StartRegistry, storage: Path) -> dict[str, float]:
    """The peak of each step from build to a registry; what is done with is removed at once."""
    trust, found = ("--trust", "trust"), {}
    place.bundle("lock")
    found["build"] = place.peak_mib("build", "--key", "keys/bundle.key")
    archive = place.folder / "heavy-1.tar"
    shutil.rmtree(place.folder / "layout")
    found["verify"] = place.peak_mib("verify", archive.name, *trust)
    found["push"] = place.peak_mib("push", archive.name, f"{registry()}/team", *trust)
    forget_pushed(storage)
    address = f"s3://{lab.bucket}/memory"
    found["ship"] = place.peak_mib("ship", archive.name, address)
    archive.unlink()
    found["push from S3"] = place.peak_mib("push", f"{address}/{archive.name}", f"{registry()}/team", *trust)
    forget_pushed(storage)
    boto_client(lab, "s3").delete_object(Bucket=lab.bucket, Key=f"memory/{archive.name}")
    return found


def forget_pushed(storage: Path) -> None:
    for folder in storage.glob("registry-*/"):
        shutil.rmtree(folder)


def test_memory_does_not_grow_with_the_bundle(lab: LabFacts, docker_registry: StartRegistry, tmp_path: Path) -> None:
    small = peaks(heavy_workspace(tmp_path / "small", lab, SMALL), lab, docker_registry, tmp_path)
    large = peaks(heavy_workspace(tmp_path / "large", lab, LARGE), lab, docker_registry, tmp_path)
    grown = [step for step in small if large[step] - small[step] >= MOST_GROWTH_MIB]
    assert not grown, f"peak MiB: {small} -> {large}"
