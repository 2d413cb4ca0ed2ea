"""Packer: python-packer builds every command line, our process door runs it.

python-packer's own executor (sh 1.11) never runs: it loses output, crashes on Python 3.11 where a template is wrong,
and leaves instances behind on Ctrl-C. `CommandLines` puts in its place the three things that the class uses of it.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bundler.adapters.process import Completed, Ending, TimedOutError, run, visible_tail
from bundler.domain.credentials import Secret
from bundler.domain.packer_log import PackerLine, built_amis, failure, hide, parse_packer_line
from bundler.domain.packer_template import (
    AMAZON_PLUGIN,
    NO_PACKER,
    Version,
    gate,
    has_amazon_plugin,
    needs_plugin,
    newer_needed,
)
from bundler.errors import BundleError, DefinitionError, MissingToolError, PackerError
from bundler.transfer import check_stopped

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # sh 1.11, which it brings, is of 2015
    import packer

OLDEST = (1, 6)
LIMIT_S = 3 * 3600.0
CLEAN_UP_S = 900.0
"""How long Packer may take to remove instance, key pair and security group of a build that is called off."""
_VERSION = re.compile(r"Packer v(\d+)\.(\d+)\.(\d+)")
_SHORT_S = 120.0
_LONGEST_TMPDIR = 80
"""Packer and its plugins talk by sockets in there, whose paths end at 107 characters."""
_GET_PACKER = (
    "Install Packer 1.6 or newer (developer.hashicorp.com/packer/install; Debian 12: apt install packer), then run the"
    f" same command again. {NO_PACKER}"
)
_GET_PLUGIN = (
    f"Install it: packer plugins install {AMAZON_PLUGIN}; on a host without internet: packer plugins install --path"
    f" FILE {AMAZON_PLUGIN}. {NO_PACKER}"
)

Hear = Callable[[PackerLine], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackerAccess:
    """What Packer gets for one run: credentials of a session end, and others take their place.

    Attributes:
        environ: variables with credentials of AWS.
        secrets: those of them that must not show in anything it says.
    """

    environ: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[Secret, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PackerSettings:
    """Where Packer is and what it may see.

    Attributes:
        binary: the program.
        work: a folder of ours for its configuration and for files of variables (0700).
        environ: its whole environment, but for credentials of AWS.
        secrets: what must not show in anything it says: sensitive variables are printed in clear up to 1.15.0.
        access: asked for credentials whenever it is run.
    """

    binary: Path
    work: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[Secret, ...] = ()
    access: Callable[[], PackerAccess] = PackerAccess


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """How Packer runs a template.

    Attributes:
        folder: where it runs: relative paths in a template start there; None for here.
        keep_open: handles that it holds until it ends, whatever becomes of us.
        tick: told about once a second how many seconds it runs.
        subject: what people call the template, where that is not its path.
        secrets: what must not show in anything that is told of this run, beside Packer's own.
    """

    folder: Path | None = None
    keep_open: tuple[int, ...] = ()
    tick: Callable[[float], None] = lambda _: None
    subject: str = ""
    secrets: tuple[Secret, ...] = ()


class Packer:
    """One Packer program."""

    def __init__(self, settings: PackerSettings) -> None:
        self._settings = settings

    def within(self, folder: Path) -> Packer:
        """Return the same program with another folder for its files."""
        return Packer(replace(self._settings, work=folder))

    def version(self) -> Version:
        """Return its version.

        Raises:
            MissingToolError: it is older than 1.6, or no Packer.
        """
        with self._template_of_nothing() as template:
            said = self._command_lines(template, None, _deaf).packer.version().stdout
        match = _VERSION.match(said)
        if match is None:
            cause = f"is no Packer: it says {visible_tail(said.encode())!r}"
            raise MissingToolError(str(self._settings.binary), cause, hint=_GET_PACKER)
        found = int(match[1]), int(match[2]), int(match[3])
        if found[:2] < OLDEST:
            cause = f"is Packer {_spelled(found)}; 1.6 is the oldest that serves"
            raise MissingToolError(str(self._settings.binary), cause, hint=_GET_PACKER)
        return found

    def need_amazon(self) -> Version:
        """Return its version; it can build AMIs.

        Raises:
            MissingToolError: too old, no Packer, or without the amazon plugin that it needs from 1.10 on.
        """
        version = self.version()
        if needs_plugin(version):
            with self._template_of_nothing() as template:
                listed = self._command_lines(template, None, _deaf).packer.plugins.bake("installed")()
            if listed.exit_code or not has_amazon_plugin(listed.stdout):
                cause = f"is not installed, which Packer {_spelled(version)} needs to build AMIs"
                raise MissingToolError(f"Packer's plugin {AMAZON_PLUGIN}", cause, hint=_GET_PLUGIN)
        return version

    @contextmanager
    def gated(self, template: Path, variables: Mapping[str, str]) -> Iterator[Path]:
        """Give our template as this Packer takes it with these variables, in a file for as long as it is used."""
        has_key = bool(variables.get("kms_key_id"))
        gated = gate(json.loads(template.read_bytes()), self.version(), has_key=has_key)
        with self._file(gated, suffix=".json") as path:
            yield path

    def validate(self, template: Path, variables: Mapping[str, str], *, running: Running = Running()) -> None:
        """Check a template with its variables.

        Raises:
            DefinitionError: with what Packer says.
        """
        with self._variables(variables) as file:
            try:
                found = self._command_lines(template, file, _deaf, running).validate()
            except AttributeError as error:  # python-packer wants a `message` of whatever went wrong
                if isinstance(error.__context__, BundleError):
                    raise error.__context__ from None
                raise
        if not found.succeeded:
            raise self._refused(running.subject or str(template), found.why)

    def build(
        self, template: Path, variables: Mapping[str, str], *, hear: Hear, running: Running = Running()
    ) -> dict[str, str]:
        """Build a template; return Region -> AMI id.

        Called off (Ctrl-C, SIGTERM), Packer is asked to stop and waited for, so that nothing of the build is left.

        Raises:
            PackerError: with the step that failed and what Packer says of it.
        """
        with self._variables(variables) as file:
            lines = self._command_lines(template, file, hear, running)
            done: _Result = lines.build(parallel=False, machine_readable=True)
        if done.exit_code:
            raise PackerError(running.subject or str(template), done.why)
        return built_amis(done.lines)

    def _refused(self, template: str, why: str) -> DefinitionError:
        newer = newer_needed(why)
        if not newer:
            hint = "Correct the template or its variables."
            return DefinitionError(template, f"packer validate refuses it: {why}", hint=hint)
        cause = f"needs a newer Packer than {_spelled(self.version())}: {newer}"
        return DefinitionError(template, cause, hint=f"Take that out of the template, or: {_GET_PACKER}")

    def _command_lines(
        self, template: Path, variables: Path | None, hear: Hear, running: Running = Running()
    ) -> CommandLines:
        binary = self._settings.binary
        if not os.access(binary, os.X_OK):
            raise MissingToolError("packer", f"is not installed ({binary})", hint=_GET_PACKER)

        def execute(argv: list[str]) -> _Result:
            return self._execute(argv, hear, running)

        return CommandLines(template, binary=binary, execute=execute, variables=variables)

    def _execute(self, argv: list[str], hear: Hear, running: Running) -> _Result:
        lines: list[PackerLine] = []
        access = self._settings.access()
        hidden = (*access.secrets, *self._settings.secrets)

        def on_line(raw: bytes) -> None:
            said = hide(raw.decode("utf-8", "replace"), hidden)
            line = parse_packer_line(said).without(running.secrets)
            lines.append(line)
            hear(line)

        def tick(elapsed_s: float) -> None:
            check_stopped()
            running.tick(elapsed_s)

        building, secrets = "build" in argv, (*running.secrets, *hidden)
        try:
            done = run(
                argv,
                timeout_s=LIMIT_S if building else _SHORT_S,
                env={**self._environment(), **access.environ},
                cwd=running.folder,
                keep_open=running.keep_open,
                tick=tick,
                on_line=on_line,
                ending=Ending(grace_s=CLEAN_UP_S if building else 5.0, leader_only=True),
            )
        except TimedOutError as error:  # which repeats what it heard, secrets and all
            how, _, _ = error.cause.partition(": ")
            raise TimedOutError(error.subject, f"{how}: {failure(lines) or 'nobody knows at what'}") from None
        return _Result(
            stdout=hide(done.stdout.decode("utf-8", "replace"), secrets),
            lines=tuple(lines),
            exit_code=done.returncode,
            why=_why(done, lines, secrets) if done.returncode else "",
        )

    def _environment(self) -> dict[str, str]:
        work = self._settings.work
        own = {
            "CHECKPOINT_DISABLE": "1",  # else every run asks HashiCorp for news
            "PACKER_NO_COLOR": "1",
            "PACKER_CONFIG_DIR": str(work),
            "PACKER_CACHE_DIR": str(work / "packer_cache"),
            "PACKER_PLUGIN_PATH": _plugin_folder(self._settings.environ),  # else they would be looked for in `work`
        }
        if len(str(work)) <= _LONGEST_TMPDIR:
            own["TMPDIR"] = str(work)  # a Packer that is killed leaves its log, and what scripts printed in it
        return {**self._settings.environ, **own}

    @contextmanager
    def _variables(self, variables: Mapping[str, str]) -> Iterator[Path]:
        """A file of variables that only this user reads: nothing secret in argv, and any character in a value but `{{`.

        Packer renders values again and again, each time as a template; no escape survives that.
        """
        rendered = next((name for name, value in variables.items() if "{{" in value), None)
        if rendered is not None:
            raise DefinitionError(f"variable {rendered}", "holds `{{`, which Packer takes for an expression of its own")
        with self._file(dict(variables), suffix=".pkrvars.json") as path:
            yield path

    @contextmanager
    def _file(self, content: dict[str, Any], *, suffix: str) -> Iterator[Path]:
        self._settings.work.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=self._settings.work, suffix=suffix)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(content, file)
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    @contextmanager
    def _template_of_nothing(self) -> Iterator[Path]:
        """python-packer asks for a template even where none is needed."""
        with self._file({}, suffix=".json") as path:
            yield path


class CommandLines(packer.Packer):
    """python-packer's class with our executor, files of variables, and an end that cleans up."""

    def __init__(
        self, template: Path, *, binary: Path, execute: Callable[[list[str]], _Result], variables: Path | None
    ) -> None:
        super().__init__(str(template), exec_path=str(binary), var_file=None if variables is None else str(variables))
        self.packer = _CommandLine(execute, [str(binary)])

    def _append_base_arguments(self) -> None:
        super()._append_base_arguments()
        if self.packer_cmd.argv[1] == "build":
            self._add_opt("-on-error=cleanup")


