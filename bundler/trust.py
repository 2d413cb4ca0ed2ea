"""Whom we believe: trust roots, their chain of versions, and the store of a site (docs/formats.md, Trust).

`trust.json` is an array of DSSE envelopes, versions 1…N. Version 1 is signed by its own root role; every later one by
the root roles of its predecessor and of itself. The first one reaches a site by another channel, as a digest that a
person compares; nothing in a bundle makes a site trust it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bundler.atomic import publish, publish_new
from bundler.domain.canonical import canonical_json, parse_canonical_json
from bundler.domain.digest import Digest
from bundler.envelope import PublicKey, Signer, decode_base64, encode_base64, unverified_payload, verify_envelope
from bundler.errors import (
    ConflictError,
    DigestError,
    FormatError,
    LimitError,
    LocalResourceError,
    PolicyError,
    SignatureError,
    UntrustedError,
)

__all__ = [
    "Role",
    "Signer",
    "TrustRoot",
    "accept_trust",
    "create_trust",
    "load_accepted_trust",
    "parse_trust_chain",
    "require_bundle_key",
    "trust_digest",
    "trust_folder",
    "verify_envelope",
]

TRUST_TYPE = "application/vnd.eks-bundler.trust.v1+json"
KEY_NAME = "bundle.key"
TRUST_NAME = "trust.json"
SYSTEM_FOLDER = Path("/etc/eks-bundler/trust")
MAX_TRUST_BYTES = 4 << 20
MAX_KEYS = 1000
MAX_VERSIONS = 1000
ACCEPT_COMMAND = "bundle trust accept trust.json --expect sha256:…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Who may sign for a purpose, and how many of them must."""

    key_ids: tuple[str, ...]
    threshold: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRoot:
    """One version of whom we believe.

    Attributes:
        version: from 1.
        keys: by key id.
        root: signs the next trust root.
        bundle: signs bundles.
        payload: the signed bytes that say all this.
    """

    version: int
    keys: Mapping[str, PublicKey]
    root: Role
    bundle: Role
    payload: bytes

    def verify_bundle(self, raw: bytes, *, payload_type: str, subject: str) -> bytes:
        """Return the payload of an envelope that the bundle role has signed.

        Raises:
            SignatureError: it has not.
            FormatError: not an envelope.
        """
        return self._verify(raw, self.bundle, payload_type, subject)

    def verify_successor(self, raw: bytes, *, subject: str) -> bytes:
        """Return the payload of a trust root that this one's root role has signed.

        Raises:
            SignatureError: it has not.
            FormatError: not an envelope.
        """
        return self._verify(raw, self.root, TRUST_TYPE, subject)

    def _verify(self, raw: bytes, role: Role, payload_type: str, subject: str) -> bytes:
        keys = [self.keys[key_id] for key_id in role.key_ids]
        return verify_envelope(
            raw, payload_type=payload_type, role_keys=keys, threshold=role.threshold, subject=subject
        )


def trust_digest(root: TrustRoot) -> Digest:
    """Return what `--expect` compares: the SHA-256 of the payload of the newest version."""
    return Digest.of(root.payload)


def parse_trust_chain(raw: bytes, *, source: str) -> TrustRoot:
    """Return the newest trust root in `raw`, the content of a trust.json, after walking every version before it.

    Raises:
        SignatureError: a version is missing, or not signed by its predecessor and itself.
        FormatError: not a trust.json; one key under two ids; a threshold that is 0 or cannot be reached.
        LimitError: larger or longer than any honest one.
    """
    return _walk(_envelopes(raw, source), source)[-1]


def _envelopes(raw: bytes, source: str) -> list[bytes]:
    """Split a trust.json; nothing is verified yet."""
    if len(raw) > MAX_TRUST_BYTES:
        raise LimitError(source, f"is larger than {MAX_TRUST_BYTES} bytes")
    document = parse_canonical_json(raw.removesuffix(b"\n"), subject=source)
    if not isinstance(document, list) or not document:
        raise FormatError(source, "is not a list of trust roots")
    if len(document) > MAX_VERSIONS:
        raise LimitError(source, f"lists over {MAX_VERSIONS} versions")
    return [canonical_json(envelope) for envelope in document]


def _walk(envelopes: list[bytes], source: str) -> list[TrustRoot]:
    chain: list[TrustRoot] = []
    for version, envelope in enumerate(envelopes, 1):
        subject = f"{source} (trust root version {version})"
        if chain:
            chain[-1].verify_successor(envelope, subject=subject)
        root = _parse_root(unverified_payload(envelope, subject=subject), subject)
        root.verify_successor(envelope, subject=subject)
        if root.version != version:
            raise SignatureError(subject, f"is version {root.version}: a version is missing before it")
        chain.append(root)
    return chain


