"""User data of an Amazon Linux 2 node: one call of bootstrap.sh (legacy).

With endpoint and CA given, the script asks the EKS API for nothing. The address of cluster DNS is always given, because
the script would guess it from the VPC's network, and guess wrong where the service network is one's own.
"""

from __future__ import annotations

import shlex

from bundler.domain.node_settings import NodeSettings, kubelet_flags

PROGRAM = "/etc/eks/bootstrap.sh"
END_OF_EKS_AMIS = "2025-11-26"
END_OF_AMAZON_LINUX_2 = "2026-06-30"
END_OF_SUPPORT = (
    f"Amazon Linux 2 is legacy: AWS publishes no EKS AMIs of it since {END_OF_EKS_AMIS}, and support of the system"
    f" itself ends on {END_OF_AMAZON_LINUX_2}. Move the group to os al2023 or bottlerocket."
)


def bootstrap_script(facts: NodeSettings) -> bytes:
    """Return the user data of a node, as the instance sees it (not base64)."""
    flags = kubelet_flags(facts)
    words = [
        *(PROGRAM, facts.cluster),
        *("--apiserver-endpoint", facts.endpoint),
        *("--b64-cluster-ca", facts.authority),
        *("--dns-cluster-ip", facts.dns_address),
        *("--ip-family", "ipv4"),
    ]
    if facts.max_pods is not None:
        words += ["--use-max-pods", "false"]
        flags.append(f"--max-pods={facts.max_pods}")
    words += ["--kubelet-extra-args", " ".join(flags)]
    return f"#!/bin/bash\n{shlex.join(words)}\n".encode("ascii")
