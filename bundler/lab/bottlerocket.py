"""User data as a Bottlerocket node reads it: settings in TOML (early-boot-config, pluto)."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping

from bundler.errors import FormatError
from bundler.lab.node_facts import SUBJECT, NodeFacts, pem, required


def parse_settings(user_data: bytes) -> NodeFacts:
    """Return what Bottlerocket settings amount to.

    Raises:
        FormatError: a node could not use them, or would ask eks:DescribeCluster, which nobody answers in a closed VPC.
    """
    try:
        document = tomllib.loads(user_data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise FormatError(SUBJECT, f"is not TOML: {error}") from error
    kubernetes = _table(_table(document, "settings"), "kubernetes")
    return NodeFacts(
        name=required(kubernetes, "cluster-name", "settings.kubernetes.cluster-name is missing"),
        endpoint=required(kubernetes, "api-server", "settings.kubernetes.api-server is missing"),
        authority_pem=pem(
            required(kubernetes, "cluster-certificate", "settings.kubernetes.cluster-certificate is missing"),
            "cluster-certificate",
        ),
        dns_address=required(kubernetes, "cluster-dns-ip", "no cluster-dns-ip: pluto would ask eks:DescribeCluster"),
        flags=(*_labels(_table(kubernetes, "node-labels")), *_taints(_table(kubernetes, "node-taints"))),
        max_pods=_max_pods(kubernetes.get("max-pods")),
        named_by_id=kubernetes.get("hostname-override-source") == "instance-id",
    )


def _table(parent: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = parent.get(key, {})
    if not isinstance(value, dict):
        raise FormatError(SUBJECT, f"{key} is not a table")
    return value


def _labels(table: Mapping[str, object]) -> Iterator[str]:
    if not all(isinstance(value, str) for value in table.values()):
        raise FormatError(SUBJECT, "node-labels are not texts")
    if table:
        yield "--node-labels=" + ",".join(f"{key}={value}" for key, value in table.items())


def _taints(table: Mapping[str, object]) -> Iterator[str]:
    for key, values in table.items():
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise FormatError(SUBJECT, "node-taints are not lists of texts")
        yield from (f"--register-with-taints={key}={value}" for value in values)


def _max_pods(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise FormatError(SUBJECT, "max-pods is not a number")
    return value
