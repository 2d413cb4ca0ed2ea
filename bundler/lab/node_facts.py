"""What an instance has been told by its user data, whatever its operating system."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from bundler.errors import FormatError

SUBJECT = "user data"
MAX_USER_DATA_BYTES = 16 << 10  # EC2 takes no more


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What a node needs to join.

    Attributes:
        name: of the cluster; it is signed into the node's token.
        endpoint: of the Kubernetes API.
        authority_pem: whom the node believes.
        cidr: of Services; None where the node is told the address of cluster DNS instead.
        dns_address: of cluster DNS; None where it follows from `cidr`.
        flags: of the kubelet, as given.
        max_pods: of the kubelet's configuration, None where it is not set.
        named_by_id: whether the node is called by its instance id.
    """

    name: str
    endpoint: str
    authority_pem: bytes
    cidr: str | None = None
    dns_address: str | None = None
    flags: tuple[str, ...] = ()
    max_pods: int | None = None
    named_by_id: bool = False


def required(facts: Mapping[str, object], key: str, otherwise: str) -> str:
    """Return a text that must be there.

    Raises:
        FormatError: it is not; `otherwise` says what comes of it.
    """
    value = facts.get(key, "")
    if not isinstance(value, str):
        raise FormatError(SUBJECT, f"{key} is not text")
    if not value:
        raise FormatError(SUBJECT, otherwise)
    return value


def pem(text: str, key: str) -> bytes:
    """Return what `text` is the base64 of.

    Raises:
        FormatError: of nothing.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(SUBJECT, f"{key} is not base64: {error}") from error
