"""A team's own template: where it builds, what we add to it, and what it calls sensitive."""

from __future__ import annotations

from typing import Any

import pytest

from bundler.domain.team_template import (
    TeamNetwork,
    is_legacy,
    makes_interim_amis,
    network_of,
    sensitive_values,
    with_run,
)

SUBNET = "subnet-0123456789abcdef0"
HERE = TeamNetwork(subnet=SUBNET)


def template(**builder: object) -> dict[str, Any]:
    return {"variables": {"net": SUBNET, "none": ""}, "builders": [{"type": "amazon-ebs", **builder}]}


@pytest.mark.parametrize(
    ("builder", "found"),
    [
        ({}, TeamNetwork(subnet=None)),
        ({"subnet_id": SUBNET}, HERE),
        ({"subnet_id": SUBNET, "vpc_id": "vpc-1"}, HERE),
        ({"subnet_id": "{{user `net`}}"}, HERE),
        ({"subnet_id": "{{ user 'given' }}"}, TeamNetwork(subnet="subnet-11111111")),
        ({"subnet_id": "{{user `none`}}"}, TeamNetwork(subnet=None)),
        ({"subnet_id": SUBNET, "region": "eu-west-1", "ssh_port": 22, "communicator": "ssh"}, HERE),
        ({"subnet_id": "{{env `SUBNET`}}"}, None),
        ({"subnet_id": "first"}, None),
        ({"vpc_id": "vpc-1"}, None),
        ({"subnet_id": SUBNET, "region": "us-east-1"}, None),
        ({"subnet_id": SUBNET, "region": "{{env `AWS_REGION`}}"}, None),
        ({"subnet_id": SUBNET, "ssh_port": 2222}, None),
        ({"subnet_id": SUBNET, "communicator": "winrm"}, None),
        ({"subnet_id": SUBNET, "security_group_id": "sg-1"}, None),
        ({"subnet_id": SUBNET, "security_group_ids": ["sg-1"]}, None),
        ({"subnet_id": SUBNET, "security_group_filter": {"filters": {}, "x": "y"}}, None),
        ({"subnet_id": SUBNET, "temporary_security_group_source_cidrs": ["10.0.0.0/8"]}, None),
        ({"subnet_filter": {"filters": {"tag:a": "b"}}}, None),
        ({"subnet_id": SUBNET, "assume_role": {"role_arn": "arn"}}, None),
    ],
)
def test_a_group_of_ours_is_for_a_template_without_one_where_its_vpc_is_certain(
    builder: dict[str, object], found: TeamNetwork | None
) -> None:
    assert network_of(template(**builder), {"given": "subnet-11111111"}, region="eu-west-1") == found


def test_with_two_builders_or_none_no_group_is_ours() -> None:
    two = template()
    two["builders"] *= 2
    for document in (two, {"builders": []}, {}, {"builders": [{"type": "null"}]}):
        assert network_of(document, {}, region="eu-west-1") is None


@pytest.mark.parametrize("group", ["sg-ours", None])
def test_everything_that_it_makes_bears_the_run(group: str | None) -> None:
    given = template(tags={"a": "b"})
    made = with_run(given, {"bundle:bake": "1"}, keys="key-", security_group=group)
    (builder,) = made["builders"]
    assert builder["tags"] == {"a": "b", "bundle:bake": "1"}
    assert all(builder[key] == {"bundle:bake": "1"} for key in ("run_tags", "run_volume_tags", "snapshot_tags"))
    assert builder["temporary_key_pair_name"] == "key-{{uuid}}"
    assert builder.get("security_group_id") == group
    assert given == template(tags={"a": "b"}), "what was given stays as it is"


@pytest.mark.parametrize(
    ("content", "is_so"), [(b'"encrypt_boot": true', True), (b"skip_save_build_region = true", True), (b"{}", False)]
)
def test_a_template_whose_first_ami_may_be_none_to_keep_is_known(content: bytes, is_so: bool) -> None:
    assert makes_interim_amis(content) is is_so


@pytest.mark.parametrize(("name", "is_so"), [("t.json", True), ("t.pkr.json", False), ("t.pkr.hcl", False)])
def test_json_as_packer_had_it_before_hcl_is_known_by_its_name(name: str, is_so: bool) -> None:
    assert is_legacy(name) is is_so


def test_sensitive_values_are_given_ones_and_defaults() -> None:
    document = {"variables": {"a": "default", "b": "other"}, "sensitive-variables": ["a", "c", 1, "absent"]}
    assert sensitive_values(document, {"c": "given"}) == ["default", "given"]
