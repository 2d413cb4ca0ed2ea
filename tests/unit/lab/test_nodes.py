from __future__ import annotations

import base64
import datetime as dt
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bundler.domain.digest import Digest
from bundler.errors import BundleError
from bundler.lab.cluster import holds_image
from bundler.lab.instances import Instance
from bundler.lab.kube_audit import mutating_requests
from bundler.lab.kubernetes import KubernetesFacts, free_ports
from bundler.lab.nodes import plan_node
from bundler.lab.registry_store import RegistryStore, StoredManifest

CA = b"-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"
ROLE = "arn:aws:iam::111122223333:role/node"
HOST = "111122223333.dkr.ecr.eu-central-1.amazonaws.com"


class Entry:
    def __init__(self, *, kind: str = "EC2_LINUX", principal: str = ROLE) -> None:
        self.principal = principal
        self.type = kind
        self.username = "system:node:{{EC2PrivateDNSName}}"
        self.groups = ["system:nodes"]
        self.policies: dict[str, dict[str, Any]] = {}


@pytest.fixture
def facts(tmp_path: Path) -> KubernetesFacts:
    ca = tmp_path / "ca.crt"
    ca.write_bytes(CA)
    return KubernetesFacts(
        endpoint="https://127.0.0.1:6443", ca_file=ca, service_cidr="10.100.0.0/16", admin_kubeconfig=ca,
        admin_certificate=ca, admin_key=ca, version="v1.36.3",
    )  # fmt: skip


def instance(*, role: str | None = ROLE, flags: tuple[str, ...] = (), **cluster: str) -> Instance:
    said = {
        "name": "c1", "apiServerEndpoint": "https://127.0.0.1:6443",
        "certificateAuthority": base64.b64encode(CA).decode(), "cidr": "10.100.0.0/16", **cluster,
    }  # fmt: skip
    spec = {"cluster": said, "kubelet": {"flags": list(flags)}}
    config = {"apiVersion": "node.eks.aws/v1alpha1", "kind": "NodeConfig", "spec": spec}
    return Instance(
        id="i-0123", zone="eu-central-1a", region="eu-central-1", private_dns_name="ip-10-0-0-1.internal",
        private_address="10.0.0.1", type="m6g.large", architecture="arm64", user_data=json.dumps(config).encode(),
        role_arn=role, cpus=2, memory_mib=8192, pods=29,
    )  # fmt: skip


def test_node_is_what_the_instance_and_its_user_data_say(facts: KubernetesFacts) -> None:
    node = plan_node(instance(flags=("--node-labels=a=b",)), cluster_name="c1", facts=facts, entries=[Entry()])
    assert node["metadata"]["name"] == "ip-10-0-0-1.internal"
    assert node["spec"]["providerID"] == "aws:///eu-central-1a/i-0123"
    assert node["metadata"]["labels"]["kubernetes.io/arch"] == "arm64"
    assert node["metadata"]["labels"]["a"] == "b"
    assert node["status"]["allocatable"]["pods"] == "29"
    assert [(one["type"], one["status"]) for one in node["status"]["conditions"]] == [("Ready", "False")]


def test_slash_at_the_endpoints_end_and_other_line_ends_of_the_authority_do_no_harm(facts: KubernetesFacts) -> None:
    same = base64.b64encode(CA.replace(b"\n", b"\r\n")).decode()
    machine = instance(apiServerEndpoint="https://127.0.0.1:6443/", certificateAuthority=same)
    plan_node(machine, cluster_name="c1", facts=facts, entries=[Entry()])


def told(text: str) -> Instance:
    return replace(instance(), user_data=text.encode())


def settings(*, dns: str = "10.100.0.10", more: str = "") -> str:
    return (
        '[settings.kubernetes]\ncluster-name = "c1"\napi-server = "https://127.0.0.1:6443"\n'
        f'cluster-certificate = "{base64.b64encode(CA).decode()}"\ncluster-dns-ip = "{dns}"\n{more}'
    )


def test_bottlerocket_settings_make_a_node_too(facts: KubernetesFacts) -> None:
    machine = told(settings(more='max-pods = 20\nnode-labels.a = "b"\n'))
    node = plan_node(machine, cluster_name="c1", facts=facts, entries=[Entry()])
    assert node["metadata"]["labels"]["a"] == "b"
    assert node["status"]["allocatable"]["pods"] == "20"


