"""A site file as a value, for tests; each call may differ in what the test is about."""

from __future__ import annotations

import base64
import datetime as dt
from functools import cache
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bundler.adapters.documents import parse_document
from bundler.domain.site import Site, parse_site

ACCOUNT = "111122223333"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/node"
PROFILE = f"arn:aws:iam::{ACCOUNT}:instance-profile/node"


@cache
def authority() -> bytes:
    """Return the PEM of a certificate authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubernetes")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def group_document(**changes: Any) -> dict[str, Any]:
    """Return one node group as it stands in a site file."""
    return {
        "name": "main",
        "ami": "ami-0123456789abcdef0",
        "instanceType": "m6i.large",
        "minSize": 1,
        "maxSize": 4,
        "desiredSize": 2,
        "securityGroups": ["sg-0123456789abcdef0"],
        "role": ROLE,
        "instanceProfile": PROFILE,
        **changes,
    }


def make_site(**changes: Any) -> Site:
    """Return a valid site with the keys of `changes` (as in the file) replaced."""
    document = {
        "apiVersion": "eks-bundler/v1",
        "kind": "Site",
        "account": ACCOUNT,
        "region": "ap-northeast-1",
        "vpc": "vpc-0123456789abcdef0",
        "subnets": ["subnet-0000000000000000a", "subnet-0000000000000000b"],
        "cluster": {
            "name": "c1",
            "endpoint": "https://EXAMPLE.gr7.ap-northeast-1.eks.amazonaws.com",
            "certificateAuthority": base64.b64encode(authority()).decode(),
            "serviceCidr": "10.100.0.0/16",
        },
        "registry": {"prefix": "closed"},
        "nodeGroups": [group_document()],
        **changes,
    }
    return parse_site(parse_document(yaml.safe_dump(document, width=4096).encode(), source="site.yaml"))
