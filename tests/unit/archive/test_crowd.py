"""Peak memory of build, verify and push where a bundle has very many blobs: it is the blobs' number that costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crowd import peak_mib, prepare

BLOBS = 30_000
MOST_MIB = {"build": 97, "verify": 88, "push": 94}
"""Some 49 MiB are the program; 30,000 blobs may take as much as leaves 100,000 of them well below 200 MiB."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of 30,000 blobs."""
    made = tmp_path_factory.mktemp("crowd") / "bundle"
    prepare(made, BLOBS)
    return made


def test_thirty_thousand_blobs_take_little_memory(folder: Path) -> None:
    peaks = {step: peak_mib(step, folder) for step in ("build", "verify", "push")}
    assert (folder / "crowd.tar").stat().st_size > BLOBS * 1024
    assert not [step for step, most in MOST_MIB.items() if peaks[step] > most], peaks
