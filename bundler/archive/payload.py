"""What a bake uploads: scripts, images, certificates and registry hosts in one folder (packer/README.md)."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bundler.archive.image_archive import Read, image_archive
from bundler.atomic import publish, publish_stream
from bundler.domain.ami import LockedAmi
from bundler.domain.canonical import canonical_json
from bundler.domain.digest import Digest
from bundler.domain.preload import Preload
from bundler.errors import DefinitionError, LocalResourceError, LockChangedError, PolicyError

SCRIPTS = ("bake.sh", "facts.sh", "cleanup.sh")
_CHUNK_BYTES = 1 << 20
_HOST_FILE = re.compile(r"(?P<host>[A-Za-z0-9_][A-Za-z0-9._:-]{0,255})/(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,99})\Z")
_CERTIFICATE, _PRIVATE_KEY = b"-----BEGIN CERTIFICATE-----", b"PRIVATE KEY-----"


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """One bake's.

    Attributes:
        scripts: folder of bake.sh, facts.sh and cleanup.sh.
        certificates: file of PEM certificates, where the AMI has some.
        hosts: folder HOST/hosts.toml, where the AMI has some.
    """

    ami: LockedAmi
    preloads: tuple[Preload, ...]
    scripts: Path
    certificates: Path | None = None
    hosts: Path | None = None


def write_payload(folder: Path, payload: Payload, *, read: Read) -> None:
    """Make `folder` the payload; what it held before is gone.

    Raises:
        LockChangedError: certificates or registry hosts are not those of the lock.
        PolicyError: a private key is among the certificates.
        DefinitionError: they are not what they should be.
        DigestError: an image's content is not what its digest says.
        LocalResourceError: the disk is full, or a file cannot be read or written.
    """
    certificates = _certificates(payload)
    hosts = _hosts(payload)
    _empty(folder)
    for name in SCRIPTS:
        publish(folder / name, _content(payload.scripts / name))
    publish(folder / "bundle-release", _release(payload))
    publish(folder / "images.list", _images_list(payload.preloads))
    for preload in payload.preloads:
        publish_stream(folder / "images" / _archive_name(preload), image_archive(preload, read))
    if certificates is not None:
        publish(folder / "certificates.pem", certificates)
    for path, content in hosts:
        (folder / "hosts" / path).parent.mkdir(parents=True, exist_ok=True)
        publish(folder / "hosts" / path, content)


def folder_digest(folder: Path) -> Digest:
    """Return the digest of paths and contents below `folder`; modes, times, empty folders and .git do not count.

    Raises:
        DefinitionError: it is no folder, or holds a link or a device.
        LocalResourceError: a file cannot be read.
    """
    return Digest.of(canonical_json([[path, _file_digest(folder / path).text] for path in _files(folder)]))


def _files(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DefinitionError(str(folder), "is not a folder")
    return sorted(_walk(folder, ""))


def _walk(folder: Path, below: str) -> Iterator[str]:
    for entry in _entries(folder):
        path = f"{below}{entry.name}"
        kind = entry.stat(follow_symlinks=False).st_mode
        if entry.name == ".git":
            continue
        if stat.S_ISDIR(kind):
            yield from _walk(Path(entry.path), f"{path}/")
        elif stat.S_ISREG(kind) and _is_text(path):
            yield path
        else:
            cause = f"holds {path!r}, which is neither a file nor a folder with a name in UTF-8; links are not followed"
            raise DefinitionError(str(folder), cause, hint="Put the file itself there.")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise LocalResourceError(str(folder), f"cannot be read: {error.strerror}") from error


def _is_text(path: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in path)


def _file_digest(path: Path) -> Digest:
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_CHUNK_BYTES):
                found.update(piece)
    except OSError as error:
        raise LocalResourceError(str(path), f"cannot be read: {error.strerror}") from error
    return Digest(f"sha256:{found.hexdigest()}")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LocalResourceError(str(path), f"cannot be read: {error.strerror}") from error


def _certificates(payload: Payload) -> bytes | None:
    if payload.certificates is None:
        _need(payload.ami.certificates, None, f"certificates of the AMI {payload.ami.name}")
        return None
    content = _content(payload.certificates)
    if _PRIVATE_KEY in content:
        hint = "Take it out, and make it invalid: whoever reads the file had it."
        raise PolicyError(str(payload.certificates), "holds a private key; an AMI must not carry secrets", hint=hint)
    if _CERTIFICATE not in content:
        raise DefinitionError(str(payload.certificates), "holds no certificate in PEM")
    _need(payload.ami.certificates, Digest.of(content), str(payload.certificates))
    return content


def _hosts(payload: Payload) -> list[tuple[str, bytes]]:
    if payload.hosts is None:
        _need(payload.ami.registry_hosts, None, f"registryHosts of the AMI {payload.ami.name}")
        return []
    paths = _files(payload.hosts)
    odd = next((path for path in paths if not _HOST_FILE.match(path)), None)
    if odd is not None or not any(path.endswith("/hosts.toml") for path in paths):
        raise DefinitionError(str(payload.hosts), f"is not a folder of HOST/hosts.toml ({odd or 'there is none'})")
    _need(payload.ami.registry_hosts, folder_digest(payload.hosts), str(payload.hosts))
    return [(path, _content(payload.hosts / path)) for path in paths]


def _need(locked: Digest | None, found: Digest | None, subject: str) -> None:
    if locked != found:
        raise LockChangedError(subject, f"is {found or 'absent'}, the lock has {locked or 'none'}")


def _empty(folder: Path) -> None:
    try:
        if folder.exists():
            shutil.rmtree(folder)
        (folder / "images").mkdir(parents=True)
    except OSError as error:
        raise LocalResourceError(str(folder), f"cannot be made: {error.strerror}") from error


def _archive_name(preload: Preload) -> str:
    return f"{preload.target.digest.hex}.tar"


def _images_list(preloads: tuple[Preload, ...]) -> bytes:
    """One line an image: archive, digest, names; a reference holds no tab and no line end."""
    lines = ["\t".join((_archive_name(one), str(one.target.digest), *one.names)) for one in preloads]
    return "".join(f"{line}\n" for line in lines).encode()


def _release(payload: Payload) -> bytes:
    """What /etc/eks/bundle-release says, in the form of os-release."""
    ami = payload.ami
    facts = {"NAME": ami.name, "ARCHITECTURE": ami.architecture, "KIND": ami.kind}
    if ami.source is not None:
        facts |= {"SOURCE_AMI": ami.source.id, "SOURCE_RELEASE": ami.source.release}
    return "".join(f'{key}="{value}"\n' for key, value in facts.items() if _plain(value)).encode()


def _plain(value: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9._-]{1,100}", value) is not None
