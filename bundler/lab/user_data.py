"""User data of an instance, read as its node would read it.

The lab's AMIs are empty, so the form of the user data says what system would boot: TOML is for Bottlerocket, a script
for Amazon Linux 2, and else it is MIME or a bare NodeConfig for AL2023.
"""

from __future__ import annotations

import re

from bundler.errors import LimitError
from bundler.lab.bootstrap import parse_bootstrap
from bundler.lab.bottlerocket import parse_settings
from bundler.lab.node_config import parse_node_config
from bundler.lab.node_facts import MAX_USER_DATA_BYTES, SUBJECT, NodeFacts

_TOML = re.compile(rb"\s*\[{1,2}settings[.\]]")


def parse_user_data(user_data: bytes) -> NodeFacts:
    """Return what `user_data` (decoded, as the instance sees it) tells a node.

    Raises:
        FormatError: a node could not use it, or would have to ask the EKS API.
        LimitError: it is larger than any honest one.
    """
    if len(user_data) > MAX_USER_DATA_BYTES:
        raise LimitError(SUBJECT, f"is larger than {MAX_USER_DATA_BYTES} bytes")
    if _TOML.match(user_data):
        return parse_settings(user_data)
    if user_data.startswith(b"#!"):
        return parse_bootstrap(user_data)
    return parse_node_config(user_data)
