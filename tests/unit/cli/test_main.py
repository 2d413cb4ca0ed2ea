"""The root command: every error ends as text and an exit code, and help costs nothing."""

from __future__ import annotations

import errno
import inspect
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from bundler import errors
from bundler.cli.main import COMMANDS, EXIT_CODES, SECTIONS, cli, main, name_variables
from bundler.errors import BundleError, DigestError, FindingsError, NetworkError, keeping

HEAVY = {
    "boto3",
    "botocore",
    "cryptography",
    "docker",
    "moto",
    "oras",
    "pydantic",
    "requests",
    "rich",
    "urllib3",
    "yaml",
}
CODES = {
    "BundleError": 1,
    "UsageError": 2,
    "DefinitionError": 2,
    "NotFoundUpstreamError": 2,
    "LockChangedError": 2,
    "ClosureError": 2,
    "RefusedError": 3,
    "FormatError": 3,
    "DigestError": 3,
    "SignatureError": 3,
    "UntrustedError": 3,
    "LimitError": 3,
    "PolicyError": 3,
    "AccessError": 4,
    "NetworkError": 5,
    "TransientError": 5,
    "MissingBlobError": 5,
    "LocalResourceError": 6,
    "UnreadableError": 6,
    "MissingToolError": 6,
    "PackerError": 6,
    "ProgramError": 6,
    "ConflictError": 7,
    "RejectedError": 7,
    "LockedError": 7,
    "StaleStateError": 7,
    "LockLostError": 7,
    "MissingRepositoryError": 7,
    "ImmutableTagError": 7,
    "AbsentContentError": 7,
    "TargetError": 8,
    "PlanHasChangesError": 10,
    "InterruptedByUserError": 130,
    "StoppedError": 130,
}
CLASSES: dict[str, type[BundleError]] = {
    name: kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, BundleError) and kind is not FindingsError
}


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[BaseException], int]]:
    """Runs `bundle` with a command that raises; gives the exit code."""
    kept = signal.getsignal(signal.SIGTERM)

    def run(error: BaseException) -> int:
        def raising(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(cli, "main", raising)
        with pytest.raises(SystemExit) as ended:
            main([])
        return int(str(ended.value.code))

    yield run
    signal.signal(signal.SIGTERM, kept)


def bundle(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "COLUMNS": "80", **environment}
    argv = [sys.executable, "-m", "bundler", *arguments]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_exit_code_of_every_class_is_written_down() -> None:
    assert {name: kind.exit_code for name, kind in CLASSES.items()} == CODES
    assert {code for code, _ in EXIT_CODES} == {0, 141, *CODES.values()}


@pytest.mark.parametrize("name", CLASSES)
def test_an_error_ends_with_its_code_and_says_object_cause_what_is_safe_and_the_next_step(
    failing: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    kind = CLASSES[name]
    assert failing(kind("the object", "is wrong", hint="Do this.")) == CODES[name]
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines[0] == f"{kind.title}: the object"
    assert lines[1] == "  cause: is wrong"
    assert lines[2] == f"  safe:  {kind.safe}"
    assert kind.safe
    assert lines[-1] == "  next:  Do this."
    assert "Traceback" not in printed.err


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_of_errors_has_a_next_step_of_its_own(name: str) -> None:
    assert CLASSES[name]("the object", "is wrong").hint


def test_a_workflow_says_what_is_safe_and_whoever_said_so_before_is_left_alone() -> None:
    def told(error: BundleError) -> str:
        with pytest.raises(BundleError) as caught, keeping("Outer."), keeping("Inner."):
            raise error
        return caught.value.safe

    assert told(NetworkError("x", "y")) == "Inner."
    assert told(NetworkError("x", "y", safe="Nothing was sent.")) == "Nothing was sent."
    assert told(DigestError("x", "y")) == "Nothing of it was used. Inner."


def test_findings_end_with_the_code_of_the_worst(failing: Callable[[BaseException], int]) -> None:
    assert failing(FindingsError("site", "two", exit_code=4)) == 4


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c_ends_with_130_and_says_that_work_is_kept(
    failing: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    assert failing(error) == 130
    assert "Finished work is kept." in capsys.readouterr().err


def test_a_full_disk_nobody_expected_is_a_local_error_and_no_defect(
    failing: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(OSError(errno.ENOSPC, "No space left on device", "/var/x")) == 6
    assert capsys.readouterr().err.startswith("Local error: /var/x\n")


def test_a_result_that_cannot_be_written_is_a_local_error() -> None:
    with Path("/dev/full").open("w") as full:
        argv = [sys.executable, "-m", "bundler", "schema", "lock"]
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 6
    assert done.stderr.startswith("Local error: standard output\n  cause: No space left on device")


@pytest.mark.parametrize("reader", ["a full disk", "nobody"])
def test_an_error_that_nobody_hears_ends_with_its_code_all_the_same(tmp_path: Path, reader: str) -> None:
    argv = [sys.executable, "-m", "bundler.cli.main", "verify", str(tmp_path / "absent.tar")]
    if reader == "nobody":
        end, stderr = os.pipe()
        os.close(end)
    else:
        stderr = os.open("/dev/full", os.O_WRONLY)
    try:
        done = subprocess.run(argv, stderr=stderr, stdout=subprocess.PIPE, timeout=60, check=False)
    finally:
        os.close(stderr)
    assert (done.returncode, done.stdout) == (2, b"")


def test_sigterm_ends_with_143() -> None:
    program = (
        "import os, signal, threading\n"
        "from bundler.cli import main as m\n"
        "m.cli.main = lambda **_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "m.main([])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 143
    assert "cause: terminated" in done.stderr


def test_what_libraries_warn_of_is_not_shown_to_who_runs_bundle(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warned(**_: object) -> int:
        warnings.warn("SOCKS support requires the installation of optional dependencies", UserWarning, stacklevel=1)
        return 0

    monkeypatch.setattr(cli, "main", warned)
    with pytest.raises(SystemExit, match="0"):
        main([])
    assert capsys.readouterr().err == ""


def test_a_reader_who_goes_away_is_no_error() -> None:
    """As in `bundle schema lock | head -1`."""
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, "-m", "bundler", "schema", "lock"]
    done = subprocess.run(argv, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("frobnicate",), "No such command 'frobnicate'"),
        (("install",), "Missing argument 'ARCHIVE'"),
        (("install", "x.tar"), "Missing option '--site'"),
        (("build", "--jobs", "0"), "0 is not in the range"),
        (("build", "--unknown"), "No such option"),
        (("inspect", "x.tar", "-o", "xml"), "'xml' is not one of 'text', 'json', 'yaml'"),
        (("install", "x.tar", "--site", "s", "--timeout", "soon"), "is not a time"),
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: tuple[str, ...], said: str) -> None:
    done = bundle(*arguments)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert lines[0].startswith("Usage error: bundle")
    assert said in " ".join(done.stderr.split())
    assert lines[-2] == "  safe:  Nothing was written."
    assert lines[-1].startswith("  next:  See what it takes: bundle ")
    assert max(map(len, lines)) <= 80
    assert done.stdout == ""


def test_bundle_alone_shows_what_there_is() -> None:
    done = bundle()
    assert done.returncode == 2
    assert "Connected side:" in done.stderr


def test_help_imports_nothing_heavy() -> None:
    argv = [sys.executable, "-X", "importtime", "-m", "bundler", "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "click" in imported
    assert not imported & HEAVY


def test_help_names_every_command_once_with_the_words_of_the_command() -> None:
    listed = [name for _, names in SECTIONS for name in names]
    assert sorted(listed) == sorted(COMMANDS)
    for name, (_, words) in COMMANDS.items():
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert command.help is not None
        assert words.rstrip(".").split()[:3] == command.help.split()[:3]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (("bundle", "b"), "plain,build"),
        (("bundle", "trust", "a"), "plain,accept"),
        (("bundle", "nodes", "u"), "plain,user-data"),
        (("bundle", "nodes", "user-data", "--g"), "plain,--group"),
        (("bundle", "install", "--br"), "plain,--break-lock"),
        (("bundle", "schema", "d"), "plain,definition"),
        (("bundle", "build", "--progress", "p"), "plain,plain"),
    ],
)
def test_the_shell_completes_commands_options_and_values(typed: tuple[str, ...], offered: str) -> None:
    done = bundle(COMP_WORDS=" ".join(typed), COMP_CWORD=str(len(typed) - 1), _BUNDLE_COMPLETE="bash_complete")
    assert done.stdout.splitlines() == [offered]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_what_each_shell_sources(shell: str) -> None:
    done = bundle(_BUNDLE_COMPLETE=f"{shell}_source")
    assert done.returncode == 0, done.stderr
    assert f"_BUNDLE_COMPLETE={shell}_complete" in done.stdout


def test_every_option_can_be_given_by_a_variable_of_its_own_name() -> None:
    names: set[str] = set()
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        name_variables(command, f"BUNDLE_{name.upper()}")  # a second time changes nothing
        inner = command.commands.values() if isinstance(command, click.Group) else [command]
        for option in [param for one in inner for param in one.params if isinstance(param, click.Option)]:
            assert isinstance(option.envvar, list)
            assert option.envvar.count(option.envvar[-1]) == 1
            names.add(option.envvar[-1])
    assert {
        "BUNDLE_BUILD_OUT",
        "BUNDLE_INSTALL_SITE",
        "BUNDLE_INSTALL_TRUST",
        "BUNDLE_TRUST_INIT_OUT",
        "BUNDLE_LAB_UP_KUBERNETES",
        "BUNDLE_NODES_USER_DATA_GROUP",
    } <= names
    assert all(re.fullmatch(r"[A-Z_]+", name) for name in names)


def test_an_option_is_taken_from_its_variable(tmp_path: Path) -> None:
    out = tmp_path / "from-variable.yaml"
    done = bundle("init", "-k", "1.35", BUNDLE_INIT_REGION="eu-central-1", BUNDLE_INIT_OUT=str(out))
    assert done.returncode == 0, done.stderr
    assert out.is_file()


def test_ca_file_is_also_taken_from_the_variable_of_openssl(tmp_path: Path) -> None:
    done = bundle("lock", str(tmp_path / "x.yaml"), SSL_CERT_FILE=str(tmp_path / "absent.pem"))
    assert done.returncode == 2
    assert "absent.pem' does not exist" in " ".join(done.stderr.split())