def _parse_root(payload: bytes, subject: str) -> TrustRoot:
    document = _object(parse_canonical_json(payload, subject=subject), {"keys", "roles", "version"}, subject)
    version, keys = document["version"], document["keys"]
    roles = _object(document["roles"], {"bundle", "root"}, subject)
    if type(version) is not int or version < 1 or not isinstance(keys, dict):
        raise FormatError(subject, "is not a trust root")
    if len(keys) > MAX_KEYS:
        raise LimitError(subject, f"lists {len(keys)} keys; at most {MAX_KEYS} are allowed")
    parsed = {key_id: _parse_key(key_id, text, subject) for key_id, text in keys.items()}
    root, bundle = (_parse_role(roles[name], parsed, f"{subject} role {name}") for name in ("root", "bundle"))
    return TrustRoot(version=version, keys=parsed, root=root, bundle=bundle, payload=payload)


def _parse_key(key_id: str, text: object, subject: str) -> PublicKey:
    key = PublicKey.parse(decode_base64(text, subject=subject), subject=subject)
    if key.key_id != key_id:
        # Otherwise one key could stand under two ids and reach a threshold of two by itself.
        raise FormatError(subject, f"calls the key {key.key_id[:12]} {key_id[:12]!r}")
    return key


def _parse_role(value: object, keys: Mapping[str, PublicKey], subject: str) -> Role:
    role = _object(value, {"keyIds", "threshold"}, subject)
    key_ids, threshold = role["keyIds"], role["threshold"]
    if not isinstance(key_ids, list) or not all(isinstance(key_id, str) and key_id in keys for key_id in key_ids):
        raise FormatError(subject, "names a key that the trust root does not hold")
    if len(set(key_ids)) != len(key_ids):
        raise FormatError(subject, "names one key twice")
    if type(threshold) is not int or not 1 <= threshold <= len(key_ids):
        raise FormatError(subject, f"needs {threshold!r:.20} signatures of {len(key_ids)} keys")
    return Role(key_ids=tuple(key_ids), threshold=threshold)


def _object(value: object, keys: set[str], subject: str) -> dict[str, object]:
    if not isinstance(value, dict) or set(value) != keys:
        raise FormatError(subject, "is not a trust root")
    return value


def create_trust(folder: Path) -> tuple[TrustRoot, Path, Path]:
    """Make a key and version 1 of a trust root that gives it both roles; return the root and the paths of both files.

    The private key (`bundle.key`, PKCS#8 PEM, mode 0600) is never overwritten. A key that a killed run left without
    its trust.json is used, so that the same command finishes.

    Raises:
        ConflictError: the folder holds a trust.json already.
        LocalResourceError: the folder cannot be written.
    """
    key_path, trust_path = folder / KEY_NAME, folder / TRUST_NAME
    if trust_path.exists():
        raise ConflictError(
            str(trust_path), "exists already; keys are never overwritten", hint="Use it, or name another folder."
        )
    _make_folder(folder)
    if not key_path.exists():
        publish_new(key_path, Signer.generate().pem(), mode=0o600)
    signer = Signer.load(key_path)
    envelope = signer.sign(_first_payload(signer.public_key), TRUST_TYPE)
    raw = b"[" + envelope + b"]\n"
    root = parse_trust_chain(raw, source=str(trust_path))
    publish_new(trust_path, raw, mode=0o644)
    return root, key_path, trust_path


def _first_payload(key: PublicKey) -> bytes:
    role = {"keyIds": [key.key_id], "threshold": 1}
    keys = {key.key_id: encode_base64(key.der)}
    return canonical_json({"keys": keys, "roles": {"bundle": role, "root": role}, "version": 1})


def require_bundle_key(root: TrustRoot, signer: Signer) -> None:
    """Do nothing where `signer` may sign bundles under `root`: to be asked before hours of work, not after.

    Raises:
        SignatureError: the key is not in the bundle role.
    """
    if signer.public_key.key_id not in root.bundle.key_ids:
        raise SignatureError(
            f"signing key {signer.public_key.key_id[:12]}",
            "is not one of the keys that trust.json lets sign bundles",
            hint="Use the key that belongs to this trust.json.",
        )


