"""Our template for every Packer, and what a team's template asks of a newer one."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest

from bundler.data import data_folder
from bundler.domain.packer_template import Version, gate, has_amazon_plugin, needs_plugin, newer_needed

OURS = json.loads((data_folder("packer") / "al2023" / "template.json").read_bytes())
OF_1_6_6 = frozenset(
    [
        "type",
        "name",
        "region",
        "custom_endpoint_ec2",
        "source_ami",
        "instance_type",
        "subnet_id",
        "security_group_id",
        "iam_instance_profile",
        "ami_name",
        "ami_description",
        "launch_block_device_mappings",
        "shutdown_behavior",
        "communicator",
        "ssh_interface",
        "ssh_username",
        "ssh_host",
        "ssh_port",
        "ssh_timeout",
        "temporary_key_pair_name",
        "run_tags",
        "run_volume_tags",
        "tags",
        "snapshot_tags",
        "aws_polling",
        "temporary_key_pair_type",
    ]
)
"""Keys that `packer validate` of 1.6.6 took; later versions took none of them away (ami.md §1.5)."""
KNOWN: dict[Version, frozenset[str]] = {
    (1, 6, 6): OF_1_6_6,
    (1, 7, 0): OF_1_6_6 | {"metadata_options"},
    (1, 8, 7): OF_1_6_6 | {"metadata_options"},
    (1, 10, 0): OF_1_6_6 | {"metadata_options", "imds_support"},
    (1, 15, 1): OF_1_6_6 | {"metadata_options", "imds_support"},
}


def builder(version: Version) -> dict[str, Any]:
    (found,) = gate(OURS, version)["builders"]
    return dict(found)


@pytest.mark.parametrize("version", KNOWN)
def test_each_packer_gets_keys_that_it_knows(version: Version) -> None:
    assert set(builder(version)) <= KNOWN[version]


@pytest.mark.parametrize("version", KNOWN)
def test_no_packer_gets_the_block_of_plugins_that_old_ones_refuse(version: Version) -> None:
    assert set(gate(OURS, version)) == {"variables", "builders", "provisioners"}


def test_imdsv2_is_required_of_the_builder_and_of_the_ami_where_packer_can() -> None:
    assert "metadata_options" not in builder((1, 6, 6))
    assert builder((1, 7, 0))["metadata_options"]["http_tokens"] == "required"
    assert "imds_support" not in builder((1, 9, 5))
    assert builder((1, 15, 0))["imds_support"] == "v2.0"


def test_gp3_comes_with_iops_and_throughput_and_is_gp2_where_packer_knows_none() -> None:
    (device,) = builder((1, 6, 6))["launch_block_device_mappings"]
    assert (device["volume_type"], device["iops"], device["throughput"]) == ("gp3", 3000, 125)
    (device,) = builder((1, 6, 5))["launch_block_device_mappings"]
    assert (device["volume_type"], device.get("iops"), device.get("throughput")) == ("gp2", None, None)


@pytest.mark.parametrize("version", KNOWN)
def test_a_key_encrypts_the_root_volume_so_that_no_second_ami_is_made(version: Version) -> None:
    (plain,) = builder(version)["launch_block_device_mappings"]
    assert not {"encrypted", "kms_key_id"} & set(plain)
    (ours,) = gate(OURS, version, has_key=True)["builders"]
    (device,) = ours["launch_block_device_mappings"]
    assert device == {**plain, "encrypted": True, "kms_key_id": "{{user `kms_key_id`}}"}
    assert not {"encrypt_boot", "kms_key_id"} & set(ours)


def test_the_template_that_was_given_stays_as_it_is() -> None:
    before = deepcopy(OURS)
    gate(OURS, (1, 6, 0))["builders"][0]["tags"].clear()
    gate(OURS, (1, 15, 0))
    assert before == OURS


def test_everything_of_a_bake_carries_the_tag_of_its_run() -> None:
    ours = builder((1, 6, 6))
    for tags in ("run_tags", "run_volume_tags", "tags", "snapshot_tags"):
        assert ours[tags]["bundle:bake"] == "{{user `run_tag`}}"
        assert "Name" in ours[tags]
    assert ours["temporary_key_pair_name"].startswith("bundle-bake-{{user `run_tag`}}-")


def test_all_variables_are_text() -> None:
    assert all(isinstance(value, str) for value in OURS["variables"].values())


@pytest.mark.parametrize(("version", "needed"), [((1, 6, 6), False), ((1, 9, 5), False), ((1, 10, 0), True)])
def test_from_1_10_on_the_amazon_builder_is_a_plugin(version: Version, needed: bool) -> None:
    assert needs_plugin(version) is needed


def test_the_plugin_is_known_by_its_place_and_name() -> None:
    folder = "/root/.config/packer/plugins/github.com"
    assert has_amazon_plugin(f"{folder}/hashicorp/amazon/packer-plugin-amazon_v1.8.2_x5.0_linux_amd64\n")
    assert not has_amazon_plugin(f"{folder}/hashicorp/docker/packer-plugin-docker_v1.1.0_x5.0_linux_amd64\n")
    assert not has_amazon_plugin("")


@pytest.mark.parametrize(
    ("said", "named"),
    [
        (
            "1 error occurred: * unknown configuration key: '\"metadata_options\"'",
            "metadata_options, which Packer 1.7.0",
        ),
        ('Blocks of type "required_plugins" are not expected here.', "required_plugins, which Packer 1.7.0"),
        ('An argument named "imds_support" is not expected here.', "imds_support, which newer amazon plugins"),
        ("This template requires Packer version 1.9.0 or higher; using 1.6.6", "Packer 1.9.0"),
        ('1: packer { required_version = ">= 1.9.0" }', "Packer >= 1.9.0"),
    ],
)
def test_what_needs_a_newer_packer_is_named(said: str, named: str) -> None:
    assert named in newer_needed(said)


def test_a_key_that_no_packer_knows_asks_for_no_newer_one() -> None:
    assert newer_needed("unknown configuration key: '\"colour\"'") == ""
