"""skopeo and GNU tar read the archive in place: it is an OCI layout, whoever knows us or not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bundler.archive.image_layout import index_json
from bundler.domain.oci import OCI_INDEX, OCI_MANIFEST, parse_strict_json
from tests.fakes.archives import sample

pytestmark = pytest.mark.loopback
SAMPLE = sample()
OCI_IMAGES = [image for image in SAMPLE.lock.images if image.target.media_type in (OCI_INDEX, OCI_MANIFEST)]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SAMPLE.build(tmp_path_factory.mktemp("archive"))


def run(*arguments: str | Path) -> bytes:
    done = subprocess.run(list(map(str, arguments)), capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_the_sample_has_raw_and_derived_images() -> None:
    assert {image.form for image in OCI_IMAGES} == {"index", "derived"}


@pytest.mark.parametrize("image", OCI_IMAGES, ids=lambda image: str(image.reference))
def test_skopeo_copies_every_oci_image_out_under_its_full_name(archive: Path, tmp_path: Path, image: object) -> None:
    locked = next(one for one in OCI_IMAGES if one is image)
    source = f"oci-archive:{archive}:{locked.reference}"
    assert run("skopeo", "inspect", "--raw", source) == SAMPLE.blobs[locked.target.digest]
    run("skopeo", "copy", "--insecure-policy", "--all", "--preserve-digests", source, f"dir:{tmp_path}/out")
    assert (tmp_path / "out" / "manifest.json").read_bytes() == SAMPLE.blobs[locked.target.digest]
    for manifest in locked.manifests:
        assert (tmp_path / "out" / f"{manifest.digest.hex}.manifest.json").read_bytes() == (
            SAMPLE.blobs[manifest.digest]
        )
        for blob in manifest.blobs:
            assert (tmp_path / "out" / blob.digest.hex).read_bytes() == SAMPLE.blobs[blob.digest]


def test_skopeo_finds_a_chart_under_its_reference(archive: Path) -> None:
    chart = SAMPLE.lock.charts[0]
    raw = run("skopeo", "inspect", "--raw", f"oci-archive:{archive}:{chart.reference}")
    assert raw == SAMPLE.blobs[chart.manifest.digest]


def test_gnu_tar_lists_and_reads_it(archive: Path) -> None:
    names = run("tar", "--list", "--file", archive).decode().splitlines()
    assert names == ["root.dsse.json", *(member.path for member in SAMPLE.layout.members)]
    index = run("tar", "--extract", "--to-stdout", "--file", archive, "index.json")
    assert index == index_json(SAMPLE.lock)
    assert parse_strict_json(index, subject="index.json")
