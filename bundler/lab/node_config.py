"""User data as an AL2023 node reads it (amazon-eks-ami, nodeadm/internal/configprovider)."""

from __future__ import annotations

import base64
import binascii
import email
import re
import zlib
from collections.abc import Mapping
from email.message import Message

from bundler.adapters.documents import parse_document
from bundler.errors import DefinitionError, FormatError, LimitError
from bundler.lab.node_facts import MAX_USER_DATA_BYTES, NodeFacts, pem, required
from bundler.lab.node_facts import SUBJECT as _SUBJECT

MAX_UNPACKED_BYTES = 1 << 20
NODE_CONFIG_TYPE = "application/node.eks.aws"
API_VERSION = "node.eks.aws/v1alpha1"
_GZIP = b"\x1f\x8b"
_BASE64 = re.compile(rb"[A-Za-z0-9+/\s]+={0,2}\s*\Z")


def parse_node_config(user_data: bytes) -> NodeFacts:
    """Return the NodeConfig that `user_data` (decoded, as the instance sees it) amounts to.

    Parts of type application/node.eks.aws are merged in order; what is no MIME multipart is taken for one
    NodeConfig. Missing fields are refused in nodeadm's words.

    Raises:
        FormatError: a node could not use it.
        LimitError: it is larger, also unpacked, than any honest one.
    """
    if len(user_data) > MAX_USER_DATA_BYTES:
        raise LimitError(_SUBJECT, f"is larger than {MAX_USER_DATA_BYTES} bytes")
    merged: dict[str, object] = {}
    for text in _node_config_texts(_unpacked(user_data)):
        _merge(merged, _parse_part(text))
    return _validated(merged)


def _node_config_texts(content: bytes) -> list[bytes]:
    message = email.message_from_bytes(content)
    if message.get_content_maintype() != "multipart":
        return [content]
    if message.defects or not message.is_multipart():
        raise FormatError(_SUBJECT, f"is not well-formed MIME: {_defects(message)}")
    parts = [part for part in message.get_payload() if isinstance(part, Message)]
    texts = [_unpacked(_body(part)) for part in parts if part.get_content_type() == NODE_CONFIG_TYPE]
    if not texts:
        raise FormatError(_SUBJECT, "could not find NodeConfig within UserData")
    return texts


def _defects(message: Message) -> str:
    return ", ".join(type(defect).__name__ for defect in message.defects) or "no parts"


def _body(part: Message) -> bytes:
    """Return a part's bytes; like Go's multipart reader, only quoted-printable is undone."""
    quoted = str(part.get("Content-Transfer-Encoding", "")).strip().lower() == "quoted-printable"
    payload = part.get_payload(decode=True) if quoted else part.get_payload()
    if isinstance(payload, str):
        return payload.encode("utf-8", "surrogateescape")
    return payload if isinstance(payload, bytes) else b""


def _unpacked(content: bytes) -> bytes:
    """Undo base64 and gzip where they are there, as nodeadm does at both levels."""
    if _BASE64.match(content):
        try:
            content = base64.b64decode(b"".join(content.split()), validate=True)
        except binascii.Error as error:
            raise FormatError(_SUBJECT, f"is not base64: {error}") from error
    return _gunzipped(content) if content.startswith(_GZIP) else content


def _gunzipped(content: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        unpacked = unpacker.decompress(content, MAX_UNPACKED_BYTES)
    except zlib.error as error:
        raise FormatError(_SUBJECT, f"is not gzip: {error}") from error
    if unpacker.unconsumed_tail:
        raise LimitError(_SUBJECT, f"unpacks to more than {MAX_UNPACKED_BYTES} bytes")
    if not unpacker.eof:
        raise FormatError(_SUBJECT, "ends within its gzip stream")
    return unpacked


def _parse_part(text: bytes) -> Mapping[str, object]:
    try:
        document = parse_document(text, source=_SUBJECT).value
    except DefinitionError as error:
        raise FormatError(error.subject, error.cause) from error
    if not isinstance(document, dict):
        raise FormatError(_SUBJECT, "couldn't get version/kind: not a mapping")
    if document.get("apiVersion") != API_VERSION or document.get("kind") != "NodeConfig":
        kind = f"{str(document.get('kind', ''))[:80]!r} of {str(document.get('apiVersion', ''))[:80]!r}"
        raise FormatError(_SUBJECT, f"failed to decode {kind} (not a NodeConfig of {API_VERSION})")
    spec = document.get("spec", {})
    if not isinstance(spec, dict):
        raise FormatError(_SUBJECT, "spec is not a mapping")
    return spec


def _merge(into: dict[str, object], part: Mapping[str, object]) -> None:
    """Merge a later part: its scalars win, mappings are merged, lists (kubelet flags) grow."""
    for key, value in part.items():
        there = into.get(key)
        if isinstance(there, dict) and isinstance(value, dict):
            _merge(there, value)
        elif isinstance(there, list) and isinstance(value, list):
            into[key] = [*there, *value]
        else:
            into[key] = value


def _validated(spec: Mapping[str, object]) -> NodeFacts:
    cluster, kubelet = _mapping(spec, "cluster"), _mapping(spec, "kubelet")
    return NodeFacts(
        name=required(cluster, "name", _missing("Name")),
        endpoint=required(cluster, "apiServerEndpoint", _missing("Apiserver endpoint")),
        authority_pem=pem(
            required(cluster, "certificateAuthority", _missing("Certificate authority")), "certificateAuthority"
        ),
        cidr=required(cluster, "cidr", _missing("CIDR")),
        flags=_flags(kubelet.get("flags", [])),
        max_pods=_max_pods(_mapping(kubelet, "config").get("maxPods")),
        named_by_id=_mapping(spec, "featureGates").get("InstanceIdNodeName") in (True, "true"),
    )


def _missing(words: str) -> str:
    return f"{words} is missing in cluster configuration"


def _mapping(parent: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = parent.get(key, {})
    if not isinstance(value, dict):
        raise FormatError(_SUBJECT, f"{key} is not a mapping")
    return value


def _flags(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(flag, str) for flag in value):
        raise FormatError(_SUBJECT, "kubelet flags are not a list of texts")
    return tuple(str(flag) for flag in value)


def _max_pods(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch(r"[1-9][0-9]{0,4}", value):
        raise FormatError(_SUBJECT, "maxPods is not a number")
    return int(value)
