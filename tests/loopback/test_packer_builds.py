"""Runs of Packer: alone on this host, with files of their own, told in a few words; Packer is a script."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bundler.adapters import packer as adapter
from bundler.adapters import packer_builds
from bundler.adapters.packer import Packer, PackerAccess, PackerSettings
from bundler.adapters.packer_builds import PackerBuilds
from bundler.adapters.process import TimedOutError
from bundler.domain.bake import key_prefix
from bundler.domain.credentials import Secret
from bundler.domain.digest import Digest
from bundler.domain.events import Event, Noted, Waiting
from bundler.domain.packer_job import NotedAmi, PackerJob
from bundler.errors import DefinitionError, MissingToolError, NetworkError, PackerError

pytestmark = pytest.mark.loopback
RUN, OTHER = Digest.of(b"run"), Digest.of(b"other")
BUILT = """\
echo "1,,ui,say,==> bake: Launching a source AWS instance..."
echo "1,bake,artifact,0,builder-id,mitchellh.amazonebs"
echo "1,bake,artifact,0,id,eu-west-1:ami-0123456789abcdef0"
"""


def builds(folder: Path, *lines: str, emit: Callable[[Event], None] = lambda event: None) -> PackerBuilds:
    """Packer says a version, and runs these lines of shell when it builds; $HERE is `folder`."""
    program = folder / "packer-stub"
    script = "\n".join(lines)
    program.write_text(
        f'#!/bin/sh\nHERE={folder}\ncase "$1" in version) echo "Packer v1.6.6" ;; build)\n:\n{script}\n;; esac\n'
    )
    program.chmod(0o755)
    packer = Packer(PackerSettings(binary=program, work=folder / "work", environ={"PATH": os.environ["PATH"]}))
    return PackerBuilds(packer, work=folder / "work", region="eu-west-1", endpoint="http://ec2", emit=emit)


def job(folder: Path, run: Digest = RUN, **more: object) -> PackerJob:
    (folder / "template").mkdir(exist_ok=True)
    (folder / "template" / "template.json").write_text('{"builders": [{"type": "amazon-ebs", "tags": {"a": "b"}}]}')
    given = {"name": "workers amd64", "run": run, "folder": folder / "template", "file": "template.json"}
    return PackerJob(**{**given, "variables": {"x": "1"}, **more})  # type: ignore[arg-type]


def test_a_build_gives_the_ami_of_our_region_and_says_its_steps(tmp_path: Path) -> None:
    heard: list[Event] = []
    made = builds(tmp_path, BUILT, emit=heard.append)
    with made.alone(RUN):
        assert made.build(job(tmp_path)) == "ami-0123456789abcdef0"
    assert heard == [Noted(text="workers amd64: launching the instance")]


def test_a_packer_that_cannot_build_amis_is_told_before(tmp_path: Path) -> None:
    builds(tmp_path).need()
    (tmp_path / "packer-stub").unlink()
    with pytest.raises(MissingToolError, match="is not installed"):
        builds_without(tmp_path).need()


def builds_without(folder: Path) -> PackerBuilds:
    packer = Packer(PackerSettings(binary=folder / "packer-stub", work=folder / "work"))
    return PackerBuilds(packer, work=folder / "work", region="eu-west-1")


def test_our_template_is_told_where_ec2_is_and_its_files_are_in_the_folder_of_the_run(tmp_path: Path) -> None:
    made = builds(
        tmp_path, 'for word; do echo "$word" >>$HERE/words; cat "${word#-var-file=}" >>$HERE/seen; done', BUILT
    )
    with made.alone(RUN):
        made.build(job(tmp_path))
    assert json.dumps({"x": "1", "ec2_endpoint": "http://ec2"}) in (tmp_path / "seen").read_text()
    paths = [word for word in (tmp_path / "words").read_text().split() if word.endswith(".json")]
    assert len(paths) == 2
    assert all(str(tmp_path / "work" / "runs" / RUN.hex[:16]) in path for path in paths)
    assert [path.name for path in (tmp_path / "work" / "runs").iterdir()] == [f"{RUN.hex[:16]}.lock"]


@pytest.mark.parametrize(("depth", "is_ours"), [(1, True), (80, False)])
def test_packers_own_files_are_in_the_folder_of_the_run_where_a_sockets_path_fits(depth: int, is_ours: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="b-") as name:
        folder = Path(name) / ("x" * depth)
        folder.mkdir()
        made = builds(folder, 'echo "$TMPDIR" >$HERE/where', BUILT)
        with made.alone(RUN):
            made.build(job(folder))
        assert ((folder / "where").read_text().strip() == str(folder / "work/runs" / RUN.hex[:16])) is is_ours


def test_a_teams_template_is_built_in_a_copy_whose_builders_bear_our_tags(tmp_path: Path) -> None:
    made = builds(tmp_path, "cp template.json $HERE/seen; pwd >$HERE/where; ls -a >$HERE/listed", BUILT)
    wanted = job(tmp_path, tags={"bundle:bake": "sha256:1"})
    (wanted.folder / "script.sh").write_text("true")
    (wanted.folder / ".git").mkdir()
    before = (wanted.folder / "template.json").read_bytes()
    with made.alone(RUN):
        made.build(wanted)
    (builder,) = json.loads((tmp_path / "seen").read_text())["builders"]
    assert builder["tags"] == {"a": "b", "bundle:bake": "sha256:1"}
    for key in ("run_tags", "run_volume_tags", "snapshot_tags"):
        assert builder[key] == {"bundle:bake": "sha256:1"}
    assert "script.sh" in (tmp_path / "listed").read_text()
    assert ".git\n" not in (tmp_path / "listed").read_text()
    assert not Path((tmp_path / "where").read_text().strip()).exists()
    assert (wanted.folder / "template.json").read_bytes() == before


@pytest.mark.parametrize("key", ["", "ssh_keypair_name", "ssh_private_key_file", "ssh_password"])
def test_a_key_pair_that_packer_makes_for_a_teams_template_bears_the_name_of_the_run(tmp_path: Path, key: str) -> None:
    made = builds(tmp_path, "cp template.json $HERE/seen", BUILT)
    wanted = job(tmp_path, tags={"bundle:bake": str(RUN)})
    builder = {"type": "amazon-ebs", "temporary_key_pair_name": "theirs", **({key: "own"} if key else {})}
    other = {"type": "null"}
    (wanted.folder / "template.json").write_text(json.dumps({"builders": [builder, other]}))
    with made.alone(RUN):
        made.build(wanted)
    seen, untouched = json.loads((tmp_path / "seen").read_text())["builders"]
    assert seen["temporary_key_pair_name"] == ("theirs" if key else f"{key_prefix(RUN)}{{{{uuid}}}}")
    assert untouched == other


def test_a_security_group_of_ours_is_given_to_the_copy_alone(tmp_path: Path) -> None:
    made = builds(tmp_path, "cp template.json $HERE/seen", BUILT)
    wanted = job(tmp_path, tags={"a": "b"}, security_group="sg-ours")
    before = (wanted.folder / "template.json").read_bytes()
    network = made.network(wanted)
    assert network is not None
    assert network.subnet is None
    with made.alone(RUN):
        made.build(wanted)
    (builder,) = json.loads((tmp_path / "seen").read_text())["builders"]
    assert builder["security_group_id"] == "sg-ours"
    assert (wanted.folder / "template.json").read_bytes() == before


def test_of_a_template_in_hcl_people_are_told_what_they_must_look_for_themselves(tmp_path: Path) -> None:
    heard: list[Event] = []
    made, wanted = builds(tmp_path, BUILT, emit=heard.append), job(tmp_path, tags={"a": "b"}, file="t.pkr.hcl")
    (wanted.folder / "t.pkr.hcl").write_text("")
    assert made.network(wanted) is None
    with made.alone(RUN):
        made.build(wanted)
    warnings = [event.text for event in heard if isinstance(event, Noted) and event.warning]
    assert len(warnings) == 1
    assert "look for its instance, key pair and security group by hand" in warnings[0]


AMI = 'echo "1,,ui,message,    bake: AMI: ami-0123456789abcdef1"'
CREATING = 'echo "1,,ui,say,==> bake: Creating AMI theirs from instance i-1"'
SCRIPT = 'echo "1,,ui,say,==> bake: Provisioning with shell script: /tmp/packer-shell1"'


@pytest.mark.parametrize(
    ("lines", "content", "noted"),
    [
        ((CREATING, AMI), "", NotedAmi(id="ami-0123456789abcdef1", is_interim=False)),
        ((CREATING, AMI), "encrypt_boot = true", NotedAmi(id="ami-0123456789abcdef1", is_interim=True)),
        ((SCRIPT, AMI), "", None),
        ((CREATING,), "", None),
    ],
)
def test_the_ami_of_a_teams_template_is_noted_when_packer_names_it_and_a_script_names_none(
    tmp_path: Path, lines: tuple[str, ...], content: str, noted: NotedAmi | None
) -> None:
    made, wanted = builds(tmp_path, *lines, "kill -9 $$"), job(tmp_path, tags={"a": "b"}, file="t.pkr.hcl")
    (wanted.folder / "t.pkr.hcl").write_text(content)
    with made.alone(RUN), pytest.raises(PackerError):
        made.build(wanted)
    with builds(tmp_path).alone(RUN):
        assert builds(tmp_path).noted(RUN) == noted
        builds(tmp_path).forget(RUN)
    assert made.noted(RUN) is None
    assert made.noted(OTHER) is None


def test_of_our_own_template_nothing_is_noted_for_it_is_known_by_name(tmp_path: Path) -> None:
    made = builds(tmp_path, CREATING, AMI, BUILT)
    with made.alone(RUN):
        made.build(job(tmp_path))
        assert made.noted(RUN) is None


CANARY = "c4nary, of the team"
PEM = "-----BEGIN KEY-----\nc4nary-in-pem\n-----END KEY-----"
LEAKY = """\
echo "1,,ui,say,==> bake: Launching a source AWS instance..."
echo "1,bake,artifact,0,builder-id,mitchellh.amazonebs"
echo "1,bake,artifact,0,id,eu-west-1:ami-0123456789abcdef0"
echo "1,,ui,say,==> bake: Provisioning with shell script: c4nary%!(PACKER_COMMA) of the team"
echo "1,,ui,message,    bake: c4nary-in-pem"
echo "1,,ui,error,==> bake: c4nary%!(PACKER_COMMA) of the team\\n-----BEGIN KEY-----\\nc4nary-in-pem"
echo "1,bake,error,Script with c4nary%!(PACKER_COMMA) of the team and public-value ended"
"""
SECRETS = {"password": CANARY, "key": PEM, "short": "1", "other": "public-value", "region": "eu-west-1"}


def leaky(folder: Path, file: str, content: str, *, variables: dict[str, str] = SECRETS) -> PackerJob:
    """A team's template for a Packer that prints the values of its variables."""
    wanted = job(folder, tags={"a": "b"}, file=file, variables=variables)
    (wanted.folder / file).write_text(content)
    return wanted


