"""User data of nodes: each system is told everything, in its own form, and none would ask the EKS API."""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bundler.domain.node_config import node_config
from bundler.domain.node_settings import node_settings
from bundler.domain.site import NodeGroup, Site
from bundler.domain.user_data import MAX_USER_DATA_BYTES, user_data, user_data_warnings
from bundler.errors import DefinitionError
from bundler.lab.kubelet_flags import Taint, parse_flags
from bundler.lab.user_data import parse_user_data
from tests.fakes.node_groups import FULL, PROXY, SYSTEMS, cluster, variants
from tests.fakes.sites import authority, group_document, make_site
from tests.user_data_oracle import FACTS, bootstrap_options, could_ask_eks, parts, settings
from tests.user_data_oracle import node_config as node_config_of

CA = base64.b64encode(authority()).decode()
ENDPOINT = "https://EXAMPLE.gr7.ap-northeast-1.eks.amazonaws.com"
HOSTILE = ["a'b", 'a"b', "a\nb", "$(reboot)", "`reboot`", "a;b", "a b", "${HOME}", "a|b", "a\\b", "a,b", "é", "a\x00"]
VARIANTS = list(variants())


def only(site: Site) -> NodeGroup:
    """The one group of a site."""
    [group] = site.node_groups
    return group


def raw_of(site: Site) -> bytes:
    """The user data of the one group of a site."""
    return user_data(site, only(site))


def site_of(os: str, **changes: Any) -> Site:
    """A site with one group."""
    return make_site(nodeGroups=[group_document(os=os, **changes)])


def named(site: Site) -> str:
    """What a variant is called in a test's name."""
    group = only(site)
    words = [group.os, "full" if group.taints else "", "by-id" if group.instance_id_node_name else ""]
    return "-".join(
        filter(None, [*words, "proxy" if site.proxy else "", "v6" if ":" in site.cluster.service_cidr else ""])
    )


# --- no node asks the EKS API


@pytest.mark.parametrize("site", VARIANTS, ids=named)
def test_no_variant_could_lead_to_describe_cluster(site: Site) -> None:
    assert could_ask_eks(only(site).os, raw_of(site)) == []


@pytest.mark.parametrize("fact", FACTS["al2023"])
@pytest.mark.parametrize("gone", [True, False])
def test_the_oracle_sees_a_fact_that_a_node_config_lacks(fact: str, gone: bool) -> None:
    """A guard is tested by removing what it guards."""
    raw = raw_of(site_of("al2023"))
    document = node_config_of(raw)
    if gone:
        del document["spec"]["cluster"][fact]
    else:
        document["spec"]["cluster"][fact] = ""
    start, end = raw.index(b"\n\n{") + 2, raw.rindex(b"\n--BUNDLE--")
    assert could_ask_eks("al2023", raw[:start] + json.dumps(document).encode() + raw[end:]) == [fact]


@pytest.mark.parametrize("fact", FACTS["bottlerocket"])
def test_the_oracle_sees_a_fact_that_bottlerocket_settings_lack(fact: str) -> None:
    raw = raw_of(site_of("bottlerocket")).decode()
    line = next(line for line in raw.splitlines() if line.startswith(f"{fact} = "))
    assert could_ask_eks("bottlerocket", raw.replace(f"{line}\n", "").encode()) == [fact]
    assert could_ask_eks("bottlerocket", raw.replace(line, f'{fact} = ""').encode()) == [fact]


@pytest.mark.parametrize("fact", FACTS["al2"])
def test_the_oracle_sees_a_fact_that_a_bootstrap_call_lacks(fact: str) -> None:
    raw = raw_of(site_of("al2")).decode()
    assert could_ask_eks("al2", re.sub(rf" {fact} \S+", "", raw).encode()) == [fact]
    assert could_ask_eks("al2", re.sub(rf" {fact} \S+", f" {fact} ''", raw).encode()) == [fact]


@pytest.mark.parametrize("os", SYSTEMS)
@pytest.mark.parametrize(
    ("key", "camel"),
    [
        ("service_cidr", "serviceCidr"),
        ("certificate_authority", "certificateAuthority"),
        ("name", "name"),
        ("endpoint", "endpoint"),
    ],
)
def test_without_a_fact_of_the_cluster_it_is_refused(os: str, key: str, camel: str) -> None:
    site = site_of(os)
    poorer = site.model_copy(update={"cluster": site.cluster.model_copy(update={key: ""})})
    with pytest.raises(DefinitionError, match=f"lacks {camel}"):
        raw_of(poorer)


