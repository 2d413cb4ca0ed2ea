"""What a node makes of its user data, told without any code of ours: which facts it has, and what it would ask for.

The rules are those of nodeadm (init, validation), pluto and bootstrap.sh, as reference/ami.md 5.3 to 5.5 tells them.
"""

from __future__ import annotations

import email
import json
import shlex
import tomllib
from collections.abc import Callable, Mapping
from email.message import Message
from typing import Any

FACTS: Mapping[str, tuple[str, ...]] = {
    "al2023": ("name", "apiServerEndpoint", "certificateAuthority", "cidr"),
    "bottlerocket": ("cluster-name", "api-server", "cluster-certificate", "cluster-dns-ip"),
    "al2": ("--apiserver-endpoint", "--b64-cluster-ca", "--dns-cluster-ip"),
}
"""What must be said, or the node asks eks:DescribeCluster, guesses, or never starts."""


def could_ask_eks(os: str, raw: bytes) -> list[str]:
    """Return which facts are missing or empty in user data for an operating system: none in good user data."""
    told = _TOLD[os](raw)
    return [fact for fact in FACTS[os] if not told.get(fact)]


def parts(raw: bytes) -> list[tuple[str, str]]:
    """The parts of a MIME document: type and content, as cloud-init and nodeadm find them."""
    message = email.message_from_bytes(raw)
    assert message.get_content_type() == "multipart/mixed"
    assert not message.defects
    found = message.get_payload()
    assert isinstance(found, list)
    return [(part.get_content_type(), _text(part)) for part in found if isinstance(part, Message)]


def _text(part: Message) -> str:
    payload = part.get_payload()
    assert isinstance(payload, str)
    assert not part.defects
    return payload


def node_config(raw: bytes) -> dict[str, Any]:
    """The one NodeConfig of a document: nodeadm would merge several."""
    [text] = [text for kind, text in parts(raw) if kind == "application/node.eks.aws"]
    document: dict[str, Any] = json.loads(text)
    return document


def settings(raw: bytes) -> dict[str, Any]:
    """The settings of a Bottlerocket document."""
    found: dict[str, Any] = tomllib.loads(raw.decode())["settings"]
    return found


def bootstrap_options(raw: bytes) -> dict[str, str]:
    """The options of the one call of bootstrap.sh, and the cluster's name as `name`."""
    interpreter, line, end = raw.decode("ascii").split("\n")
    assert (interpreter, end) == ("#!/bin/bash", "")
    program, name, *words = shlex.split(line)
    assert program == "/etc/eks/bootstrap.sh"
    assert len(words) % 2 == 0
    return {"name": name, **dict(zip(words[::2], words[1::2], strict=True))}


_TOLD: Mapping[str, Callable[[bytes], Mapping[str, Any]]] = {
    "al2023": lambda raw: node_config(raw)["spec"].get("cluster", {}),
    "bottlerocket": lambda raw: settings(raw).get("kubernetes", {}),
    "al2": bootstrap_options,
}
