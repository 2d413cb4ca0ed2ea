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


def test_a_failure_names_the_provisioner_and_the_error() -> None:
    assert failure([parse_packer_line(text) for text in FAILED]) == (
        "Provisioning with shell script: /tmp/bake.sh: "
        "Script exited with non-zero exit status: 3. Allowed exit codes are: [0]"
    )


def test_what_a_script_wrote_to_stderr_is_not_the_reason_where_packer_gives_one() -> None:
    assert "ctr: no such file" not in failure([parse_packer_line(text) for text in FAILED])


def test_an_error_before_any_build_is_the_reason() -> None:
    line = parse_packer_line(r"1600000000,,ui,error,Error: \n\ntemplate: root:1:20: wrong number of args")
    assert failure([line]) == "Error: template: root:1:20: wrong number of args"


@pytest.mark.parametrize("text", ["", "no line of Packer's", "1,2", "x,y,z,1", ",,,"])
def test_any_other_text_is_kept_as_it_came(text: str) -> None:
    line = parse_packer_line(text)
    assert (line.kind, line.said) == ("raw", text)


@given(st.lists(st.text(max_size=80), max_size=20))
def test_no_text_breaks_the_reading(texts: list[str]) -> None:
    lines = [parse_packer_line(text) for text in texts]
    built_amis(lines)
    failure(lines)
    assert all(isinstance(line.step + line.said, str) for line in lines)