# --- AL2023: every field against the table of reference/ami.md 5.3


NODE_CONFIG_TABLE: Mapping[str, type | tuple[type, ...]] = {
    "apiVersion": str,
    "kind": str,
    "spec.cluster.name": str,
    "spec.cluster.apiServerEndpoint": str,
    "spec.cluster.certificateAuthority": str,
    "spec.cluster.cidr": str,
    "spec.featureGates.InstanceIdNodeName": bool,
    "spec.kubelet.config.maxPods": int,
    "spec.kubelet.flags": list,
    "spec.instance.environment.default.HTTPS_PROXY": str,
    "spec.instance.environment.default.HTTP_PROXY": str,
    "spec.instance.environment.default.NO_PROXY": str,
    "spec.instance.environment.default.https_proxy": str,
    "spec.instance.environment.default.http_proxy": str,
    "spec.instance.environment.default.no_proxy": str,
}
"""Every field that a NodeConfig of ours may have (nodeadm passes over keys that it does not know, without a word)."""


def fields(document: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The leaves of a document by their path."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        found |= fields(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return found


@pytest.mark.parametrize("site", [site for site in VARIANTS if only(site).os == "al2023"], ids=named)
def test_every_field_of_a_node_config_is_in_the_table_and_of_its_type(site: Site) -> None:
    found = fields(node_config_of(raw_of(site)))
    assert set(found) <= set(NODE_CONFIG_TABLE)
    for path, value in found.items():
        assert type(value) is NODE_CONFIG_TABLE[path], path
    assert (found["apiVersion"], found["kind"]) == ("node.eks.aws/v1alpha1", "NodeConfig")
    assert all(isinstance(flag, str) and flag.startswith("--") for flag in found["spec.kubelet.flags"])


def test_the_table_is_no_longer_than_what_is_used() -> None:
    used = {path for site in VARIANTS if only(site).os == "al2023" for path in fields(node_config_of(raw_of(site)))}
    assert used == set(NODE_CONFIG_TABLE)


def test_an_al2023_node_is_told_exactly_this() -> None:
    found = node_config_of(raw_of(site_of("al2023", **FULL, instanceIdNodeName="true")))
    assert found == {
        "apiVersion": "node.eks.aws/v1alpha1",
        "kind": "NodeConfig",
        "spec": {
            "cluster": {
                "name": "c1",
                "apiServerEndpoint": ENDPOINT,
                "certificateAuthority": CA,
                "cidr": "10.100.0.0/16",
            },
            "featureGates": {"InstanceIdNodeName": True},
            "kubelet": {
                "config": {"maxPods": 58},
                "flags": [
                    "--node-labels=bundle.node-group=main,empty=,pool=main,team.example/x=a_b",
                    "--register-with-taints=only=batch:NoSchedule,only=batch:NoExecute,example.org/solo=:PreferNoSchedule",
                ],
            },
        },
    }


def test_without_a_proxy_it_is_one_mime_part() -> None:
    assert [kind for kind, _ in parts(raw_of(site_of("al2023")))] == ["application/node.eks.aws"]


@given(st.text(max_size=60))
def test_no_text_ends_the_mime_part_or_the_document(text: str) -> None:
    """The emitter alone, without the refusal before it."""
    facts = node_settings(make_site(), only(make_site()))
    name = text + "\n--BUNDLE--\n#!/bin/sh\n" + text
    hostile = type(facts)(
        cluster=name, endpoint=ENDPOINT, authority=CA, service_cidr="10.100.0.0/16", dns_address="10.100.0.10"
    )
    raw = node_config(hostile)
    assert raw.count(b"\n--BUNDLE") == 2
    assert node_config_of(raw)["spec"]["cluster"]["name"] == name


# --- the proxy


def proxied(os: str = "al2023", **changes: Any) -> Site:
    """A site with a proxy."""
    return make_site(nodeGroups=[group_document(os=os)], proxy={**PROXY, **changes})


def environment_of(site: Site) -> dict[str, str]:
    """What nodeadm is told of the proxy."""
    found: dict[str, str] = node_config_of(raw_of(site))["spec"]["instance"]["environment"]["default"]
    return found


def test_nodeadm_is_told_the_proxy_itself_because_it_runs_before_cloud_init() -> None:
    environment = environment_of(proxied())
    assert environment["HTTPS_PROXY"] == environment["https_proxy"] == "http://proxy.example:3128"
    assert environment["HTTP_PROXY"] == environment["http_proxy"] == "http://proxy.example:3129"
    assert environment["NO_PROXY"] == environment["no_proxy"]


def test_without_a_proxy_for_plain_http_none_is_set() -> None:
    site = make_site(proxy={"httpsProxy": "http://proxy.example:3128"})
    assert sorted(environment_of(site)) == ["HTTPS_PROXY", "NO_PROXY", "https_proxy", "no_proxy"]


def test_cloud_init_writes_the_same_for_older_amis_and_no_shell_reads_it() -> None:
    [(kind, _), (other, text)] = parts(raw_of(proxied()))
    assert (kind, other) == ("application/node.eks.aws", "text/cloud-config")
    assert text.startswith("#cloud-config\n")
    config = yaml.safe_load(text)
    assert config.keys() == {"write_files", "runcmd"}
    assert config["runcmd"] == [["systemctl", "daemon-reload"]]
    [file] = config["write_files"]
    assert (file["path"], file["permissions"]) == ("/etc/systemd/system.conf.d/bundle-proxy.conf", "0644")
    head, *lines = file["content"].splitlines()
    assert head == "[Manager]"
    written = dict(re.fullmatch(r'DefaultEnvironment="(\w+)=([^"%\\]*)"', line).groups() for line in lines)  # type: ignore[union-attr]
    assert written == environment_of(proxied())


@pytest.mark.parametrize("os", ["al2023", "bottlerocket"])
def test_what_must_not_go_through_the_proxy_never_does(os: str) -> None:
    site = proxied(os, noProxy=["10.0.0.0/8", ".corp.example"])
    bypass = (
        environment_of(site)["NO_PROXY"].split(",") if os == "al2023" else settings(raw_of(site))["network"]["no-proxy"]
    )
    host = urlsplit(ENDPOINT).hostname
    needed = {"localhost", "127.0.0.1", "169.254.169.254", ".svc", host, "10.100.0.0/16", ".eks.amazonaws.com"}
    services = {f"{name}.ap-northeast-1.amazonaws.com" for name in ("ec2", "sts", "api.ecr", ".dkr.ecr", ".s3", "eks")}
    assert needed | services | {"10.0.0.0/8", ".corp.example"} <= set(bypass)
    assert len(bypass) == len(set(bypass))


def test_names_of_endpoints_follow_the_partition() -> None:
    site = make_site(partition="aws-cn", region="cn-north-1", proxy=PROXY)
    assert "ec2.cn-north-1.amazonaws.com.cn" in environment_of(site)["NO_PROXY"].split(",")


def test_bottlerocket_has_settings_for_the_proxy_and_says_that_plain_http_is_not_among_them() -> None:
    site = proxied("bottlerocket")
    network = settings(raw_of(site))["network"]
    assert network.keys() == {"https-proxy", "no-proxy"}
    assert network["https-proxy"] == "http://proxy.example:3128"
    [warning] = user_data_warnings(site, only(site))
    assert "no proxy for plain HTTP" in warning


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"httpsProxy": "http://user:word@proxy.example:3128"}, "user name or password"),
        ({"httpsProxy": "http://proxy.example"}, "must have a port"),
        ({"httpsProxy": "http://proxy.example:3128/path"}, "should match|nothing more"),
        ({"httpsProxy": "socks5://proxy.example:3128"}, "should match"),
        *(({"httpsProxy": f"http://{text}:3128"}, "should match|nothing more|hidden") for text in HOSTILE),
        *(({"noProxy": [text]}, "should match|hidden") for text in HOSTILE),
    ],
)
def test_a_proxy_that_is_more_than_host_and_port_is_an_error_of_the_site_file(
    changes: dict[str, Any], cause: str
) -> None:
    with pytest.raises(DefinitionError, match=cause) as caught:
        proxied(**changes)
    assert caught.value.subject.startswith("site.yaml:")
    assert "word@" not in str(caught.value)


