"""What the kubelet takes from its command line: labels and taints that a node registers with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from bundler.errors import FormatError

_SUBJECT = "kubelet flags"
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"(?:(?P<prefix>[a-z0-9](?:[a-z0-9.-]{{0,251}}[a-z0-9])?)/)?{_NAME}\Z")
_VALUE = re.compile(rf"(?:{_NAME})?\Z")
_EFFECTS = frozenset({"NoSchedule", "PreferNoSchedule", "NoExecute"})
# k8s.io/kubernetes/cmd/kubelet/app/options: with others in these namespaces the kubelet does not start
_OWN_NAMESPACES = ("kubelet.kubernetes.io", "node.kubernetes.io")
_OWN_LABELS = frozenset(
    {
        "beta.kubernetes.io/arch", "beta.kubernetes.io/instance-type", "beta.kubernetes.io/os",
        "failure-domain.beta.kubernetes.io/region", "failure-domain.beta.kubernetes.io/zone",
        "kubernetes.io/arch", "kubernetes.io/hostname", "kubernetes.io/os",
        "node.kubernetes.io/instance-type", "topology.kubernetes.io/region", "topology.kubernetes.io/zone",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """A taint that a node registers with."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """Labels and taints of a new node."""

    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()


def parse_flags(flags: Iterable[str]) -> Registration:
    """Return what `--node-labels` and `--register-with-taints` say; other flags are passed over.

    Raises:
        FormatError: the kubelet would not start with them.
    """
    labels: dict[str, str] = {}
    taints: list[Taint] = []
    for flag in flags:
        name, _, value = flag.removeprefix("-").removeprefix("-").partition("=")
        if name == "node-labels":
            labels.update(_label(item) for item in filter(None, value.split(",")))
        elif name == "register-with-taints":
            taints.extend(_taint(item) for item in filter(None, value.split(",")))
    return Registration(labels=labels, taints=tuple(taints))


def _label(item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    found = _KEY.match(key)
    if found is None or not equals or not _VALUE.match(value):
        raise FormatError(_SUBJECT, f"--node-labels: {item[:120]!r} is not KEY=VALUE")
    namespace = found["prefix"] or ""
    if _reserved(namespace) and not _allowed(key, namespace):
        raise FormatError(_SUBJECT, f"unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: [{key}]")
    return key, value


def _reserved(namespace: str) -> bool:
    return any(namespace == top or namespace.endswith(f".{top}") for top in ("kubernetes.io", "k8s.io"))


def _allowed(key: str, namespace: str) -> bool:
    own = any(namespace == top or namespace.endswith(f".{top}") for top in _OWN_NAMESPACES)
    return own or key in _OWN_LABELS


def _taint(item: str) -> Taint:
    setting, colon, effect = item.rpartition(":")
    key, _, value = setting.partition("=")
    if not colon or effect not in _EFFECTS or not _KEY.match(key) or not _VALUE.match(value):
        raise FormatError(_SUBJECT, f"--register-with-taints: {item[:120]!r} is not KEY=VALUE:EFFECT")
    return Taint(key=key, value=value, effect=effect)
