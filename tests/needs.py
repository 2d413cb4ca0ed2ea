"""What tests need of the machine; where it is not there they are left out, and say why. On CI that fails."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bundler.errors import AccessError, MissingToolError
from bundler.lab.machines import require_machines


def need_machines() -> None:
    """Instances of the lab that are processes."""
    try:
        require_machines()
    except (AccessError, MissingToolError) as error:
        pytest.skip(f"{error} ({error.hint})")


def need_packer() -> Path:
    """Return the program."""
    found = shutil.which("packer")
    if found is None:
        pytest.skip("packer is not installed (Debian: apt install packer)")
    return Path(found)