# --- Bottlerocket


def test_a_bottlerocket_node_is_told_exactly_this() -> None:
    assert settings(raw_of(site_of("bottlerocket", **FULL, instanceIdNodeName="true"))) == {
        "kubernetes": {
            "cluster-name": "c1",
            "api-server": ENDPOINT,
            "cluster-certificate": CA,
            "cluster-dns-ip": "10.100.0.10",
            "hostname-override-source": "instance-id",
            "max-pods": 58,
            "node-labels": {"bundle.node-group": "main", "empty": "", "pool": "main", "team.example/x": "a_b"},
            "node-taints": {
                "example.org/solo": [":PreferNoSchedule"],
                "only": ["batch:NoSchedule", "batch:NoExecute"],
            },
        },
        "metrics": {"send-metrics": False},
        "host-containers": {"control": {"enabled": False}},
    }


@pytest.mark.parametrize(
    ("cidr", "address"), [("172.20.0.0/16", "172.20.0.10"), ("fd30:1c53:5f8a::/108", "fd30:1c53:5f8a::a")]
)
def test_cluster_dns_is_the_tenth_address_of_the_service_network(cidr: str, address: str) -> None:
    site = make_site(nodeGroups=[group_document(os="bottlerocket")], cluster={**cluster(), "serviceCidr": cidr})
    assert settings(raw_of(site))["kubernetes"]["cluster-dns-ip"] == address


