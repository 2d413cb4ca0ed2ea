"""DSSE envelopes (secure-systems-lab/dsse, protocol.md): a strict wrapper around securesystemslib.

The library signs and verifies; this module owns what it leaves open: one spelling of base64, key ids computed from
the key, each key counted once, no early exit, and a typed error for every malformed input.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)

from bundler.domain.canonical import canonical_json
from bundler.domain.oci import parse_strict_json
from bundler.dsse import CryptoSigner, Envelope, Signature, SSlibKey, UnverifiedSignatureError
from bundler.errors import FormatError, LimitError, LocalResourceError, PolicyError, SignatureError, UsageError

MAX_ENVELOPE_BYTES = 4 << 20
MAX_SIGNATURES = 100
MAX_KEY_FILE_BYTES = 64 << 10
_FIELDS = {"payload", "payloadType", "signatures"}
_KEY_KINDS = "ed25519 or ECDSA P-256"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A public key; its id is the SHA-256 of its DER form and never what somebody else calls it."""

    der: bytes
    key_id: str

    @classmethod
    def parse(cls, der: bytes, *, subject: str) -> PublicKey:
        """Return the key in `der` (SubjectPublicKeyInfo).

        Raises:
            FormatError: not ed25519 or ECDSA P-256, or not the one DER form of the key (it would have a second id).
        """
        try:
            key = load_der_public_key(der)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise FormatError(subject, "holds a key that is not a DER public key") from error
        if not _is_known_kind(key) or key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != der:
            raise FormatError(subject, f"holds a key that is not {_KEY_KINDS} in its DER form")
        return cls(der=der, key_id=hashlib.sha256(der).hexdigest())


class Signer:
    """A private key that signs; it never shows itself."""

    def __init__(self, private_key: Ed25519PrivateKey | EllipticCurvePrivateKey) -> None:
        self._private_key = private_key
        der = private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.public_key = PublicKey.parse(der, subject="signing key")

    def __repr__(self) -> str:
        return f"Signer({self.public_key.key_id[:12]})"

    @classmethod
    def generate(cls) -> Signer:
        """Return a signer with a new ed25519 key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Signer:
        """Return the signer whose PKCS#8 PEM key is in the file `path`.

        Raises:
            UsageError: no such file.
            PolicyError: others than the owner may read or write it.
            FormatError: not an unencrypted ed25519 or ECDSA P-256 key.
        """
        try:
            key = load_pem_private_key(_read_private(path), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            # The library's own text is dropped: nothing of a key file may reach a message.
            raise FormatError(str(path), "is not an unencrypted PKCS#8 PEM private key") from None
        if not isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey) or not _is_known_kind(key.public_key()):
            raise FormatError(str(path), f"is not {_KEY_KINDS}")
        return cls(key)

    def pem(self) -> bytes:
        """Return the private key itself, for the one file that keeps it."""
        return self._private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, payload: bytes, payload_type: str) -> bytes:
        """Return the envelope of `payload` with one signature, in the one spelling we write."""
        signer = CryptoSigner(self._private_key, _library_key(self.public_key))
        signature = Envelope(payload, payload_type, {}).sign(signer).signature
        entry = {"keyid": self.public_key.key_id, "sig": encode_base64(bytes.fromhex(signature))}
        return _envelope(payload, payload_type, [entry])


def _read_private(path: Path) -> bytes:
    """Read a key file; mode and content are those of the same open file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise UsageError(str(path), "does not exist", hint="Make a key: bundle trust init") from error
    except OSError as error:
        raise LocalResourceError(str(path), f"cannot be read: {error.strerror}") from error
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_KEY_FILE_BYTES:
            raise FormatError(str(path), "is not a key file")
        if status.st_mode & 0o177:
            mode = stat.S_IMODE(status.st_mode)
            hint = f"chmod 600 {path}; if others could read it, make a new key."
            raise PolicyError(str(path), f"is a private key that others may use (mode {mode:04o})", hint=hint)
        return file.read(MAX_KEY_FILE_BYTES)


def unsigned_envelope(payload: bytes, payload_type: str) -> bytes:
    """Return the envelope of `payload` before anybody signed it."""
    return _envelope(payload, payload_type, [])


def unverified_payload(raw: bytes, *, subject: str) -> bytes:
    """Return the payload of the envelope in `raw`, whoever signed it: for what names its own keys, or is compared.

    Raises:
        FormatError: not an envelope.
        LimitError: over 4 MiB, or over 100 signatures.
    """
    return _parse_envelope(raw, subject)[0]