SENSITIVE = '{"builders": [], "sensitive-variables": ["password", "key", "short", "nowhere"]}'


@pytest.mark.parametrize(
    ("file", "content", "is_told"), [("t.json", SENSITIVE, True), ("t.pkr.hcl", "", False), ("t.pkr.json", "{}", False)]
)
def test_secrets_of_a_teams_template_do_not_show(tmp_path: Path, file: str, content: str, is_told: bool) -> None:
    """Its sensitive variables; in HCL, which we do not read, every value that is not short."""
    heard: list[Event] = []
    made = builds(tmp_path, LEAKY, "exit 1", emit=heard.append)
    with made.alone(RUN), pytest.raises(PackerError) as caught:
        made.build(leaky(tmp_path, file, content))
    said = f"{caught.value!r} {caught.value} {heard}"
    assert "c4nary" not in said
    assert "ended" in caught.value.cause
    assert ("public-value" in said) is is_told
    assert "launching the instance" in said


@pytest.mark.parametrize("file", ["t.json", "t.pkr.hcl"])
def test_the_ami_is_read_though_its_region_is_a_value_that_is_hidden(tmp_path: Path, file: str) -> None:
    made = builds(tmp_path, LEAKY)
    content = '{"builders": [], "sensitive-variables": ["region", "short"]}'
    with made.alone(RUN):
        assert made.build(leaky(tmp_path, file, content)) == "ami-0123456789abcdef0"


