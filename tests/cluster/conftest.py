"""What the cluster tier shares: the programs of a real control plane."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.lab.lab import LabOptions
from bundler.lab.lab import lab as running_lab
from bundler.lab.tools import Tools
from tests.closed import Closed, closed_lab


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder that `make kube` prints; without it these tests fail, they are never left out in silence."""
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    if not folder:
        pytest.fail("KUBEBUILDER_ASSETS is not set: make kube builds the control plane and prints it")
    return Path(folder)


@pytest.fixture(scope="session")
def closed(assets: Path, tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    """A lab with a Kubernetes API, closed-minimal in its bucket; each module makes a site of its own in it."""
    folder = tmp_path_factory.mktemp("closed")
    with running_lab(folder / "lab", LabOptions(kubernetes=True, assets=assets)) as facts:
        yield closed_lab(facts, tools, folder / "operator")
