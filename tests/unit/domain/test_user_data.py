"""User data of nodes."""

from __future__ import annotations

import base64
import email
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.domain.user_data import MAX_USER_DATA_BYTES, node_config
from bundler.errors import DefinitionError
from bundler.lab.user_data import parse_node_config
from tests.fakes.sites import authority, group_document, make_site


def test_a_node_reads_name_endpoint_ca_and_service_cidr() -> None:
    site = make_site(
        nodeGroups=[
            group_document(
                labels={"pool": "main", "team.example/x": "a_b"},
                taints=[{"key": "only", "value": "batch", "effect": "NoSchedule"}],
                maxPods=58,
            )
        ]
    )
    config = parse_node_config(node_config(site.cluster, site.node_groups[0]))
    assert config.name == "c1"
    assert config.endpoint == "https://EXAMPLE.gr7.ap-northeast-1.eks.amazonaws.com"
    assert config.authority_pem == authority()
    assert config.cidr == "10.100.0.0/16"
    assert config.flags == (
        "--node-labels=bundle.node-group=main,pool=main,team.example/x=a_b",
        "--register-with-taints=only=batch:NoSchedule",
    )
    assert config.max_pods == 58


def test_it_is_one_mime_part_of_json() -> None:
    site = make_site()
    message = email.message_from_bytes(node_config(site.cluster, site.node_groups[0]))
    parts = message.get_payload()
    assert isinstance(parts, list)
    assert not message.defects
    assert [part.get_content_type() for part in parts] == ["application/node.eks.aws"]  # type: ignore[union-attr]
    assert json.loads(parts[0].get_payload())["kind"] == "NodeConfig"  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize(
    ("key", "camel"), [("service_cidr", "cidr"), ("certificate_authority", "certificateAuthority"), ("name", "name")]
)
def test_without_a_fact_of_the_cluster_it_is_refused(key: str, camel: str) -> None:
    site = make_site()
    cluster = site.cluster.model_copy(update={key: ""})
    with pytest.raises(DefinitionError, match=f"lacks {camel}"):
        node_config(cluster, site.node_groups[0])


@given(st.text(max_size=60))
def test_no_text_ends_the_mime_part_or_the_document(text: str) -> None:
    site = make_site()
    cluster = site.cluster.model_copy(update={"name": text + "\n--BUNDLE--\n#!/bin/sh\n" + text})
    raw = node_config(cluster, site.node_groups[0])
    assert raw.count(b"\n--BUNDLE") == 2
    document = raw.split(b"\n\n", 2)[2].rsplit(b"\n--BUNDLE--", 1)[0]
    assert json.loads(document)["spec"]["cluster"]["name"] == cluster.name


def test_labels_below_node_kubernetes_io_are_the_owners_to_set() -> None:
    site = make_site(nodeGroups=[group_document(labels={"node.kubernetes.io/pool": "x"})])
    assert b"node.kubernetes.io/pool=x" in node_config(site.cluster, site.node_groups[0])


def test_more_than_ec2_takes_is_refused() -> None:
    labels = {f"label-{number}": "x" * 60 for number in range(300)}
    site = make_site(nodeGroups=[group_document(labels=labels)])
    with pytest.raises(DefinitionError, match=str(MAX_USER_DATA_BYTES)):
        node_config(site.cluster, site.node_groups[0])


def test_the_same_site_gives_the_same_bytes() -> None:
    one, other = (
        make_site(nodeGroups=[group_document(labels=labels)]) for labels in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    )
    assert node_config(one.cluster, one.node_groups[0]) == node_config(other.cluster, other.node_groups[0])
    assert base64.b64encode(authority()) in node_config(one.cluster, one.node_groups[0])