def test_what_packer_refuses_and_where_its_time_ends_shows_no_secret_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = builds(tmp_path, LEAKY, f"echo '{CANARY}' >&2", "sleep 30")
    wanted = leaky(tmp_path, "t.json", SENSITIVE)
    monkeypatch.setattr(adapter, "LIMIT_S", 1.0)
    with made.alone(RUN), pytest.raises(TimedOutError, match=r"did not end within 1 s") as timed_out:
        made.build(wanted)
    program = tmp_path / "packer-stub"
    program.write_text(program.read_text().replace("build)", f"validate) echo '{CANARY}' >&2; exit 1 ;; build)"))
    with made.alone(RUN), pytest.raises(DefinitionError, match=r"refuses it: \*\*\*") as refused:
        made.build(wanted)
    assert "c4nary" not in f"{timed_out.value} {timed_out.value.__cause__} {refused.value}"


def test_a_default_that_the_template_calls_sensitive_is_hidden_too(tmp_path: Path) -> None:
    made = builds(tmp_path, LEAKY, "exit 1")
    content = json.dumps({"builders": [], "variables": SECRETS, "sensitive-variables": ["password", "key"]})
    with made.alone(RUN), pytest.raises(PackerError) as caught:
        made.build(leaky(tmp_path, "t.json", content, variables={}))
    assert "c4nary" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[]", '{"builders": 1}', '{"builders": ["x"]}'])
