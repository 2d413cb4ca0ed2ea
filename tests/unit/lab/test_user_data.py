from __future__ import annotations

import base64
import gzip
import re
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


TOML = f"""[settings.kubernetes]
cluster-name = "c1"
api-server = "https://127.0.0.1:6443"
cluster-certificate = "{base64.b64encode(CA).decode()}"
cluster-dns-ip = "10.100.0.10"
"""
BOOTSTRAP = (
    "#!/bin/bash\n/etc/eks/bootstrap.sh c1 --apiserver-endpoint https://127.0.0.1:6443"
    f" --b64-cluster-ca {base64.b64encode(CA).decode()} --dns-cluster-ip 10.100.0.10"
    " --kubelet-extra-args '--node-labels=a=b --max-pods=20'\n"
)


@pytest.mark.parametrize("text", [TOML, BOOTSTRAP])
def test_bottlerocket_and_amazon_linux_2_are_told_the_address_of_cluster_dns(text: str) -> None:
    facts = parse_user_data(text.encode())
    assert (facts.name, facts.endpoint, facts.authority_pem) == ("c1", "https://127.0.0.1:6443", CA)
    assert (facts.cidr, facts.dns_address) == (None, "10.100.0.10")


def test_labels_taints_and_limits_are_read_from_each_form() -> None:
    more = 'max-pods = 20\nnode-labels.a = "b"\nnode-taints.only = ["x:NoSchedule", ":NoExecute"]\n'
    told = parse_user_data((TOML + more).encode())
    assert told.max_pods == parse_user_data(BOOTSTRAP.encode()).max_pods == 20
    assert parse_flags(told.flags).labels == parse_flags(parse_user_data(BOOTSTRAP.encode()).flags).labels == {"a": "b"}
    assert [(taint.value, taint.effect) for taint in parse_flags(told.flags).taints] == [
        ("x", "NoSchedule"),
        ("", "NoExecute"),
    ]


def test_each_form_says_whether_nodes_are_called_by_their_id() -> None:
    assert not parse_user_data(TOML.encode()).named_by_id
    assert parse_user_data(f'{TOML}hostname-override-source = "instance-id"\n'.encode()).named_by_id
    gated = node_config(rest="  featureGates: {InstanceIdNodeName: true}\n")
    assert parse_user_data(gated.encode()).named_by_id


@pytest.mark.parametrize(
    ("text", "fact", "words"),
    [
        (TOML, "cluster-name", "cluster-name is missing"),
        (TOML, "api-server", "api-server is missing"),
        (TOML, "cluster-certificate", "cluster-certificate is missing"),
        (TOML, "cluster-dns-ip", "pluto would ask eks:DescribeCluster"),
        (BOOTSTRAP, "--apiserver-endpoint", "would ask eks:DescribeCluster"),
        (BOOTSTRAP, "--b64-cluster-ca", "would ask eks:DescribeCluster"),
        (BOOTSTRAP, "--dns-cluster-ip", "would be guessed from the VPC"),
    ],
)
def test_a_fact_without_which_a_node_would_ask_the_eks_api_is_missed(text: str, fact: str, words: str) -> None:
    poorer = re.sub(rf"(?m)^{fact} = .*\n| {fact} \S+", "", text)
    assert poorer != text
    with pytest.raises(FormatError, match=words):
        parse_user_data(poorer.encode())


@pytest.mark.parametrize(
    "hostile",
    [
        TOML.replace('"c1"', "c1"),
        TOML.replace('"c1"', "1"),
        TOML.replace("cluster-certificate = ", 'cluster-certificate = "*"\nx = '),
        TOML + "max-pods = true\n",
        TOML + 'max-pods = "many"\n',
        TOML + "node-labels = 1\n",
        TOML + "node-labels.a = 1\n",
        TOML + 'node-taints.a = "x:NoSchedule"\n',
        "[settings]\nkubernetes = 1\n",
        "[[settings.x]]\n" + "a = " + "[" * 16000,
        BOOTSTRAP + "reboot\n",
        BOOTSTRAP.replace("/etc/eks/bootstrap.sh", "/bin/sh"),
        BOOTSTRAP.replace(" c1", ""),
        BOOTSTRAP.replace("--max-pods=20", "--max-pods=many"),
        BOOTSTRAP.replace("20'", "20"),
        BOOTSTRAP.replace("--dns-cluster-ip", "--unheard-of"),
        BOOTSTRAP.replace("c1", "é"),
        "#!/bin/bash\n",
    ],
)
def test_settings_and_scripts_that_no_node_could_use_are_refused(hostile: str) -> None:
    with pytest.raises(FormatError):
        parse_user_data(hostile.encode())
