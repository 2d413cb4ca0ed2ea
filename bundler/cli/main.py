"""`bundle`: the root command. Commands are imported when they run; every error ends here, as text and an exit code."""

from __future__ import annotations

import errno
import gc
import importlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from bundler import __version__
from bundler.errors import KEPT, BundleError, InterruptedByUserError, LocalResourceError, UsageError

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("bundler.cli.define:init", "Write a commented bundle.yaml from a preset."),
    "lock": ("bundler.cli.build:lock", "Pin every image, chart and tool by digest, every AMI by id."),
    "build": ("bundler.cli.build:build", "Build the one signed archive that crosses the gap."),
    "inspect": ("bundler.cli.inspect:inspect", "Show what an archive holds, without unpacking it."),
    "verify": ("bundler.cli.verify:verify", "Check signature and every byte of an archive."),
    "repair": ("bundler.cli.repair:repair", "Mend a damaged archive, or its parts, from another copy."),
    "diff": ("bundler.cli.diff:diff", "Compare two bundles by content; say how many bytes the second needs."),
    "trust": ("bundler.cli.trust:trust", "Make keys, and accept whose bundles a site believes."),
    "ship": ("bundler.cli.ship:ship", "Upload an archive to S3, resumable; write the transfer slip."),
    "push": ("bundler.cli.push:push", "Push an archive's images and charts to any OCI registry."),
    "serve": ("bundler.cli.serve:serve", "Serve an archive's images and charts as an OCI registry."),
    "install": ("bundler.cli.install:install", "Install an archive into a closed VPC."),
    "status": ("bundler.cli.status:status", "Show what runs at a site."),
    "receipt": ("bundler.cli.receipt:receipt", "Write down what a site holds, for build --against."),
    "nodes": ("bundler.cli.nodes:nodes", "Show what the nodes of a site are told."),
    "kubeconfig": ("bundler.cli.access:kubeconfig", "Write a kubeconfig that needs no AWS CLI."),
    "token": ("bundler.cli.access:token", "Print an EKS token (kubectl's exec plugin calls this)."),
    "schema": ("bundler.cli.define:schema", "Print the JSON Schema of definition, site or lock."),
    "lab": ("bundler.cli.lab:lab", "Run stand-ins of AWS, ECR and Kubernetes on this machine."),
}
SECTIONS = (
    ("Connected side", ("init", "lock", "build", "ship")),
    ("Closed side", ("install", "status", "receipt", "nodes", "kubeconfig", "token")),
    ("Both sides", ("trust", "inspect", "verify", "diff", "repair", "push", "serve")),
    ("Further", ("schema", "lab")),
)
EXIT_CODES = (
    (0, "done, or nothing to do"),
    (1, "a defect in this tool"),
    (2, "usage or definition; upstream has no such tag, image or platform"),
    (3, "refused: trust or integrity"),
    (4, "credentials or permission"),
    (5, "network or service: run it again"),
    (6, "local disk or memory; a program here is missing or fails"),
    (7, "locked, or a resource that is not ours or must not be made"),
    (8, "the target is not healthy in time"),
    (10, "--plan --exit-code: the plan shows changes"),
    (130, "interrupted, state is kept (143: terminated)"),
    (141, "the reader of our output went away"),
)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class _ReaderGoneError(Exception):
    """Nobody reads our output any more, as in `bundle schema lock | head -1`."""


class _LazyGroup(click.Group):
    """A group whose commands cost nothing until one of them runs."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # click would end with 1, which says that this tool has a defect
            raise _ReaderGoneError from error

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name][0].split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101 - the table above names commands only
        name_variables(command, f"BUNDLE_{name.upper()}")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for title, names in SECTIONS:
            with formatter.section(title):
                formatter.write_dl([(name, COMMANDS[name][1]) for name in names])
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES])


def name_variables(command: click.Command, prefix: str) -> None:
    """Give every option a variable of its own name: `bundle install --site` is BUNDLE_INSTALL_SITE."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            name_variables(inner, f"{prefix}_{name.upper().replace('-', '_')}")
    for option in command.params:
        if isinstance(option, click.Option):
            variable = f"{prefix}_{max(option.opts, key=len).lstrip('-').replace('-', '_').upper()}"
            known = [option.envvar] if isinstance(option.envvar, str) else list(option.envvar or ())
            option.envvar = [*(name for name in known if name != variable), variable]


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every option also has an environment variable: bundle build --out is BUNDLE_BUILD_OUT.\n\n"
    'Shell completion: eval "$(_BUNDLE_COMPLETE=bash_source bundle)", or zsh_source, fish_source.',
)
@click.version_option(__version__, prog_name="bundle")
def cli() -> None:
    """Build an air-gapped EKS bundle outside, install it inside a closed VPC.

    Outside: init, lock, build, ship. Inside: trust accept, install, status. What builds, installs.
    """


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process with the exit code that says what happened."""
    signal.signal(signal.SIGTERM, _terminated)
    _require_streams()
    gc.set_threshold(200_000, 20, 50)  # imports make much and throw nothing away: looking for garbage costs a tenth
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # to look for some reads what else is installed
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of libraries are for who develops; python -W shows them
    try:
        result = cli.main(
            prog_name="bundle",
            args=None if argv is None else list(argv),
            standalone_mode=False,
        )
        code = result if isinstance(result, int) else 0
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        code = _show(_usage(error))
    except (click.Abort, KeyboardInterrupt):
        code = _show(InterruptedByUserError("bundle", "interrupted", safe=KEPT, hint="Run the same command again."))
    except BundleError as error:
        code = _show(error)
    except (_ReaderGoneError, BrokenPipeError):
        _drop_output(1)
        code = 141
    except Exception as error:
        if os.environ.get("BUNDLE_TRACEBACK"):
            raise
        code = _show(_local(error) or _defect(error))
        _drop_output(1)
    gc.freeze()  # the process ends: nothing is gained by looking for garbage once more
    sys.exit(code)


def _require_streams() -> None:
    """A shell may start us without stdout or stderr; then they lead nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - for as long as we run


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    error = InterruptedByUserError("bundle", "terminated", safe=KEPT, hint="Run the same command again.")
    error.exit_code = 143
    raise error


def _drop_output(stream: int) -> None:
    """Let what is left in the buffers of stream 1 or 2 lead nowhere, so that the interpreter ends in silence."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def _usage(error: click.ClickException) -> UsageError:
    """Return what click says of a command line as an error of ours."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = "bundle" if context is None else context.command_path
    return UsageError(command, error.format_message(), hint=f"See what it takes: {command} --help")


def _local(error: Exception) -> BundleError | None:
    """Return what an error of the operating system amounts to that names a file, or says that a disk is full."""
    if not isinstance(error, OSError) or (error.filename is None and error.errno not in _FULL):
        return None
    return LocalResourceError(str(error.filename or "standard output"), error.strerror or type(error).__name__)


def _defect(error: Exception) -> BundleError:
    """Name the place of a defect; its message stays out, because nobody checked it for secrets."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return BundleError(
        "bundle",
        f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno} in {frame.name}",
        safe=KEPT,
        hint="This is a defect. Run it again with BUNDLE_TRACEBACK=1, read what it prints for secrets, and report it.",
    )


def _show(error: BundleError) -> int:
    from bundler.cli.render import render_error

    try:
        sys.stderr.write(render_error(error))
        sys.stderr.flush()
    except OSError:  # nobody reads it, or its disk is full: the exit code alone says what happened
        _drop_output(2)
    return error.exit_code


if __name__ == "__main__":
    main()