def test_another_address_of_cluster_dns_is_refused(facts: KubernetesFacts) -> None:
    with pytest.raises(BundleError, match=r"cluster DNS '10.100.0.2' is not this cluster's 10.100.0.10"):
        plan_node(told(settings(dns="10.100.0.2")), cluster_name="c1", facts=facts, entries=[Entry()])


def test_a_node_that_is_called_by_its_id_needs_an_entry_of_type_ec2(facts: KubernetesFacts) -> None:
    machine = told(settings(more='hostname-override-source = "instance-id"\n'))
    node = plan_node(machine, cluster_name="c1", facts=facts, entries=[Entry(kind="EC2")])
    assert node["metadata"]["name"] == "i-0123"
    with pytest.raises(BundleError, match="no access entry of type EC2 for"):
        plan_node(machine, cluster_name="c1", facts=facts, entries=[Entry()])


OTHER = base64.b64encode(CA.replace(b"QUJD", b"QUJE")).decode()


@pytest.mark.parametrize(
    ("machine", "entry", "reason"),
    [
        (instance(apiServerEndpoint="https://127.0.0.1:6444"), Entry(), "is not this cluster's"),
        (instance(certificateAuthority=OTHER), Entry(), "x509"),
        (instance(cidr="10.101.0.0/16"), Entry(), "is not this cluster's 10.100.0.0/16"),
        (instance(name="c2"), Entry(), "Unauthorized: token is signed for"),
        (instance(role=None), Entry(), "no credentials"),
        (instance(), Entry(kind="STANDARD"), "no access entry of type EC2_LINUX"),
        (instance(), Entry(principal=ROLE + "2"), "no access entry of type EC2_LINUX"),
        (instance(flags=("--register-with-taints=x",)), Entry(), "--register-with-taints"),
    ],
)
def test_instance_that_may_not_join_is_refused_with_the_reason(
    facts: KubernetesFacts, machine: Instance, entry: Entry, reason: str
) -> None:
    with pytest.raises(BundleError, match=reason):
        plan_node(machine, cluster_name="c1", facts=facts, entries=[entry])


def test_registry_holds_an_image_only_under_its_own_host_and_exact_name(tmp_path: Path) -> None:
    store = RegistryStore(tmp_path)
    repository = store.repository("closed/app")
    raw = b'{"schemaVersion":2}'
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = StoredManifest(raw=raw, media_type=kind, pushed_at=dt.datetime.now(dt.UTC))
    store.put_manifest(repository, manifest, tag="1")
    digest = Digest.of(raw)
    held = (f"{HOST}/closed/app:1", f"{HOST}/closed/app@{digest}", f"{HOST}/closed/app:9@{digest}")
    absent = (
        f"{HOST}/closed/app", f"{HOST}/closed/app:2", f"{HOST}/closed/app:1@sha256:{'0' * 64}",
        f"{HOST}/closed/other:1",
        "closed/app:1", "docker.io/closed/app:1", f"registry.k8s.io/closed/app@{digest}", "", "UPPER/case", "a b",
    )  # fmt: skip
    assert [holds_image(store, HOST, reference) for reference in held] == [True] * len(held)
    assert [holds_image(store, HOST, reference) for reference in absent] == [False] * len(absent)


def test_audit_log_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    event = {
        "stage": "ResponseComplete", "verb": "patch", "requestURI": "/api/v1/nodes/x?fieldManager=bundle",
        "user": {"username": "u", "extra": {"arn": ["a"]}}, "responseStatus": {"code": 200}, "stageTimestamp": "t",
    }  # fmt: skip
    ours = [
        event,
        {**event, "requestURI": "/api/v1/nodes/x?dryRun=All"},
        {**event, "verb": "get"},
        {**event, "user": {"username": "system:kube-scheduler"}},
        {**event, "verb": "create", "objectRef": {"apiGroup": "authorization.k8s.io"}},
        {**event, "stage": "Panic"},
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in ours) + '{"stage": "Respo')
    assert [one.verb for one in mutating_requests(path)] == ["patch"]
    assert mutating_requests(tmp_path / "absent") == []


def test_ports_that_are_found_differ_and_lie_below_those_of_outgoing_connections() -> None:
    found = free_ports(6)
    assert len(set(found)) == 6
    assert all(20000 <= port < 32000 for port in found)