def test_what_is_no_template_is_told(tmp_path: Path, content: str) -> None:
    made, wanted = builds(tmp_path, BUILT), job(tmp_path, tags={"a": "b"})
    (wanted.folder / "template.json").write_text(content)
    with made.alone(RUN), pytest.raises(DefinitionError, match="is no Packer template") as caught:
        made.build(wanted)
    assert caught.value.subject == str(wanted.folder / "template.json"), "and not the copy, which is gone"


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    made = builds(tmp_path, BUILT)
    with made.alone(RUN), pytest.raises(DefinitionError, match="cannot be copied"):
        made.build(replace(job(tmp_path, tags={}), folder=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("lines", "regions"), [("true", "none"), (BUILT.replace("eu-west-1", "us-east-1"), "us-east-1")]
)
def test_an_ami_of_another_region_or_none_is_told(tmp_path: Path, lines: str, regions: str) -> None:
    made = builds(tmp_path, lines)
    with made.alone(RUN), pytest.raises(PackerError, match=f"made no AMI in eu-west-1 .Regions: {regions}.") as caught:
        made.build(job(tmp_path))
    assert "eu-west-1" in caught.value.hint
    assert "there still" in caught.value.safe


def test_in_a_long_silence_people_are_told_what_it_is_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packer_builds, "_TELL_S", 1.5)
    heard: list[Event] = []
    made = builds(tmp_path, BUILT, "sleep 3.5", emit=heard.append)
    with made.alone(RUN):
        made.build(job(tmp_path))
    waits = [event for event in heard if isinstance(event, Waiting)]
    assert 1 <= len(waits) <= 2
    assert (waits[0].subject, waits[0].state) == ("workers amd64", "launching the instance")
    assert waits[0].elapsed_s >= 1.5


