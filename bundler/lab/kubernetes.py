"""A real Kubernetes control plane on 127.0.0.1: etcd, API server, controller manager, scheduler, and kwok for nodes.

The programs come from KUBEBUILDER_ASSETS (`make kube`). Nodes and pods are kwok's: status only, no containers.
"""

from __future__ import annotations

import base64
import json
import random
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bundler.errors import MissingToolError
from bundler.lab.kube_api import KubeApi
from bundler.lab.kube_audit import AUDIT_POLICY
from bundler.lab.kube_keys import ADMIN, MANAGER, SCHEDULER, ControlPlaneKeys, make_keys, write_secret
from bundler.lab.programs import Programs

SERVICE_CIDR = "10.100.0.0/16"
_SERVICE_ADDRESS = "10.100.0.1"
LOOPBACK = "127.0.0.1"
START_LIMIT_S = 120.0
CLUSTER_ADMIN_GROUP = "eks-access-policy:cluster-admin"
KWOK_STAGES = "kwok-stages.yaml"
STAND_IN = "kwok.x-k8s.io/node=fake"
PULLED_CONDITION = "lab.eks-bundler.io/Pulled"
NETWORK_CONDITION = "lab.eks-bundler.io/Network"
PARTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
_PORTS = range(20000, 32000)  # below the range that the kernel gives to outgoing connections
# seconds that an answer of the token check is believed: short, so that tests of access need not wait
_TOKEN_CACHE_S = 2
_BUILD = "Build the control plane: make kube"
_CALLS_PER_S = 200  # Kubernetes' own 20 make a start last 4 s longer


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesFacts:
    """What the lab's site file and its other parts need to know of the cluster."""

    endpoint: str
    ca_file: Path
    service_cidr: str
    admin_kubeconfig: Path
    admin_certificate: Path
    admin_key: Path
    version: str

    @property
    def certificate_authority(self) -> str:
        """The authority as eks:DescribeCluster gives it: base64 of the PEM."""
        return base64.b64encode(self.ca_file.read_bytes()).decode()

    def admin_api(self) -> KubeApi:
        """Return a client with the administrator's certificate, which is for the lab alone."""
        return KubeApi(self.endpoint, ca_file=self.ca_file, certificate=self.admin_certificate, key=self.admin_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ports:
    etcd: int
    etcd_peer: int
    api: int
    scheduler: int


class ControlPlane:
    """The five programs. `start` returns when all of them are ready; `stop` ends them at once."""

    def __init__(self, *, state: Path, assets: Path, token_webhook_url: str | None = None) -> None:
        """Prepare a control plane.

        Args:
            state: folder of its data, keys and logs; made anew by `start`.
            assets: folder of the programs.
            token_webhook_url: who is asked about bearer tokens; without it there are none.
        """
        self._state = state
        self._assets = assets
        self._webhook = token_webhook_url
        self._programs = Programs(state)

    @property
    def audit_path(self) -> Path:
        """Kubernetes' own log of requests; see kube_audit.py."""
        return self._state / "audit.jsonl"

    def start(self, *, limit_s: float = START_LIMIT_S) -> KubernetesFacts:
        """Start everything and wait until it is ready.

        Raises:
            MissingToolError: a program is not in the assets folder.
            TargetError: a part was not ready in time; with the end of its log.
        """
        require_assets(self._assets)
        self._state.mkdir(parents=True, mode=0o700, exist_ok=True)
        ports = _Ports(**dict(zip(_Ports.__slots__, free_ports(len(_Ports.__slots__)), strict=True)))
        endpoint = f"https://{LOOPBACK}:{ports.api}"
        keys = make_keys(self._state / "keys", endpoint=endpoint, addresses=(LOOPBACK, _SERVICE_ADDRESS))
        api = KubeApi(endpoint, ca_file=keys.ca, certificate=keys.certificate(ADMIN), key=keys.key(ADMIN))
        try:
            self._bring_up(keys, ports, api, deadline=time.monotonic() + limit_s)
            return self._facts(keys, endpoint, api)
        except BaseException:
            self.stop()
            raise
        finally:
            api.close()

    def ended(self) -> list[str]:
        """Return the parts that have ended by themselves: none, as long as all is well."""
        return self._programs.ended()

    def stop(self) -> None:
        """End all parts; data and logs stay."""
        self._programs.stop()

    def _bring_up(self, keys: ControlPlaneKeys, ports: _Ports, api: KubeApi, *, deadline: float) -> None:
        self._start("etcd", _etcd_flags(self._state, ports))
        self._start("kube-apiserver", [*_api_flags(keys, ports), *self._webhook_flags(), *self._audit_flags()])
        self._programs.wait_until("kube-apiserver", api.is_ready, deadline=deadline)
        _bind_cluster_admins(api)
        self._start("kube-controller-manager", _manager_flags(keys))
        self._start("kube-scheduler", _scheduler_flags(keys, ports))
        self._start("kwok", self._kwok_flags(keys))
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self._programs.wait_until("kube-controller-manager", lambda: api.exists(account), deadline=deadline)
        scheduler = f"https://{LOOPBACK}:{ports.scheduler}/readyz"
        self._programs.wait_until("kube-scheduler", lambda: api.answers(scheduler), deadline=deadline)
        self._programs.wait_until("kwok", lambda: True, deadline=deadline)

    def _start(self, part: str, flags: list[str]) -> None:
        self._programs.start(part, [str(self._assets / part), *flags])

    def _facts(self, keys: ControlPlaneKeys, endpoint: str, api: KubeApi) -> KubernetesFacts:
        return KubernetesFacts(
            endpoint=endpoint,
            ca_file=keys.ca,
            service_cidr=SERVICE_CIDR,
            admin_kubeconfig=keys.kubeconfig(ADMIN),
            admin_certificate=keys.certificate(ADMIN),
            admin_key=keys.key(ADMIN),
            version=str(api.get("/version")["gitVersion"]),
        )

    def _webhook_flags(self) -> list[str]:
        if self._webhook is None:
            return []
        path = self._state / "token-webhook.kubeconfig"
        write_secret(path, _webhook_kubeconfig(self._webhook))
        return [
            f"--authentication-token-webhook-config-file={path}",
            "--authentication-token-webhook-version=v1",
            f"--authentication-token-webhook-cache-ttl={_TOKEN_CACHE_S}s",
        ]

    def _audit_flags(self) -> list[str]:
        policy = self._state / "audit-policy.json"
        policy.write_text(json.dumps(AUDIT_POLICY))
        return [
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.audit_path}",
            "--audit-log-maxsize=4096",
        ]

    def _kwok_flags(self, keys: ControlPlaneKeys) -> list[str]:
        stages = self._state / "stages.yaml"
        stages.write_text(combined_stages(self._assets / KWOK_STAGES))
        return [
            f"--kubeconfig={keys.kubeconfig(ADMIN)}",
            f"--config={stages}",
            f"--manage-nodes-with-annotation-selector={STAND_IN}",
            "--manage-all-nodes=false",
            "--node-lease-duration-seconds=40",
            f"--node-ip={LOOPBACK}",
        ]


