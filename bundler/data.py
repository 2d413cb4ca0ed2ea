"""Where packer/ and manifests/ are: in the wheel's `_data`, or at the top of a checkout."""

from __future__ import annotations

from pathlib import Path


def data_folder(name: str) -> Path:
    """Return the folder `packer` or `manifests` with the data of this installation."""
    package = Path(__file__).resolve().parent
    installed = package / "_data" / name
    return installed if installed.is_dir() else package.parent / name
