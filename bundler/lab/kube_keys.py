"""Keys, certificates and kubeconfigs of the lab's control plane, made anew at each start."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bundler.lab.tls import Authority, Subject, issue, make_authority

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

ADMIN, MANAGER, SCHEDULER = "admin", "manager", "scheduler"
_CLIENTS = {
    ADMIN: Subject(common_name="lab-admin", organization="system:masters"),
    MANAGER: Subject(common_name="system:kube-controller-manager"),
    SCHEDULER: Subject(common_name="system:kube-scheduler"),
}
_SERVICE_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlaneKeys:
    """Where everything lies, in one folder that only its owner reads."""

    folder: Path

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.folder / "ca.crt"

    @property
    def ca_key(self) -> Path:
        """The authority's key: the controller manager signs with it."""
        return self.folder / "ca.key"

    @property
    def service_account_key(self) -> Path:
        """What service account tokens are signed with."""
        return self.folder / "service-account.key"

    @property
    def service_account_public(self) -> Path:
        """What service account tokens are checked with."""
        return self.folder / "service-account.pub"

    def certificate(self, name: str) -> Path:
        """The certificate of `apiserver`, or of one of the clients."""
        return self.folder / f"{name}.crt"

    def key(self, name: str) -> Path:
        """The key of `apiserver`, or of one of the clients."""
        return self.folder / f"{name}.key"

    def kubeconfig(self, name: str) -> Path:
        """The kubeconfig of one of the clients."""
        return self.folder / f"{name}.kubeconfig"


def make_keys(folder: Path, *, endpoint: str, addresses: tuple[str, ...]) -> ControlPlaneKeys:
    """Write the keys of a control plane at `endpoint` to `folder`; `addresses` go into its certificate."""
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    keys, authority = ControlPlaneKeys(folder=folder), make_authority("lab-kubernetes")
    write_secret(keys.ca, authority.pem)
    write_secret(keys.ca_key, authority.key_pem)
    _make_pair(keys, authority, "apiserver", Subject(common_name="kube-apiserver"), (*addresses, *_SERVICE_NAMES))
    for name, subject in _CLIENTS.items():
        _make_pair(keys, authority, name, subject, ())
        write_secret(keys.kubeconfig(name), _kubeconfig(keys, name, endpoint))
    _make_service_account_key(keys)
    return keys


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read."""
    path.touch(mode=0o600)
    path.write_bytes(content)


def _make_pair(
    keys: ControlPlaneKeys, authority: Authority, name: str, subject: Subject, names: tuple[str, ...]
) -> None:
    pair = issue(authority, subject, names=names)
    write_secret(keys.certificate(name), pair.certificate_pem)
    write_secret(keys.key(name), pair.key_pem)


def _make_service_account_key(keys: ControlPlaneKeys) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key: RSAPrivateKey = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_secret(keys.service_account_key, secret)
    write_secret(keys.service_account_public, public)


def _kubeconfig(keys: ControlPlaneKeys, name: str, endpoint: str) -> bytes:
    """Return a kubeconfig that holds its keys itself, so that it may be copied; JSON is YAML."""
    user = {
        "client-certificate-data": _base64(keys.certificate(name)),
        "client-key-data": _base64(keys.key(name)),
    }
    cluster = {"server": endpoint, "certificate-authority-data": _base64(keys.ca)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": name}}],
    }
    return json.dumps(config, indent=1).encode()


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
