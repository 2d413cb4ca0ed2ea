from __future__ import annotations

import base64
import gzip
from collections.abc import Callable

import pytest

from bundler.errors import FormatError, LimitError
from bundler.lab.kubelet_flags import Taint, parse_flags
from bundler.lab.node_facts import MAX_USER_DATA_BYTES
from bundler.lab.user_data import parse_user_data

CA = b"-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"


def node_config(cluster: str | None = None, rest: str = "") -> str:
    if cluster is None:
        cluster = f"""
    name: c1
    apiServerEndpoint: https://127.0.0.1:6443
    certificateAuthority: {base64.b64encode(CA).decode()}
    cidr: 10.100.0.0/16"""
    return f"apiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig\nspec:\n  cluster:{cluster}\n{rest}"


def mime(*parts: str, kind: str = "application/node.eks.aws", extra: str = "", end: str = "--B--\n") -> bytes:
    head = 'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="B"\n\n'
    return (head + "".join(f"--B\nContent-Type: {kind}\n{extra}\n{part}\n" for part in parts) + end).encode()


def test_node_config_in_a_mime_part_is_read() -> None:
    config = parse_user_data(mime(node_config()))
    assert (config.name, config.endpoint, config.cidr) == ("c1", "https://127.0.0.1:6443", "10.100.0.0/16")
    assert config.authority_pem == CA


def test_user_data_that_is_not_mime_is_taken_for_one_node_config() -> None:
    assert parse_user_data(node_config().encode()).name == "c1"


def test_carriage_returns_of_mime_do_no_harm() -> None:
    assert parse_user_data(mime(node_config()).replace(b"\n", b"\r\n")).cidr == "10.100.0.0/16"


@pytest.mark.parametrize("pack", [base64.b64encode, lambda data: gzip.compress(data, mtime=0)])
def test_packed_user_data_is_unpacked_as_nodeadm_does(pack: Callable[[bytes], bytes]) -> None:
    assert parse_user_data(pack(mime(node_config()))).name == "c1"


def test_later_parts_override_fields_and_add_flags() -> None:
    first = node_config(rest="  kubelet:\n    flags: [--node-labels=a=1]\n    config: {maxPods: 20}\n")
    second = node_config("\n    cidr: 10.200.0.0/16", "  kubelet:\n    flags: [--v=2]\n")
    config = parse_user_data(mime(first, second))
    assert (config.cidr, config.flags, config.max_pods) == ("10.200.0.0/16", ("--node-labels=a=1", "--v=2"), 20)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("name", "Name is missing"),
        ("apiServerEndpoint", "Apiserver endpoint is missing"),
        ("certificateAuthority", "Certificate authority is missing"),
        ("cidr", "CIDR is missing"),
    ],
)
def test_each_missing_field_is_refused_in_nodeadms_words(field: str, words: str) -> None:
    kept = [line for line in node_config().splitlines() if not line.strip().startswith(f"{field}:")]
    with pytest.raises(FormatError, match=words):
        parse_user_data("\n".join(kept).encode())


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"\x00\xff\xfe",
        b"#!/bin/bash\n/etc/eks/bootstrap.sh c1\n",
        b"[" * 16000,
        b"a: &a [x, x]\nb: [*a, *a]\n",
        b"\x1f\x8bnot gzip",
        gzip.compress(node_config().encode(), mtime=0)[:-1],
        node_config().replace("NodeConfig", "Node").encode(),
        node_config().replace("v1alpha1", "v9").encode(),
        node_config("\n    - 1").encode(),
        node_config("\n    name: [c1]").encode(),
        node_config().replace("certificateAuthority: ", "certificateAuthority: '*'").encode(),
        node_config(rest="  kubelet: {flags: --v=2}\n").encode(),
        node_config(rest="  kubelet: {config: {maxPods: many}}\n").encode(),
        mime(node_config(), kind="text/x-shellscript"),
        mime(node_config(), end=""),
        mime(base64.b64encode(b"not yaml: [").decode()),
        b"Content-Type: multipart/mixed\n\nno boundary",
    ],
)
def test_user_data_that_no_node_could_use_is_refused(hostile: bytes) -> None:
    with pytest.raises(FormatError):
        parse_user_data(hostile)


def test_user_data_larger_than_ec2_takes_is_refused() -> None:
    with pytest.raises(LimitError):
        parse_user_data(b"#" * (MAX_USER_DATA_BYTES + 1))


def test_a_gzip_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = gzip.compress(b"a" * (8 << 20), mtime=0)
    assert len(bomb) < MAX_USER_DATA_BYTES
    with pytest.raises(LimitError):
        parse_user_data(bomb)


def test_labels_and_taints_are_taken_from_the_kubelets_flags() -> None:
    found = parse_flags(
        [
            "--node-labels=bundle.generation=1a2b,pool=main,node.kubernetes.io/x=",
            "--register-with-taints=bundle.unverified=true:NoSchedule,solo:NoExecute",
            "--v=2",
        ]
    )
    assert found.labels == {"bundle.generation": "1a2b", "pool": "main", "node.kubernetes.io/x": ""}
    assert found.taints == (
        Taint(key="bundle.unverified", value="true", effect="NoSchedule"),
        Taint(key="solo", value="", effect="NoExecute"),
    )


@pytest.mark.parametrize(
    "flag",
    [
        "--node-labels=node-role.kubernetes.io/worker=",
        "--node-labels=example.k8s.io/a=b",
        "--node-labels=novalue",
        "--node-labels=-bad=x",
        "--node-labels=a=sp ace",
        "--register-with-taints=a=b",
        "--register-with-taints=a=b:Never",
        "--register-with-taints==b:NoSchedule",
    ],
)
def test_flags_that_keep_a_kubelet_from_starting_are_refused(flag: str) -> None:
    with pytest.raises(FormatError):
        parse_flags([flag])