def verify_envelope(
    raw: bytes, *, payload_type: str, role_keys: Collection[PublicKey], threshold: int, subject: str
) -> bytes:
    """Return the payload of the envelope in `raw`, signed by at least `threshold` distinct keys of `role_keys`.

    Nothing of the payload is looked at before that. Signatures by other keys, and bad ones, count for nothing.

    Raises:
        SignatureError: too few valid signatures, or the envelope of another kind of document.
        FormatError: not an envelope.
        LimitError: over 4 MiB, or over 100 signatures.
    """
    payload, actual_type, signatures = _parse_envelope(raw, subject)
    if actual_type != payload_type:
        raise SignatureError(subject, f"is signed as {actual_type[:100]!r}, not as {payload_type}")
    keys = {key.key_id: key for key in role_keys}
    valid = {
        key_id
        for key_id, signature in signatures
        if key_id in keys and _is_signed(payload, payload_type, keys[key_id], signature)
    }
    if threshold < 1 or len(valid) < threshold:
        wanted = ", ".join(sorted(key_id[:12] for key_id in keys)[:5])
        raise SignatureError(
            subject,
            f"has {len(valid)} valid signatures of the {threshold} it needs by the trusted keys {wanted}",
            hint="Get the file from its maker again. If the maker has new keys, first: "
            "bundle trust accept trust.json --expect sha256:…",
        )
    return payload


def _parse_envelope(raw: bytes, subject: str) -> tuple[bytes, str, list[tuple[str, bytes]]]:
    if len(raw) > MAX_ENVELOPE_BYTES:
        raise LimitError(subject, f"has an envelope of over {MAX_ENVELOPE_BYTES} bytes")
    document = parse_strict_json(raw, subject=subject)
    if not isinstance(document, dict) or set(document) != _FIELDS:
        raise FormatError(subject, "is not a DSSE envelope")
    payload_type, signatures = document["payloadType"], document["signatures"]
    if not isinstance(payload_type, str) or not isinstance(signatures, list):
        raise FormatError(subject, "is not a DSSE envelope")
    if len(signatures) > MAX_SIGNATURES:
        raise LimitError(subject, f"has over {MAX_SIGNATURES} signatures")
    return (
        decode_base64(document["payload"], subject=subject),
        payload_type,
        [_parse_signature(entry, subject) for entry in signatures],
    )


def _parse_signature(entry: object, subject: str) -> tuple[str, bytes]:
    if not isinstance(entry, dict) or set(entry) != {"keyid", "sig"} or not isinstance(entry["keyid"], str):
        raise FormatError(subject, "has a signature that is not a key id and a signature")
    return entry["keyid"], decode_base64(entry["sig"], subject=subject)


def decode_base64(value: object, *, subject: str) -> bytes:
    """Return the bytes that `value` spells in standard base64.

    Raises:
        FormatError: not text, or not the one spelling: blanks, missing padding, the other alphabet, loose last bits.
    """
    try:
        text = value.encode("ascii") if isinstance(value, str) else b"!"
        decoded = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise FormatError(subject, "holds text that is not base64") from error
    if base64.b64encode(decoded) != text:
        raise FormatError(subject, "holds text that is not base64 in its one spelling")
    return decoded


def _is_signed(payload: bytes, payload_type: str, key: PublicKey, signature: bytes) -> bool:
    # One at a time: the library's own loop stops early, and refuses a second signature under one key id.
    single = Envelope(payload, payload_type, {key.key_id: Signature(key.key_id, signature.hex())})
    try:
        single.verify([_library_key(key)], 1)
    except UnverifiedSignatureError:
        return False
    return True


def _library_key(key: PublicKey) -> SSlibKey:
    return SSlibKey.from_crypto(load_der_public_key(key.der), keyid=key.key_id)


def _is_known_kind(public_key: object) -> bool:
    if isinstance(public_key, EllipticCurvePublicKey):
        return isinstance(public_key.curve, SECP256R1)
    return isinstance(public_key, Ed25519PublicKey)


def _envelope(payload: bytes, payload_type: str, signatures: list[dict[str, str]]) -> bytes:
    return canonical_json({"payload": encode_base64(payload), "payloadType": payload_type, "signatures": signatures})


def encode_base64(content: bytes) -> str:
    """Return `content` in standard base64."""
    return base64.b64encode(content).decode("ascii")
