"""The cluster through kubectl: JSON in, JSON out, tokens only by the kubeconfig's exec plugin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bundler.adapters.cluster_failures import cluster_failure
from bundler.adapters.process import Completed, run
from bundler.domain.cluster_node import ClusterNode
from bundler.domain.workload import KINDS, Pod, Workload, WorkloadRef, parse_node, parse_pod, parse_workload
from bundler.errors import FormatError, ProgramError
from bundler.retry import RetryPolicy, retry

LIMIT_S = 60.0
_ASK_S = 30
_SEEN = ("daemonsets.apps", "deployments.apps", "statefulsets.apps", "pods", "nodes")
_NAMES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
_NAMES_ANY_CASE = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
_PREFIXES = ("AWS_", "BUNDLE_", "XDG_")


@dataclass(frozen=True, slots=True, kw_only=True)
class KubectlSettings:
    """Where kubectl is and how it reaches the cluster.

    Attributes:
        binary: the program.
        kubeconfig: file with endpoint, CA and token plugin.
        work: a folder of ours for kubectl's own cache.
        environ: what the token plugin needs (`client_environment`).
        policy: for what may be asked again.
    """

    binary: Path
    kubeconfig: Path
    work: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    policy: RetryPolicy = field(default_factory=RetryPolicy)


def client_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what kubectl, helm and the token plugin they start may see: AWS, proxy, CA and locale variables."""
    return {
        name: value
        for name, value in environ.items()
        if name in _NAMES or name.upper() in _NAMES_ANY_CASE or name.startswith(_PREFIXES)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What one look at a cluster saw; it answers as the cluster itself would have then."""

    workloads: Mapping[WorkloadRef, Workload]
    all_pods: tuple[Pod, ...]
    all_nodes: tuple[ClusterNode, ...]

    def workload(self, ref: WorkloadRef) -> Workload | None:
        """Return a workload."""
        return self.workloads.get(ref)

    def all(self) -> tuple[Workload, ...]:
        """Return every workload."""
        return tuple(self.workloads.values())

    def pods(self, namespace: str) -> tuple[Pod, ...]:
        """Return the pods of a namespace that are to stay."""
        return tuple(pod for pod in self.all_pods if pod.namespace == namespace)

    def nodes(self) -> tuple[ClusterNode, ...]:
        """Return every node."""
        return self.all_nodes


class Kubectl:
    """One cluster."""

    def __init__(self, settings: KubectlSettings) -> None:
        self._settings = settings

    def version(self) -> str:
        """Return the API server's version, such as v1.36.3-eks-a1b2c3d."""
        answer = self._ask(["version", "--output=json"], "the cluster")
        server = answer.get("serverVersion")
        return str(server.get("gitVersion", "")) if isinstance(server, Mapping) else ""

    def is_ready(self) -> bool:
        """Whether the API server says that all of it works.

        Raises:
            AccessError: it does not know us.
            NetworkError: it does not answer.
        """
        return self._run(["get", "--raw=/readyz"], "the cluster").stdout.strip() == b"ok"

    def get(self, kind: str, *, namespace: str, name: str) -> Mapping[str, object] | None:
        """Return one object as the API server holds it, None where it does not exist."""
        argv = ["get", kind, name, f"--namespace={namespace}", "--ignore-not-found", "--show-managed-fields"]
        subject = f"{kind} {namespace}/{name}"
        done = self._run([*argv, "--output=json"], subject)
        return _object(done, subject) if done.stdout.strip() else None

    def get_all(self, kind: str, *, namespace: str | None = None) -> list[Mapping[str, object]]:
        """Return the objects of one kind, of one namespace or (None) of all."""
        where = "--all-namespaces" if namespace is None else f"--namespace={namespace}"
        answer = self._ask(["get", kind, where, "--output=json"], kind)
        items = answer.get("items")
        return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []

    def workload(self, ref: WorkloadRef) -> Workload | None:
        """Return a live Deployment, DaemonSet or StatefulSet."""
        found = self.get(f"{ref.kind.lower()}s.apps", namespace=ref.namespace, name=ref.name)
        return None if found is None else parse_workload(found)

    def pods(self, namespace: str) -> tuple[Pod, ...]:
        """Return the pods of a namespace that are to stay."""
        found = (parse_pod(item) for item in self.get_all("pods", namespace=namespace))
        return tuple(pod for pod in found if pod is not None)

    def nodes(self) -> Sequence[ClusterNode]:
        """Return every node."""
        return tuple(parse_node(item) for item in self.get_all("nodes"))

    def snapshot(self) -> Snapshot:
        """Return every workload, pod and node as they are now: one question instead of one for each."""
        argv = ["get", ",".join(_SEEN), "--all-namespaces", "--show-managed-fields", "--output=json"]
        items = self._ask(argv, "the cluster").get("items")
        by_kind: dict[str, list[Mapping[str, object]]] = {}
        for item in items if isinstance(items, list) else []:
            if isinstance(item, Mapping):
                by_kind.setdefault(str(item.get("kind")), []).append(item)
        workloads = (parse_workload(item) for kind in KINDS for item in by_kind.get(kind, []))
        pods = (parse_pod(item) for item in by_kind.get("Pod", []))
        return Snapshot(
            workloads={workload.ref: workload for workload in workloads},
            all_pods=tuple(pod for pod in pods if pod is not None),
            all_nodes=tuple(parse_node(item) for item in by_kind.get("Node", [])),
        )

    def patch(self, ref: WorkloadRef, change: Mapping[str, object], *, field_manager: str) -> None:
        """Merge `change` into a live workload, lists by their merge keys; the fields in it become the manager's.

        This is not `kubectl apply --server-side`: that one also takes over, and then drops, whatever the team has
        put there with `kubectl apply` (its migration of client-side field managers, seen with kubectl 1.35).
        """
        argv = ["patch", f"{ref.kind.lower()}s.apps", ref.name, f"--namespace={ref.namespace}", "--type=strategic"]
        self._run([*argv, f"--field-manager={field_manager}", f"--patch={json.dumps(change)}"], str(ref))

    def _ask(self, argv: Sequence[str], subject: str) -> Mapping[str, object]:
        return _object(self._run(argv, subject), subject)

    def _run(self, argv: Sequence[str], subject: str) -> Completed:
        return retry(lambda: self._once(argv, subject), subject=subject, policy=self._settings.policy)

    def _once(self, argv: Sequence[str], subject: str) -> Completed:
        settings = self._settings
        common = [
            f"--kubeconfig={settings.kubeconfig}",
            f"--request-timeout={_ASK_S}s",
            f"--cache-dir={settings.work / 'kube-cache'}",
        ]
        done = run(
            [str(settings.binary), *common, *argv],
            timeout_s=LIMIT_S,
            env={"HOME": str(settings.work), **settings.environ},
            cwd=settings.work,
        )
        if done.returncode != 0:
            raise cluster_failure(done, subject) or done.error(subject)
        return done


def _object(done: Completed, subject: str) -> Mapping[str, object]:
    try:
        found = json.loads(done.stdout)
    except ValueError as error:
        raise FormatError(subject, "kubectl did not print JSON") from error
    if not isinstance(found, dict):
        raise ProgramError(subject, "kubectl printed JSON that is no object")
    return found