def require_assets(assets: Path) -> None:
    """Check that the folder holds what a control plane needs.

    Raises:
        MissingToolError: it does not.
    """
    for name in (*PARTS, KWOK_STAGES):
        if not (assets / name).exists():
            raise MissingToolError(str(assets / name), "is not there", hint=_BUILD)


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on; all are held until the last one is found."""
    found: list[int] = []
    with ExitStack() as held:
        for port in random.sample(_PORTS, len(_PORTS)):
            if len(found) == count:
                break
            trial = held.enter_context(socket.socket())
            with suppress(OSError):
                trial.bind((LOOPBACK, port))
                found.append(port)
    return found


def combined_stages(kwok_stages: Path) -> str:
    """Return kwok's own stages with ours in the place of those of the same name.

    A node becomes Ready only once the node agent has seen its network plugin run, as with a real kubelet.

    Raises:
        MissingToolError: the file is not kwok's.
    """
    ours = list(_stages(Path(__file__).with_name("stages.yaml")))
    names = {stage["metadata"]["name"] for stage in ours}
    kept = [stage for stage in _stages(kwok_stages) if stage["metadata"]["name"] not in names]
    ready = next((stage for stage in kept if stage["metadata"]["name"] == "node-initialize"), None)
    if ready is None:
        raise MissingToolError(str(kwok_stages), "has no stage node-initialize", hint=_BUILD)
    key = f'.status.conditions[]? | select(.type == "{NETWORK_CONDITION}") | .status'
    ready["spec"]["selector"]["matchExpressions"].append({"key": key, "operator": "In", "values": ["True"]})
    return yaml.safe_dump_all([*ours, *kept], sort_keys=False)


def _stages(source: Path) -> Iterator[dict[str, Any]]:
    with source.open(encoding="utf-8") as text:
        yield from (stage for stage in yaml.safe_load_all(text) if stage is not None)


def _etcd_flags(state: Path, ports: _Ports) -> list[str]:
    client, peer = f"http://{LOOPBACK}:{ports.etcd}", f"http://{LOOPBACK}:{ports.etcd_peer}"
    return [
        f"--data-dir={state / 'etcd'}",
        "--name=lab",
        "--unsafe-no-fsync",
        "--log-level=warn",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=lab={peer}",
    ]


def _api_flags(keys: ControlPlaneKeys, ports: _Ports) -> list[str]:
    return [
        f"--etcd-servers=http://{LOOPBACK}:{ports.etcd}",
        f"--bind-address={LOOPBACK}",
        f"--secure-port={ports.api}",
        f"--advertise-address={LOOPBACK}",
        "--endpoint-reconciler-type=none",
        *_serving_flags(keys),
        f"--client-ca-file={keys.ca}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys.service_account_public}",
        f"--service-account-signing-key-file={keys.service_account_key}",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
    ]


def _manager_flags(keys: ControlPlaneKeys) -> list[str]:
    return [
        *_client_flags(keys, MANAGER),
        "--secure-port=0",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={keys.service_account_key}",
        f"--root-ca-file={keys.ca}",
        f"--cluster-signing-cert-file={keys.ca}",
        f"--cluster-signing-key-file={keys.ca_key}",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
    ]


def _scheduler_flags(keys: ControlPlaneKeys, ports: _Ports) -> list[str]:
    serving = [f"--bind-address={LOOPBACK}", f"--secure-port={ports.scheduler}", *_serving_flags(keys)]
    return [*_client_flags(keys, SCHEDULER), *serving]


def _client_flags(keys: ControlPlaneKeys, name: str) -> list[str]:
    path = keys.kubeconfig(name)
    return [
        f"--kubeconfig={path}",
        f"--authentication-kubeconfig={path}",
        f"--authorization-kubeconfig={path}",
        "--leader-elect=false",
        f"--kube-api-qps={_CALLS_PER_S}",
        f"--kube-api-burst={2 * _CALLS_PER_S}",
    ]


def _serving_flags(keys: ControlPlaneKeys) -> list[str]:
    return [
        f"--tls-cert-file={keys.certificate('apiserver')}",
        f"--tls-private-key-file={keys.key('apiserver')}",
    ]


def _webhook_kubeconfig(url: str) -> bytes:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "tokens",
        "clusters": [{"name": "tokens", "cluster": {"server": url}}],
        "contexts": [{"name": "tokens", "context": {"cluster": "tokens", "user": ""}}],
    }
    return json.dumps(config).encode()


def _bind_cluster_admins(api: KubeApi) -> None:
    """Give the group of AmazonEKSClusterAdminPolicy what that access policy gives."""
    group = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": CLUSTER_ADMIN_GROUP}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": CLUSTER_ADMIN_GROUP},
        "roleRef": role,
        "subjects": [group],
    }
    api.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
