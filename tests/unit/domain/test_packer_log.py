"""Packer's machine-readable lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.domain.packer_log import built_amis, failure, parse_packer_line

BUILT = r"""
1600000000,,ui,say,==> worker: Launching a source AWS instance...
1600000001,,ui,say,==> worker: Provisioning with shell script: /tmp/bake.sh
1600000002,,ui,error,    worker: a warning of a script%!(PACKER_COMMA) on stderr
1600000003,worker,artifact-count,1
1600000004,worker,artifact,0,builder-id,mitchellh.amazonebs
1600000005,worker,artifact,0,id,eu-central-1:ami-0123456789abcdef0%!(PACKER_COMMA)eu-west-1:ami-0123456789abcdef1
1600000006,worker,artifact,0,string,AMIs were created:\neu-central-1: ami-0123456789abcdef0\n
1600000007,worker,artifact,0,end
1600000008,worker,artifact,1,builder-id,packer.post-processor.manifest
1600000009,worker,artifact,1,id,eu-central-1:ami-ffffffffffffffff0
1600000010,worker,artifact,1,end
""".strip().splitlines()

FAILED = r"""
1600000000,,ui,say,==> worker: Launching a source AWS instance...
1600000001,,ui,say,==> worker: Provisioning with shell script: /tmp/bake.sh
1600000002,,ui,error,==> worker: ctr: no such file
1600000003,,ui,say,==> worker: Terminating the source AWS instance...
1600000004,worker,error,Script exited with non-zero exit status: 3. Allowed exit codes are: [0]
1600000005,,ui,error,\n==> Some builds didn't complete successfully and had errors:
""".strip().splitlines()


def test_the_amis_of_a_build_are_those_of_the_builder() -> None:
    lines = [parse_packer_line(text) for text in BUILT]
    assert built_amis(lines) == {"eu-central-1": "ami-0123456789abcdef0", "eu-west-1": "ami-0123456789abcdef1"}


def test_steps_are_what_packer_says_and_not_what_a_script_writes() -> None:
    steps = [line.step for line in map(parse_packer_line, BUILT) if line.step]
    assert steps == ["Launching a source AWS instance...", "Provisioning with shell script: /tmp/bake.sh"]
    assert parse_packer_line(BUILT[2]).said.strip() == "worker: a warning of a script, on stderr"


def test_a_failure_names_the_provisioner_the_error_and_what_the_script_said_last() -> None:
    assert failure([parse_packer_line(text) for text in FAILED]) == (
        "running bake.sh: Script exited with non-zero exit status: 3. Allowed exit codes are: [0] | ctr: no such file"
    )


def test_what_a_script_wrote_to_stderr_is_no_reason_of_its_own() -> None:
    assert failure([parse_packer_line(text) for text in FAILED[:4]]).startswith("running bake.sh: ==> worker: ctr")
    early = [FAILED[2], *FAILED[:2], *FAILED[3:]]
    assert "ctr: no such file" not in failure([parse_packer_line(text) for text in early]), "it was in another step"


SAID = [
    ("Prevalidating AMI Name: eks-bundler", ""),
    ("Creating temporary keypair: bundle-bake-sha256:69a0", ""),
    ("Launching a source AWS instance...", "launching the instance"),
    ("Adding tags to source instance", ""),
    ("Waiting for instance (i-678b84809ef163650) to become ready...", ""),
    ("Using ssh communicator to connect: 127.81.240.4", ""),
    ("Waiting for SSH to become available...", "waiting for SSH"),
    ("Provisioning with shell script: /tmp/packer-shell3164533151", "running a script"),
    ("Provisioning with shell script: scripts/setup.sh", "running setup.sh"),
    ("Provisioning with Ansible...", "provisioning with Ansible"),
    ("Uploading\\n/home/me/.cache/bakes/69a0/payload/ => /var/tmp/bundle", "uploading payload"),
    ("Downloading /var/tmp/bundle-facts => /home/me/.cache/bakes/69a0/facts", "downloading bundle-facts"),
    ("Stopping the source instance...", "stopping the instance"),
    ("Waiting for the instance to stop...", ""),
    ("Creating AMI eks-bundler from instance i-678b84809ef163650", "creating the AMI"),
    ("Creating unencrypted AMI eks-bundler from instance i-678b84809ef163650", "creating the AMI"),
    ("Waiting for AMI to become ready...", "waiting for the AMI"),
    ("Copying/Encrypting AMI (ami-f0ad62797ef3dccda) to other regions...", "copying the AMI"),
    ("Creating AMI tags", ""),
    ("Terminating the source AWS instance...", "terminating the instance"),
    ("Deleting temporary keypair...", ""),
]


@pytest.mark.parametrize(("said", "told"), SAID)
def test_people_are_told_the_steps_that_matter_in_a_few_words(said: str, told: str) -> None:
    assert parse_packer_line(f"1600000000,,ui,say,==> bake: {said}").milestone == told


def test_a_long_name_is_cut() -> None:
    told = parse_packer_line(f"1600000000,,ui,say,==> bake: Uploading /tmp/{'x' * 200} => /y").milestone
    assert (len(told), told[-1]) == (70, "…")


def test_an_error_before_any_build_is_the_reason() -> None:
    line = parse_packer_line(r"1600000000,,ui,error,Error: \n\ntemplate: root:1:20: wrong number of args")
    assert failure([line]) == "Error: template: root:1:20: wrong number of args"


@pytest.mark.parametrize("text", ["", "no line of Packer's", "1,2", "x,y,z,1", ",,,"])
def test_any_other_text_is_kept_as_it_came(text: str) -> None:
    line = parse_packer_line(text)
    assert (line.kind, line.said) == ("raw", text)


def test_a_script_that_wrote_nothing_to_stderr_is_quoted_from_its_output() -> None:
    said = [text.replace("ui,error,==> ", "ui,message,    ") for text in FAILED]
    assert failure([parse_packer_line(text) for text in said]) == failure([parse_packer_line(text) for text in FAILED])


@given(st.lists(st.text(max_size=80), max_size=20))
def test_no_text_breaks_the_reading(texts: list[str]) -> None:
    lines = [parse_packer_line(text) for text in texts]
    built_amis(lines)
    failure(lines)
    assert all(isinstance(line.step + line.said + line.complaint, str) for line in lines)
    assert all(len(line.milestone) <= 70 and "\n" not in line.milestone for line in lines)


@pytest.mark.parametrize(
    ("text", "ami"),
    [
        ("1,,ui,message,    bake: AMI: ami-0123456789abcdef0", "ami-0123456789abcdef0"),
        ("1,,ui,say,==> bake: AMI: ami-01234567", "ami-01234567"),
        ("1,,ui,error,==> bake: AMI: ami-01234567", ""),
        ("1,,ui,message,    bake: made AMI: ami-01234567", ""),
        ("1,,ui,message,    bake: AMI: ami-01234567 and more", ""),
        ("1,bake,artifact,0,id,eu-west-1:ami-0123456789abcdef0", ""),
    ],
)
def test_the_ami_that_packer_begins_is_named(text: str, ami: str) -> None:
    assert parse_packer_line(text).noted_ami == ami
