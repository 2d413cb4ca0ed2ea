"""The tree of a node disk: where files of this machine go, and what is said when one is missing."""

from __future__ import annotations

import pytest

from bundler.errors import AccessError, MissingToolError
from bundler.lab import machines, node_standins, node_tree


@pytest.mark.parametrize(("program", "package"), [("ctr", "containerd"), ("runc", "runc"), ("scp", "openssh-client")])
def test_a_program_that_is_missing_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, program: str, package: str
) -> None:
    monkeypatch.setattr(node_tree.shutil, "which", lambda name, path: None if name == program else f"/usr/bin/{name}")
    with pytest.raises(MissingToolError, match=program) as caught:
        node_tree.require_programs()
    assert caught.value.hint == f"Debian: apt install {package}"


def test_machines_need_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines.os, "geteuid", lambda: 1000)
    with pytest.raises(AccessError, match="only root"):
        machines.require_machines()


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("/usr/bin/tar", "usr/bin/tar"),
        ("/bin/tar", "usr/bin/tar"),
        ("/sbin/runc", "usr/sbin/runc"),
        ("/lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/libc.so.6"),
        ("/lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2"),
    ],
)
def test_files_go_where_al2023_has_them(here: str, there: str) -> None:
    assert node_tree._on_disk(here) == there


def test_every_stand_in_says_that_it_is_one() -> None:
    for place, text in node_standins.programs("v1.36.0").items():
        assert "Stand-in of the eks-bundler lab" in text, place
    assert "lab stand-in" in node_standins.settings()["etc/os-release"]


def test_host_names_and_keys_are_those_of_ec2() -> None:
    assert machines.host_name("127.80.0.4", "us-east-1") == "ip-127-80-0-4.ec2.internal"
    assert machines.host_name("127.80.0.4", "eu-central-1") == "ip-127-80-0-4.eu-central-1.compute.internal"
    assert machines.public_key("ssh-rsa AAAA a comment\n") == "ssh-rsa AAAA"
