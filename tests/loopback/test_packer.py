"""The real Packer (Debian's 1.6.6) through our adapter; builders that need no AWS."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bundler.adapters import packer as adapter
from bundler.adapters.packer import Packer, PackerSettings
from bundler.domain.credentials import Secret
from bundler.domain.packer_log import PackerLine
from bundler.errors import DefinitionError, MissingToolError, PackerError
from tests.needs import need_packer

pytestmark = pytest.mark.loopback
CANARY = "c4nary-of-packer"


@pytest.fixture(scope="session")
def program() -> Path:
    return need_packer()


@pytest.fixture
def packer(program: Path, tmp_path: Path) -> Packer:
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    return Packer(PackerSettings(binary=program, work=tmp_path / "packer", environ=environ, secrets=(Secret(CANARY),)))


def template(folder: Path, *inline: str, **more: object) -> Path:
    """A template whose provisioner runs shell lines on this machine."""
    path = folder / "template.json"
    document = {
        "variables": {"greeting": "", "secret": ""},
        "sensitive-variables": ["secret"],
        "builders": [{"type": "null", "name": "worker", "communicator": "none"}],
        "provisioners": [{"type": "shell-local", "inline": list(inline)}],
        **more,
    }
    path.write_text(json.dumps(document))
    return path


def test_the_version_is_read(packer: Packer) -> None:
    assert packer.version() >= (1, 6, 0)


def test_a_program_that_is_not_there_or_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match="is not installed"):
        Packer(PackerSettings(binary=tmp_path / "packer", work=tmp_path)).version()
    other = tmp_path / "packer"
    other.write_text("#!/bin/sh\necho 'Packer v1.5.6'\n")
    other.chmod(0o755)
    with pytest.raises(MissingToolError, match=r"1\.6 is the oldest"):
        Packer(PackerSettings(binary=other, work=tmp_path / "work", environ=dict(os.environ))).version()


def test_a_good_template_is_valid_and_a_bad_one_is_refused_with_what_packer_says(
    packer: Packer, tmp_path: Path
) -> None:
    good = template(tmp_path, "true")
    packer.validate(good, {"greeting": "hello"})
    bad = template(tmp_path, "true", builders=[{"type": "null", "communicator": "none", "colour": "red"}])
    with pytest.raises(DefinitionError, match="colour") as caught:
        packer.validate(bad, {})
    assert caught.value.subject == str(bad)


def test_a_build_is_heard_line_by_line_and_gets_its_variables_in_a_file(packer: Packer, tmp_path: Path) -> None:
    heard: list[PackerLine] = []
    odd = 'it\'s, "odd" $HOME `id` %!(PACKER_COMMA) \\n ü'
    lines = ("printf '%s' \"$GREETING\" > greeting", "ps -eo args > processes || true", "echo done with it")
    path = template(
        tmp_path,
        provisioners=[
            {
                "type": "shell-local",
                "environment_vars": ["GREETING={{user `greeting`}}"],
                "inline": [f"cd {tmp_path}", *lines],
            }
        ],
    )
    assert packer.build(path, {"greeting": odd, "secret": CANARY}, hear=heard.append) == {}
    assert (tmp_path / "greeting").read_text() == odd
    assert any("done with it" in line.said for line in heard)
    commands = [text for text in (tmp_path / "processes").read_text().splitlines() if "packer build" in text]
    assert commands
    assert all("-on-error=cleanup" in text and "-var-file=" in text for text in commands)
    assert CANARY not in (tmp_path / "processes").read_text()
    assert list((tmp_path / "packer").glob("*.pkrvars.json")) == []


def test_a_value_that_packer_would_evaluate_is_refused(packer: Packer, tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="variable greeting"):
        packer.build(template(tmp_path, "true"), {"greeting": "{{env `HOME`}}"}, hear=lambda line: None)


def test_every_command_line_is_made_by_python_packers_class(
    packer: Packer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its methods nothing runs: they hand the words to our executor."""
    seen: list[list[str]] = []
    original = adapter.run

    def watching(argv: list[str], **options: object) -> object:
        seen.append(argv)
        frames, frame = [], sys._getframe(1)
        while frame is not None:
            frames.append(frame.f_code.co_filename)
            frame = frame.f_back  # type: ignore[assignment]
        assert any(name.endswith("site-packages/packer.py") or argv[1:] == ["version"] for name in frames)
        return original(argv, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(adapter, "run", watching)
    path = template(tmp_path, "true")
    packer.validate(path, {})
    packer.build(path, {}, hear=lambda line: None)
    assert [argv[1] for argv in seen] == ["validate", "build"]
    assert "-machine-readable" in seen[1]
    assert not any(word.startswith("-parallel") for word in seen[1])


def test_a_provisioner_that_fails_is_named_and_secrets_do_not_show(packer: Packer, tmp_path: Path) -> None:
    heard: list[PackerLine] = []
    path = template(
        tmp_path,
        provisioners=[
            {
                "type": "shell-local",
                "environment_vars": ["SECRET={{user `secret`}}"],
                "inline": ['echo "the secret is $SECRET"', "exit 3"],
            }
        ],
    )
    with pytest.raises(PackerError) as caught:
        packer.build(path, {"secret": CANARY}, hear=heard.append)
    assert "non-zero exit status: 3" in caught.value.cause
    assert any("the secret is" in line.said for line in heard), "it was printed"
    assert CANARY not in "".join(line.said for line in heard) + str(caught.value)


CANCELLED = """
import os, sys
from pathlib import Path
from bundler.adapters.packer import Packer, PackerSettings
packer = Packer(PackerSettings(binary=Path(sys.argv[1]), work=Path(sys.argv[2]), environ=dict(os.environ)))
packer.build(Path(sys.argv[3]), {}, hear=lambda line: print(line.said, flush=True))
"""


def test_ctrl_c_asks_packer_to_stop_and_waits_for_it(program: Path, tmp_path: Path) -> None:
    path = template(tmp_path, "echo it runs", f"echo $$ > {tmp_path}/pid", "sleep 60")
    argv = [sys.executable, "-c", CANCELLED, str(program), str(tmp_path / "work"), str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "it runs" not in process.stdout.readline():
            assert process.poll() is None
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in stderr
    assert time.monotonic() - started < 30
    assert list((tmp_path / "work").glob("*.pkrvars.json")) == []
    left = subprocess.run(["pgrep", "-f", str(path)], capture_output=True, text=True, check=False).stdout
    assert left == ""


def stub(folder: Path, version: str, *lines: str) -> Packer:
    """A program that says what a Packer of another version says."""
    program = folder / "stub-packer"
    answers = "\n".join(lines)
    program.write_text(f'#!/bin/sh\n[ "$1" = version ] && echo "Packer v{version}"\n{answers}\nexit 0\n')
    program.chmod(0o755)
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    return Packer(PackerSettings(binary=program, work=folder / "work", environ=environ))


@pytest.mark.parametrize("version", ["1.6.6", "1.7.10", "1.8.7", "1.9.5"])
def test_before_1_10_packer_brings_the_amazon_builder_and_no_plugin_is_asked_for(version: str, tmp_path: Path) -> None:
    packer = stub(tmp_path, version, '[ "$1" = plugins ] && exit 1')
    assert ".".join(map(str, packer.need_amazon())) == version


def test_from_1_10_on_the_amazon_plugin_must_be_installed(tmp_path: Path) -> None:
    listing = (
        "printf '%s\\n' $PACKER_PLUGIN_PATH/github.com/hashicorp/amazon/packer-plugin-amazon_v1.8.2_x5.0_linux_arm64"
    )
    packer = stub(tmp_path, "1.15.1", f'[ "$1 $2" = "plugins installed" ] && {listing}')
    assert packer.need_amazon() == (1, 15, 1)


@pytest.mark.parametrize("answer", ["true", "exit 1"])
def test_an_amazon_plugin_that_is_not_installed_is_asked_for_with_a_way_round(answer: str, tmp_path: Path) -> None:
    packer = stub(tmp_path, "1.10.0", f'[ "$1" = plugins ] && {answer}')
    with pytest.raises(MissingToolError, match=r"Packer 1\.10\.0 needs") as caught:
        packer.need_amazon()
    assert "packer plugins install github.com/hashicorp/amazon" in caught.value.hint
    assert "--path" in caught.value.hint
    assert "ami: {id: ami-" in caught.value.hint


def test_without_packer_the_error_says_how_to_get_it_and_the_way_round(tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match="is not installed") as caught:
        Packer(PackerSettings(binary=tmp_path / "packer", work=tmp_path)).need_amazon()
    assert "Install Packer" in caught.value.hint
    assert "ami: {id: ami-" in caught.value.hint


def test_plugins_are_looked_for_where_the_user_has_them(tmp_path: Path) -> None:
    def found(**environ: str) -> str:
        settings = PackerSettings(binary=tmp_path, work=tmp_path / "w", environ={"HOME": str(tmp_path), **environ})
        return Packer(settings)._environment()["PACKER_PLUGIN_PATH"]

    assert found() == f"{tmp_path}/.config/packer/plugins"
    assert found(XDG_CONFIG_HOME="/xdg") == "/xdg/packer/plugins"
    assert found(PACKER_PLUGIN_PATH="/plugins") == "/plugins"
    assert found(PACKER_CONFIG_DIR="/packer") == "/packer/.packer.d/plugins"
    (tmp_path / ".packer.d").mkdir()
    assert found() == f"{tmp_path}/.packer.d/plugins"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("key.json", '{"builders": [{"type": "amazon-ebs", "metadata_options": {}}]}', "metadata_options, which"),
        ("version.json", '{"min_packer_version": "9.0.0", "builders": [{"type": "null"}]}', r"Packer 9\.0\.0"),
        ("block.pkr.hcl", "packer {\n required_plugins {\n }\n}\n", "required_plugins, which"),
        ("version.pkr.hcl", 'packer { required_version = ">= 9.0.0" }\n', r"Packer >= 9\.0\.0"),
    ],
)
def test_a_teams_template_for_a_newer_packer_is_told_what_it_needs(
    packer: Packer, tmp_path: Path, name: str, content: str, said: str
) -> None:
    if name.startswith(("key", "block")) and packer.version() >= (1, 7, 0):
        pytest.skip("this Packer knows the key")
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DefinitionError, match=said) as caught:
        packer.validate(path, {})
    assert "needs a newer Packer than" in str(caught.value)
