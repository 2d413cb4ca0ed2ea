"""kubeconfig: how kubectl and helm reach the cluster. It holds no secret; tokens come from an exec plugin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from bundler.domain.site import Site

EXEC_API_VERSION = "client.authentication.k8s.io/v1"


def kubeconfig(site: Site, *, command: Sequence[str], environ: Mapping[str, str] | None = None) -> bytes:
    """Return the file's content: JSON, which every reader of kubeconfig takes.

    Args:
        site: endpoint, CA and name of the cluster.
        command: what prints the token, program first: `bundle token --site FILE`.
        environ: variables that it needs and that may be read by anybody who reads the file.
    """
    name = site.cluster.name
    plugin: dict[str, object] = {
        "apiVersion": EXEC_API_VERSION,
        "command": command[0],
        "args": list(command[1:]),
        "interactiveMode": "Never",
        "provideClusterInfo": False,
    }
    if environ:
        plugin["env"] = [{"name": key, "value": value} for key, value in sorted(environ.items())]
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": _cluster(site)}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
        "users": [{"name": name, "user": {"exec": plugin}}],
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def _cluster(site: Site) -> dict[str, str]:
    return {
        "server": site.cluster.endpoint,
        "certificate-authority-data": site.cluster.certificate_authority,
    }