def test_each_run_of_packer_gets_the_credentials_of_its_time_and_none_of_them_shows(tmp_path: Path) -> None:
    """Those of a session end, and others take their place while images are fetched or another AMI is baked."""
    keys = iter(f"c4nary-key-{number}" for number in range(100))

    def access() -> PackerAccess:
        key = next(keys)
        return PackerAccess(environ={"AWS_SECRET_ACCESS_KEY": key}, secrets=(Secret(key),))

    made = builds(tmp_path, 'echo "$AWS_SECRET_ACCESS_KEY" >>$HERE/keys; echo "$AWS_SECRET_ACCESS_KEY" >&2', "exit 1")
    settings = PackerSettings(
        binary=tmp_path / "packer-stub", work=tmp_path / "work", environ=os.environ, access=access
    )
    made.packer = Packer(settings)
    for _ in range(2):
        with made.alone(RUN), pytest.raises(PackerError) as caught:
            made.build(job(tmp_path))
        assert "c4nary" not in str(caught.value)
    first, second = (tmp_path / "keys").read_text().split()
    assert first != second


def test_a_run_is_said_to_be_alive_while_packer_works_and_no_bake_fails_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packer_builds, "_FIRST_BEAT_S", 0.5)
    monkeypatch.setattr(packer_builds, "_BEAT_S", 1.5)
    beats: list[Digest] = []

    def beat(run: Digest) -> None:
        beats.append(run)
        raise NetworkError("ec2", "is away")

    made = builds(tmp_path, "sleep 3.5", BUILT)
    made.beat = beat
    with made.alone(RUN):
        assert made.build(job(tmp_path)) == "ami-0123456789abcdef0"
    assert beats == [RUN] * len(beats)
    assert 2 <= len(beats) <= 3


def test_a_packer_that_is_killed_is_told_so(tmp_path: Path) -> None:
    made = builds(tmp_path, "kill -9 $$")
    with made.alone(RUN), pytest.raises(PackerError, match="packer was killed by signal 9"):
        made.build(job(tmp_path))


@pytest.mark.parametrize("tags", [None, {"a": "b"}])
def test_a_build_that_fails_is_named_as_people_know_it(tmp_path: Path, tags: dict[str, str] | None) -> None:
    made, wanted = builds(tmp_path, "exit 1"), job(tmp_path, tags=tags)
    with made.alone(RUN), pytest.raises(PackerError) as caught:
        made.build(wanted)
    assert caught.value.subject == ("AMI workers amd64" if tags is None else str(wanted.folder / "template.json"))


def test_a_run_is_held_by_one_at_a_time_and_others_do_not_wait(tmp_path: Path) -> None:
    heard: list[Event] = []
    first, second = builds(tmp_path), builds(tmp_path, emit=heard.append)
    entered = threading.Event()

    def wait() -> None:
        with second.alone(RUN):
            entered.set()

    thread = threading.Thread(target=wait)
    with first.alone(RUN):
        with second.alone(OTHER):
            thread.start()
        assert not entered.wait(0.3)
    thread.join()
    assert entered.is_set()
    assert [event.text for event in heard if isinstance(event, Noted)] == [
        "another build, or what a killed one left, works on the same bake: waiting for its end"
    ]


def test_a_run_holds_the_lock_of_its_own_bake_alone(tmp_path: Path) -> None:
    """Else a Packer that outlives us would hold up every other bake of that build."""
    made = builds(tmp_path, "ls -l /proc/self/fd >$HERE/handles", BUILT)
    with made.alone(RUN), made.alone(OTHER):
        made.build(job(tmp_path))
    handles = (tmp_path / "handles").read_text()
    assert f"{RUN.hex[:16]}.lock" in handles
    assert f"{OTHER.hex[:16]}.lock" not in handles


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.loopback.test_packer_builds import RUN, builds, job
folder = Path(sys.argv[1])
made = builds(folder, "touch $HERE/runs", "trap '' TERM PIPE", "sleep 3")
with made.alone(RUN):
    made.build(job(folder))
"""


def test_what_we_leave_when_we_are_killed_is_waited_for_and_its_files_are_removed(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), str(root)])
    try:
        while not (tmp_path / "runs").exists():
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = tmp_path / "work" / "runs" / RUN.hex[:16]
    assert list(left.glob("*.pkrvars.json")), "nobody was there to remove it"
    began, heard = time.monotonic(), list[Event]()
    with builds(tmp_path, emit=heard.append).alone(RUN):
        assert not left.exists()
    assert time.monotonic() - began > 1
    assert len(heard) == 1