class _CommandLine:
    """What python-packer uses of sh.Command: attributes are commands, bake adds words, a call runs."""

    def __init__(self, execute: Callable[[list[str]], _Result], argv: list[str]) -> None:
        self.argv = argv
        self._execute = execute

    def __getattr__(self, name: str) -> _CommandLine:
        if name.startswith("_"):
            raise AttributeError(name)
        return _CommandLine(self._execute, [*self.argv, name])

    def bake(self, *words: str, **options: Any) -> _CommandLine:
        """Return the command line with more words; options are sh's own and mean nothing here."""
        del options
        return _CommandLine(self._execute, [*self.argv, *words])

    def __call__(self) -> _Result:
        return self._execute(self.argv)


@dataclass(slots=True, kw_only=True)
class _Result:
    """A finished command; python-packer reads `exit_code` and `stdout`, and writes `succeeded` and `error`."""

    stdout: str
    lines: tuple[PackerLine, ...]
    exit_code: int
    why: str
    succeeded: bool = False
    error: str | None = None


def _why(done: Completed, lines: Sequence[PackerLine], secrets: Sequence[Secret]) -> str:
    known = failure(lines)
    said = known or visible_tail(hide((done.stderr or done.stdout).decode("utf-8", "replace"), secrets).encode())
    how = f"packer was killed by signal {-done.returncode}" if done.returncode < 0 else ""
    said = f"{how}: {said}" if how and said else said or how
    return said or f"packer ended with {done.returncode} and said nothing"


def _plugin_folder(environ: Mapping[str, str]) -> str:
    """Where the user's own Packer keeps plugins (packer-plugin-sdk, pathing/config_file_unix.go)."""
    if "PACKER_PLUGIN_PATH" in environ:
        return environ["PACKER_PLUGIN_PATH"]
    home = Path(environ.get("HOME", "/"))
    old = Path(environ.get("PACKER_CONFIG_DIR", home)) / ".packer.d"
    new = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "packer"
    folder = old if "PACKER_CONFIG_DIR" in environ or old.is_dir() else new
    return str(folder / "plugins")


def _spelled(version: Version) -> str:
    return ".".join(map(str, version))


def _deaf(line: PackerLine) -> None:
    del line
