"""Every template in packer/, validated by the real Packer through our adapter."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bundler.adapters.packer import Packer, PackerSettings
from bundler.data import data_folder
from bundler.domain.packer_template import gate
from bundler.errors import DefinitionError
from tests.needs import need_packer

pytestmark = pytest.mark.loopback
TEMPLATES = sorted(data_folder("packer").glob("*/template.json"))
ALL_SET = {
    "region": "us-gov-west-1",
    "ec2_endpoint": "http://127.0.0.1:9",
    "ami_description": "bundle one",
    "instance_type": "m6g.large",
    "subnet_id": "subnet-12345678",
    "security_group_id": "sg-12345678",
    "iam_instance_profile": "builder",
    "kms_key_id": "alias/bundle",
    "volume_size": "30",
    "root_device": "/dev/xvda",
    "ssh_interface": "private_ip",
    "ssh_username": "ec2-user",
    "ssh_host": "127.0.0.1",
    "ssh_port": "2222",
    "owner": "0123 somebody@host",
}


@pytest.fixture
def packer(tmp_path: Path) -> Packer:
    keys = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_EC2_METADATA_DISABLED": "true"}
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **keys}
    return Packer(PackerSettings(binary=need_packer(), work=tmp_path / "packer", environ=environ))


def needed(folder: Path) -> dict[str, str]:
    return {
        "region": "us-east-1",
        "source_ami": "ami-0123456789abcdef0",
        "ami_name": "workers-amd64-0123456789ab",
        "payload_dir": str(folder),
        "facts_file": str(folder / "facts"),
        "run_tag": "0123456789ab",
    }


def test_there_is_a_template() -> None:
    assert TEMPLATES


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.parent.name)
def test_it_is_valid_as_it_stands_for_packer_1_6_6(template: Path, packer: Packer, tmp_path: Path) -> None:
    if packer.version() > (1, 6, 6):
        packer.need_amazon()
    packer.validate(template, needed(tmp_path))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.parent.name)
def test_it_is_valid_for_this_packer_with_all_variables_and_with_the_needed_ones(
    template: Path, packer: Packer, tmp_path: Path
) -> None:
    with packer.gated(template, ALL_SET) as gated:
        packer.validate(gated, needed(tmp_path) | ALL_SET)
    with packer.gated(template, {}) as gated:
        packer.validate(gated, needed(tmp_path))
        unset = dict.fromkeys(ALL_SET, "") | {
            "instance_type": "m6i.large",
            "volume_size": "20",
            "root_device": "/dev/xvda",
        }
        packer.validate(gated, needed(tmp_path) | unset | {"region": "us-east-1", "ssh_username": "ec2-user"})
    assert not gated.exists()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.parent.name)
def test_the_variables_are_all_that_it_uses(template: Path) -> None:
    document = json.loads(template.read_bytes())
    text = template.read_text() + json.dumps(gate(document, (1, 6, 6), has_key=True))
    assert set(document["variables"]) == set(needed(Path())) | set(ALL_SET)
    assert all(f"{{{{user `{name}`}}}}" in text for name in document["variables"])


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.parent.name)
def test_a_payload_that_is_not_there_is_refused(template: Path, packer: Packer, tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="payload"):
        packer.validate(template, needed(tmp_path) | {"payload_dir": str(tmp_path / "payload")})