def trust_folder(chosen: Path | None, *, environ: Mapping[str, str], system: Path = SYSTEM_FOLDER) -> Path:
    """Return the store of accepted trust: `chosen`, else `system` if it exists, else below XDG_CONFIG_HOME."""
    if chosen is not None:
        return chosen
    if system.is_dir():
        return system
    config = Path(environ.get("XDG_CONFIG_HOME", ""))
    if not config.is_absolute():
        config = Path(environ.get("HOME", "/")) / ".config"
    return config / "eks-bundler" / "trust"


def accept_trust(raw: bytes, *, expect: Digest, folder: Path) -> TrustRoot:
    """Make `raw`, the content of a trust.json, what this site believes; return its newest version.

    Args:
        raw: as it arrived.
        expect: the trust digest that a person got by another channel.
        folder: the store; made where it is missing (0755, the file 0644).

    Raises:
        DigestError: it is not what the digest names.
        PolicyError: the store is unsafe, or holds a newer or an unrelated trust root.
    """
    source = TRUST_NAME
    envelopes = _envelopes(raw, source)
    actual = Digest.of(unverified_payload(envelopes[-1], subject=source))
    if actual != expect:
        hint = "Do not accept it. Ask its maker for the file and the digest again."
        cause = f"has another trust digest:\n{actual}\nExpected is:\n{expect}"
        raise DigestError(source, cause, hint=hint)
    chain = _walk(envelopes, source)
    _make_folder(folder)
    held = _read_store(folder)
    if held == raw:
        return chain[-1]
    if held is not None:
        _refuse_rollback(parse_trust_chain(held, source=str(folder / TRUST_NAME)), chain, folder)
    publish(folder / TRUST_NAME, raw, mode=0o644)
    return chain[-1]


def _refuse_rollback(held: TrustRoot, chain: list[TrustRoot], folder: Path) -> None:
    hint = f"To start over on purpose, remove {folder / TRUST_NAME} first."
    if chain[-1].version < held.version:
        cause = f"is version {chain[-1].version}; this site accepted version {held.version} before"
        raise PolicyError(TRUST_NAME, cause, hint=hint)
    if chain[held.version - 1].payload != held.payload:
        cause = f"does not continue the trust root that this site accepted ({trust_digest(held)})"
        raise PolicyError(TRUST_NAME, cause, hint=hint)


def load_accepted_trust(folder: Path) -> TrustRoot:
    """Return what this site believes.

    Raises:
        UntrustedError: nothing has been accepted; the hint is the command that does it.
        PolicyError: others than root and this user may change the store.
    """
    raw = _read_store(folder)
    if raw is None:
        hint = f"Once, with the digest that `trust init` or the transfer slip gives: {ACCEPT_COMMAND}"
        raise UntrustedError(str(folder), "holds no accepted trust root", hint=hint)
    return parse_trust_chain(raw, source=str(folder / TRUST_NAME))


def _make_folder(folder: Path) -> None:
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)
    except OSError as error:
        raise LocalResourceError(str(folder), f"cannot be made: {error.strerror}") from error


def _read_store(folder: Path) -> bytes | None:
    """Return the accepted trust.json, None where there is none; owner and mode are those of the opened files."""
    path = folder / TRUST_NAME
    try:
        with _Opened(folder, os.O_DIRECTORY) as store:
            _refuse_unsafe(store, str(folder))
            with _Opened(TRUST_NAME, os.O_NOFOLLOW, within=store) as file:
                _refuse_unsafe(file, str(path))
                return _read_all(file, str(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PolicyError(str(path), f"cannot be read safely: {error.strerror}") from error


class _Opened:
    """A descriptor, open for the length of a `with`."""

    def __init__(self, path: Path | str, flags: int, *, within: int | None = None) -> None:
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags, dir_fd=within)

    def __enter__(self) -> int:
        return self._handle

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)


def _refuse_unsafe(handle: int, name: str) -> None:
    status = os.fstat(handle)
    if status.st_uid not in (0, os.geteuid()):
        raise PolicyError(name, f"belongs to user {status.st_uid}: neither root nor you", hint=f"chown root {name}")
    if status.st_mode & stat.S_IWOTH:
        raise PolicyError(name, "may be changed by every user here", hint=f"chmod o-w {name}")


def _read_all(handle: int, name: str) -> bytes:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise PolicyError(name, "is not a regular file")
    with os.fdopen(os.dup(handle), "rb") as file:
        raw = file.read(MAX_TRUST_BYTES + 1)
    if len(raw) > MAX_TRUST_BYTES:
        raise LimitError(name, f"is larger than {MAX_TRUST_BYTES} bytes")
    return raw
