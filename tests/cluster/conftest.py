"""What the cluster tier shares: the programs of a real control plane."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder that `make kube` prints; without it these tests fail, they are never left out in silence."""
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    if not folder:
        pytest.fail("KUBEBUILDER_ASSETS is not set: make kube builds the control plane and prints it")
    return Path(folder)
