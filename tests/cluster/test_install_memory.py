"""Peak memory of `bundle install` from S3: as much for a bundle of 2 GiB as for one of 0.2 GiB with as many blobs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bundler.lab.lab import LabOptions
from bundler.lab.lab import lab as running_lab
from bundler.lab.tools import Tools
from tests.journey import heavy_image, workspace, write_layout

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]
MIB = 1 << 20
SMALL, LARGE = 200 * MIB, 2048 * MIB
MOST_GROWTH_MIB = 20
BUNDLE = Path(__file__).parents[2] / "bundles" / "closed-minimal" / "bundle.lab.yaml"


def install_peak_mib(folder: Path, assets: Path, tools: Tools, total: int) -> float:
    """Build closed-minimal with an image of `total` bytes, ship it, and install it into a lab of its own."""
    write_layout(folder / "layout", 1, 1000)
    text = BUNDLE.read_text().replace("../../.cache/tools/helm", str(tools.helm4.path))
    text = text.replace("../../.cache/tools/kubectl", str(tools.kubectl.path))
    with running_lab(folder / "lab", LabOptions(kubernetes=True, assets=assets)) as facts:
        place = workspace(folder, facts, f"{text}\nimages:\n{heavy_image(folder / 'layout', total)}\n")
        place.environment = {**place.environment, "XDG_STATE_HOME": str(folder / "state")}
        archive = place.build()
        address = f"s3://{facts.bucket}/carried"
        place.bundle("ship", archive.name, address, AWS_ENDPOINT_URL=facts.aws_url)
        archive.unlink()
        site = ("--site", str(facts.site_file), "--trust", "trust", "--yes")
        return place.peak_mib("install", f"{address}/{archive.name}", *site)


def test_memory_of_install_does_not_grow_with_the_bundle(assets: Path, tools: Tools, tmp_path: Path) -> None:
    peaks = []
    for total in (SMALL, LARGE):
        peaks.append(install_peak_mib(tmp_path / str(total), assets, tools, total))
        shutil.rmtree(tmp_path / str(total))
    assert peaks[1] - peaks[0] < MOST_GROWTH_MIB, f"peak MiB: {peaks}"
