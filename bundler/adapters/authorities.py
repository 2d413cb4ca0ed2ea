"""Certificate authorities as files: what this host believes and what `--ca-file` adds, for us and for programs."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

from bundler.atomic import publish
from bundler.errors import LocalResourceError

_VARIABLES = ("SSL_CERT_FILE", "AWS_CA_BUNDLE")


def joined(*files: Path) -> bytes:
    """Return what the files hold, each file once.

    Raises:
        LocalResourceError: one cannot be read.
    """
    content = b""
    for path in dict.fromkeys(files):
        try:
            content += path.read_bytes() + b"\n"
        except OSError as error:
            raise LocalResourceError(str(path), f"cannot be read as CA certificates: {error.strerror}") from error
    return content


def believing(environ: Mapping[str, str], ca_file: Path | None, *, work: Path) -> dict[str, str]:
    """Return the environment of a program that is to believe `ca_file` beside what `environ` names.

    SSL_CERT_FILE is read instead of the system's authorities by Go and OpenSSL, AWS_CA_BUNDLE instead of it by boto:
    each names a file in `work` that holds both. Whoever brings an authority of his own, as kubectl does with the
    kubeconfig's, reads neither.

    Raises:
        LocalResourceError: a file cannot be read or written.
    """
    if ca_file is None:
        return dict(environ)
    changed = {}
    for variable in _VARIABLES:
        usual = environ.get(variable) or environ.get("SSL_CERT_FILE")
        path = work / f"{variable.lower().replace('_', '-')}.pem"
        publish(path, joined(*([Path(usual)] if usual else _system()), ca_file))
        changed[variable] = str(path)
    return {**environ, **changed}


def _system() -> list[Path]:
    """The system's authorities: one file, or a folder of them under their hashes."""
    paths = ssl.get_default_verify_paths()
    file: str | None = paths.cafile  # None where there is none, whatever its declared type
    folder: str | None = paths.capath
    if file is not None:
        return [Path(file)]
    return sorted(Path(folder).glob("*.0")) if folder is not None else []
