"""User data of an AL2023 node: MIME parts whose content is JSON, written by an emitter and never by a text template.

nodeadm asks the EKS API for nothing once name, endpoint, CA and service CIDR are given (amazon-eks-ami, nodeadm: all
four are required). JSON is YAML, and escapes what could end a line or a MIME part.

**Proxy.** nodeadm-config runs before cloud-init, so nothing that cloud-init does reaches it. The proxy is therefore
said twice. `instance.environment.default` of the NodeConfig is nodeadm's own way (AMIs from late 2025): nodeadm takes
it from its first request on, and makes it the default environment of every service. Older AMIs pass over that key; for
them a `text/cloud-config` part writes the same default, and cloud-init is done with it before nodeadm-run starts
containerd and kubelet. The files are written as they stand: no shell reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from bundler.domain.node_settings import NodeSettings, ProxyFacts, kubelet_flags

API_VERSION = "node.eks.aws/v1alpha1"
MEDIA_TYPE = "application/node.eks.aws"
CLOUD_CONFIG_TYPE = "text/cloud-config"
PROXY_FILE = "/etc/systemd/system.conf.d/bundle-proxy.conf"
_BOUNDARY = "BUNDLE"


def node_config(facts: NodeSettings) -> bytes:
    """Return the user data of a node, as the instance sees it (not base64)."""
    parts = [(MEDIA_TYPE, json.dumps(_node_config(facts), indent=2))]
    if facts.proxy is not None:
        parts.append((CLOUD_CONFIG_TYPE, "#cloud-config\n" + json.dumps(_cloud_config(facts.proxy), indent=2)))
    head = f'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="{_BOUNDARY}"\n\n'
    body = "".join(f"--{_BOUNDARY}\nContent-Type: {kind}\n\n{content}\n" for kind, content in parts)
    return f"{head}{body}--{_BOUNDARY}--\n".encode("ascii")


def _node_config(facts: NodeSettings) -> dict[str, object]:
    spec: dict[str, object] = {
        "cluster": {
            "name": facts.cluster,
            "apiServerEndpoint": facts.endpoint,
            "certificateAuthority": facts.authority,
            "cidr": facts.service_cidr,
        },
        "kubelet": _kubelet(facts),
    }
    if facts.named_by_id:
        spec["featureGates"] = {"InstanceIdNodeName": True}
    if facts.proxy is not None:
        spec["instance"] = {"environment": {"default": proxy_environment(facts.proxy)}}
    return {"apiVersion": API_VERSION, "kind": "NodeConfig", "spec": spec}


def _kubelet(facts: NodeSettings) -> dict[str, object]:
    kubelet: dict[str, object] = {"flags": kubelet_flags(facts)}
    if facts.max_pods is not None:
        kubelet["config"] = {"maxPods": facts.max_pods}
    return kubelet


def proxy_environment(proxy: ProxyFacts) -> dict[str, str]:
    """Return the variables that say a proxy, in both spellings: Go reads either, Python's libraries the small one."""
    wanted = {"HTTPS_PROXY": proxy.https, "HTTP_PROXY": proxy.http, "NO_PROXY": ",".join(proxy.bypass)}
    upper = {name: value for name, value in wanted.items() if value is not None}
    return {**upper, **{name.lower(): value for name, value in upper.items()}}


def _cloud_config(proxy: ProxyFacts) -> dict[str, object]:
    content = _system_conf(proxy_environment(proxy))
    return {
        "write_files": [{"path": PROXY_FILE, "permissions": "0644", "content": content}],
        "runcmd": [["systemctl", "daemon-reload"]],
    }


def _system_conf(environment: Mapping[str, str]) -> str:
    lines = [f"DefaultEnvironment={_systemd_quoted(f'{name}={value}')}" for name, value in environment.items()]
    return "\n".join(["[Manager]", *lines, ""])


def _systemd_quoted(text: str) -> str:
    """Return text as one word of a configuration file (systemd.syntax; a percent sign begins a specifier)."""
    return json.dumps(text).replace("%", "%%")