# --- Amazon Linux 2


def test_an_al2_node_is_told_exactly_this() -> None:
    assert bootstrap_options(raw_of(site_of("al2", **FULL))) == {
        "name": "c1",
        "--apiserver-endpoint": ENDPOINT,
        "--b64-cluster-ca": CA,
        "--dns-cluster-ip": "10.100.0.10",
        "--ip-family": "ipv4",
        "--use-max-pods": "false",
        "--kubelet-extra-args": (
            "--node-labels=bundle.node-group=main,empty=,pool=main,team.example/x=a_b"
            " --register-with-taints=only=batch:NoSchedule,only=batch:NoExecute,example.org/solo=:PreferNoSchedule"
            " --max-pods=58"
        ),
    }


def test_amazon_linux_2_warns_with_the_dates_on_which_its_support_ends() -> None:
    site = site_of("al2")
    [warning] = user_data_warnings(site, only(site))
    assert "2025-11-26" in warning
    assert "2026-06-30" in warning
    for os in ("al2023", "bottlerocket"):
        assert user_data_warnings(site_of(os), only(site_of(os))) == ()


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"proxy": PROXY}, "os al2 and proxy exclude each other"),
        ({"cluster": {**cluster(), "serviceCidr": "fd30:1c53:5f8a::/108"}}, "IPv4 addresses only"),
        ({"nodeGroups": [group_document(os="al2", instanceIdNodeName="true")]}, "private DNS name"),
    ],
)
def test_what_bootstrap_sh_cannot_do_is_an_error_of_the_site_file(changes: dict[str, Any], cause: str) -> None:
    with pytest.raises(DefinitionError, match=cause):
        make_site(**{"nodeGroups": [group_document(os="al2")], **changes})


# --- hostile values


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("place", ["label", "label key", "taint", "taint key"])
def test_a_label_or_taint_that_a_shell_could_read_is_an_error_of_the_site_file(place: str, text: str) -> None:
    changes: dict[str, Any] = {
        "label": {"labels": {"a": text}},
        "label key": {"labels": {text: "a"}},
        "taint": {"taints": [{"key": "a", "value": text, "effect": "NoSchedule"}]},
        "taint key": {"taints": [{"key": text, "effect": "NoSchedule"}]},
    }[place]
    with pytest.raises(DefinitionError) as caught:
        make_site(nodeGroups=[group_document(**changes)])
    assert caught.value.subject.startswith("site.yaml:")


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("key", ["name", "endpoint", "certificateAuthority", "serviceCidr"])
def test_a_fact_of_the_cluster_that_a_shell_could_read_is_an_error_of_the_site_file(key: str, text: str) -> None:
    value = f"https://{text}.example" if key == "endpoint" else cluster()[key] + text
    with pytest.raises(DefinitionError) as caught:
        make_site(cluster={**cluster(), key: value})
    assert caught.value.subject.startswith("site.yaml:")


