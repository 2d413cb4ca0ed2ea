"""Certificates of the lab: an authority of its own and what it signs. For loopback only, made anew at each start."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_LIFE = dt.timedelta(days=30)
_SLACK = dt.timedelta(hours=1)  # clocks of a test machine jump


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A certificate authority, for loopback only."""

    key: EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        """The certificate as PEM."""
        from cryptography.hazmat.primitives.serialization import Encoding

        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key as PEM, for a program that signs with it."""
        return _key_pem(self.key)


def make_authority(name: str) -> Authority:
    """Return a new self-signed authority called `name`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name_of(Subject(common_name=name))
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        _builder(subject, subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Authority(key=key, certificate=builder.sign(key, hashes.SHA256()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Who a certificate is for; Kubernetes reads the common name as user, the organization as group."""

    common_name: str
    organization: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


def issue(authority: Authority, subject: Subject, *, names: tuple[str, ...]) -> Pair:
    """Return a new pair: a server's for `names` (DNS names, wildcards, addresses), a client's where there are none."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = ec.generate_private_key(ec.SECP256R1())
    usage = ExtendedKeyUsageOID.SERVER_AUTH if names else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder(_name_of(subject), authority.certificate.subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
    )
    if names:
        alternatives = x509.SubjectAlternativeName([_name(name) for name in names])
        builder = builder.add_extension(alternatives, critical=False)
    certificate = builder.sign(authority.key, hashes.SHA256())
    return Pair(certificate_pem=certificate.public_bytes(Encoding.PEM), key_pem=_key_pem(key))


def server_context(authority: Authority, names: tuple[str, ...], *, folder: Path) -> ssl.SSLContext:
    """Return a server's TLS context with a certificate for `names` (DNS names, wildcards, addresses).

    The pair is written to `folder` (0600), because `ssl` reads files only.
    """
    made = issue(authority, Subject(common_name=names[0][:60]), names=names)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    pair = folder / "server.pem"
    pair.touch(mode=0o600)
    pair.write_bytes(made.key_pem + made.certificate_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(pair)
    return context


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name_of(subject: Subject) -> x509.Name:
    from cryptography import x509

    organization = () if subject.organization is None else (subject.organization,)
    fields = [x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, text) for text in organization]
    return x509.Name([*fields, x509.NameAttribute(x509.NameOID.COMMON_NAME, subject.common_name)])


def _builder(subject: x509.Name, issuer: x509.Name) -> x509.CertificateBuilder:
    from cryptography import x509

    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + _LIFE)
    )


def _name(text: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
