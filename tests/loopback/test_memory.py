"""Peak memory of `bundle`: as much for a bundle of 2 GiB as for one of 0.2 GiB with the same number of blobs.

With 8 workers: a blob of the small one comes whole, so that no more of them would have work there.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from bundler.domain.reference import Reference
from bundler.lab.lab import LabFacts
from tests.journey import Workspace, heavy_definition, workspace
from tests.peers import StartRegistry, boto_client

pytestmark = [pytest.mark.loopback, pytest.mark.slow, pytest.mark.timeout(900)]
MIB = 1 << 20
SMALL, LARGE = 200 * MIB, 2048 * MIB
MOST_GROWTH_MIB = 20
JOBS = ("-j", "8")


def heavy_workspace(folder: Path, lab: LabFacts, total: int) -> Workspace:
    """A workspace whose bundle has about `total` bytes."""
    place = workspace(folder, lab, heavy_definition(folder, total))
    place.environment = {**place.environment, "AWS_ENDPOINT_URL": lab.aws_url}
    return place


def peaks(place: Workspace, lab: LabFacts, registry: StartRegistry, storage: Path) -> dict[str, float]:
    """The peak of each step from build to a registry; what is done with is removed at once."""
    trust, found = ("--trust", "trust"), {}
    place.bundle("lock")
    found["build"] = place.peak_mib("build", "--key", "keys/bundle.key", *JOBS)
    archive = place.folder / "heavy-1.tar"
    found["verify"] = place.peak_mib("verify", archive.name, *trust, *JOBS)
    target = f"{registry()}/team"
    found["push"] = place.peak_mib("push", archive.name, target, *trust, *JOBS)
    found["build from a registry"] = build_from_registry(place, target)
    shutil.rmtree(place.folder / "layout")
    forget_pushed(storage)
    address = f"s3://{lab.bucket}/memory"
    found["ship"] = place.peak_mib("ship", archive.name, address, *JOBS)
    archive.unlink()
    found["push from S3"] = place.peak_mib("push", f"{address}/{archive.name}", f"{registry()}/team", *trust, *JOBS)
    forget_pushed(storage)
    boto_client(lab, "s3").delete_object(Bucket=lab.bucket, Key=f"memory/{archive.name}")
    return found


def build_from_registry(place: Workspace, target: str) -> float:
    """The peak of a build whose large image comes out of a registry: the one that `heavy-1.tar` was pushed to."""
    pushed = json.loads(place.bundle("push", "heavy-1.tar", target, "--trust", "trust", "-o", "json").stdout)
    heavy = next(str(Reference.parse(pushed[name]).tagged) for name in pushed if "weight" in name)
    text = re.sub(r"from: {layout: layout}, ", "", (place.folder / "bundle.yaml").read_text())
    text = re.sub(r"image: '[^']*weight[^']*'", f"image: '{heavy}'", text).replace("name: heavy", "name: fetched")
    (place.folder / "fetched.yaml").write_text(text)
    place.bundle("lock", "fetched.yaml")
    peak = place.peak_mib("build", "fetched.yaml", "--key", "keys/bundle.key", *JOBS)
    fetched = place.folder / "fetched-1.tar"
    assert fetched.stat().st_size > (place.folder / "heavy-1.tar").stat().st_size - MIB
    fetched.unlink()
    return peak


def forget_pushed(storage: Path) -> None:
    for folder in storage.glob("registry-*/"):
        shutil.rmtree(folder)


def test_memory_does_not_grow_with_the_bundle(lab: LabFacts, docker_registry: StartRegistry, tmp_path: Path) -> None:
    small = peaks(heavy_workspace(tmp_path / "small", lab, SMALL), lab, docker_registry, tmp_path)
    large = peaks(heavy_workspace(tmp_path / "large", lab, LARGE), lab, docker_registry, tmp_path)
    grown = [step for step in small if large[step] - small[step] >= MOST_GROWTH_MIB]
    assert not grown, f"peak MiB: {small} -> {large}"