@pytest.mark.parametrize("os", SYSTEMS)
@pytest.mark.parametrize("text", [text for text in HOSTILE if text != "a,b"])
@pytest.mark.parametrize("place", ["name", "endpoint", "certificate_authority", "labels", "taints"])
def test_what_did_not_come_from_a_site_file_is_refused_all_the_same(os: str, text: str, place: str) -> None:
    site = site_of(os, **FULL)
    group, told = only(site), site.cluster
    if place == "labels":
        group = group.model_copy(update={"labels": {"a": text}})
    elif place == "taints":
        group = group.model_copy(update={"taints": (group.taints[0].model_copy(update={"value": text}),)})
    else:
        told = told.model_copy(update={place: text})
    with pytest.raises(DefinitionError, match="a shell or a document could read"):
        user_data(site.model_copy(update={"cluster": told}), group)


# --- all of it


names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,10}[A-Za-z0-9])?", fullmatch=True)
values = st.just("") | names
networks = st.sampled_from(["10.100.0.0/16", "172.20.0.0/16", "192.168.8.0/24", "fd30:1c53:5f8a::/108"])
groups = st.fixed_dictionaries(
    {"name": st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)},
    optional={
        "labels": st.dictionaries(names, values, max_size=4),
        "taints": st.lists(
            st.builds(
                lambda key, value, effect: {"key": key, "value": value, "effect": effect},
                names,
                values,
                st.sampled_from(["NoSchedule", "PreferNoSchedule", "NoExecute"]),
            ),
            max_size=4,
        ),
        "maxPods": st.integers(4, 1000),
        "instanceIdNodeName": st.sampled_from(["true", "false"]),
    },
)


@given(
    os=st.sampled_from(SYSTEMS),
    group=groups,
    cidr=networks,
    name=st.from_regex(r"[0-9A-Za-z][A-Za-z0-9_-]{0,20}", fullmatch=True),
)
def test_whatever_a_site_says_a_node_of_any_system_reads_exactly_that(
    os: str, group: dict[str, Any], cidr: str, name: str
) -> None:
    if os == "al2":
        group, cidr = {**group, "instanceIdNodeName": "false"}, "10.100.0.0/16"
    told = {**cluster(), "name": name, "serviceCidr": cidr}
    site = make_site(cluster=told, nodeGroups=[group_document(os=os, **group)])
    raw = raw_of(site)
    assert could_ask_eks(os, raw) == []
    read = parse_user_data(raw)
    assert (read.name, read.endpoint, read.authority_pem) == (name, ENDPOINT, authority())
    assert read.cidr == (cidr if os == "al2023" else None)
    assert read.dns_address == (None if os == "al2023" else str(ipaddress.ip_network(cidr)[10]))
    assert read.max_pods == group.get("maxPods")
    assert read.named_by_id == (group.get("instanceIdNodeName") == "true")
    registered = parse_flags(read.flags)
    assert registered.labels == {**group.get("labels", {}), "bundle.node-group": group["name"]}
    wanted = [
        Taint(key=taint["key"], value=taint["value"], effect=taint["effect"]) for taint in group.get("taints", [])
    ]
    assert sorted(map(str, registered.taints)) == sorted(map(str, wanted))


def test_labels_below_node_kubernetes_io_are_the_owners_to_set() -> None:
    assert b"node.kubernetes.io/pool=x" in raw_of(site_of("al2023", labels={"node.kubernetes.io/pool": "x"}))


@pytest.mark.parametrize("os", SYSTEMS)
def test_more_than_ec2_takes_is_refused(os: str) -> None:
    labels = {f"label-{number}": "x" * 60 for number in range(300)}
    with pytest.raises(DefinitionError, match=str(MAX_USER_DATA_BYTES)):
        raw_of(site_of(os, labels=labels))


@pytest.mark.parametrize("os", SYSTEMS)
def test_the_same_site_gives_the_same_bytes(os: str) -> None:
    one, other = (site_of(os, labels=labels) for labels in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"}))
    assert raw_of(one) == raw_of(other)


def test_groups_that_share_a_role_are_all_named_by_id_or_none_is() -> None:
    mixed = [group_document(instanceIdNodeName="true"), group_document(name="other")]
    with pytest.raises(DefinitionError, match="need roles of their own"):
        make_site(nodeGroups=mixed)
    mixed[1]["role"] += "-2"
    make_site(nodeGroups=mixed)
