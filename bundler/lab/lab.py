"""`bundle lab`: start, find and stop the stand-ins, which live in one process (daemon.py) for each state folder."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundler.errors import ConflictError, MissingToolError, TargetError

if TYPE_CHECKING:
    from bundler.lab.kubernetes import KubernetesFacts

ACCOUNT = "111122223333"
REGION = "eu-central-1"
CLUSTER = "lab"
FACTS_FILE = "lab.json"
LOCK_FILE = "lab.lock"
REQUESTS_FILE = "requests.jsonl"
REGISTRIES_FILE = "registries.yaml"
_LOG_FILE = "daemon.log"
_START_S = 180.0
_STOP_S = 20.0
_POLL_S = 0.05
_TAIL_BYTES = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """Where AMIs are baked: a VPC whose addresses are this host's, and the Kubernetes version of the public AMIs."""

    vpc: str
    subnet: str
    security_group: str
    kubernetes_minor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabFacts:
    """Where a running lab is and how to reach it.

    Attributes:
        aws_url: all AWS APIs and S3.
        ecr_address: host:port of the registry, TLS; its certificate is for `registry_host`, localhost and 127.0.0.1.
        ca_file: the authority of that certificate.
        source_url: what stands for every upstream host (source.py); empty when none was asked for.
        site_file: site.yaml of this lab.
        credentials_file: AWS shared credentials (0600) of the operator.
        kubernetes: the control plane; None without one.
        machines: where AMIs can be baked; None where instances are no processes.
    """

    state: Path
    pid: int
    account: str
    region: str
    partition: str
    aws_url: str
    ecr_address: str
    registry_host: str
    ca_file: Path
    source_url: str
    bucket: str
    site_file: Path
    credentials_file: Path
    kubernetes: KubernetesFacts | None = None
    machines: MachineFacts | None = None

    @property
    def requests_file(self) -> Path:
        """The request log (request_log.py)."""
        return self.state / REQUESTS_FILE

    @property
    def registries_file(self) -> Path:
        """The registries.yaml that leads to the source, where there is one."""
        return self.state / REGISTRIES_FILE

    def environment(self) -> dict[str, str]:
        """Return what the tool needs in its environment; endpoints are in the site file."""
        upstream = {"BUNDLE_REGISTRIES": str(self.registries_file)} if self.source_url else {}
        return upstream | {
            "AWS_SHARED_CREDENTIALS_FILE": str(self.credentials_file),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "SSL_CERT_FILE": str(self.ca_file),
        }


def write_facts(facts: LabFacts) -> None:
    """Publish the facts (0600): the lab is ready."""
    path = facts.state / FACTS_FILE
    partial = path.with_suffix(".partial")
    partial.touch(mode=0o600)
    partial.write_text(json.dumps(asdict(facts), default=str, indent=1), encoding="utf-8")
    partial.replace(path)


def _read_facts(path: Path) -> LabFacts:
    value = json.loads(path.read_text(encoding="utf-8"))
    found, machines = value.pop("kubernetes"), value.pop("machines")
    return LabFacts(
        **_typed(value, LabFacts),
        kubernetes=None if found is None else _kubernetes(found),
        machines=None if machines is None else MachineFacts(**machines),
    )


def _kubernetes(value: Mapping[str, Any]) -> KubernetesFacts:
    from bundler.lab.kubernetes import KubernetesFacts

    return KubernetesFacts(**_typed(value, KubernetesFacts))


def _typed(value: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    paths = {field.name for field in fields(kind) if field.type in ("Path", Path)}
    return {name: Path(item) if name in paths else item for name, item in value.items()}


def lab_status(state: Path) -> LabFacts | None:
    """Return the facts of the lab that runs with this state folder; None when none does, or is not ready yet."""
    path = state / FACTS_FILE
    if not _is_running(state) or not path.exists():
        return None
    return _read_facts(path)


def _is_running(state: Path) -> bool:
    """Whether a daemon holds the lock of this folder; a crash lets go of it."""
    try:
        with (state / LOCK_FILE).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class LabOptions:
    """What a lab plays.

    Attributes:
        kubernetes: with a control plane; `assets` (default KUBEBUILDER_ASSETS) holds its programs.
        source: with all images and charts of the lab under upstream's names (programs from PyPI, 40 MB, once).
        machines: EC2 instances started with a key pair are real processes (root; containerd and more, see machines.py).
        account: the account that it plays.
        region: the Region that it plays.
        assets: folder of the control plane's programs.
    """

    kubernetes: bool = False
    source: bool = True
    machines: bool = False
    account: str = ACCOUNT
    region: str = REGION
    assets: Path | None = None

    @property
    def arguments(self) -> list[str]:
        """The same for the daemon."""
        wanted = {"--source": self.source, "--machines": self.machines}
        arguments = ["--account", self.account, "--region", self.region]
        arguments += [flag for flag, is_wanted in wanted.items() if is_wanted]
        if self.kubernetes:
            arguments += ["--kube-assets", str(self.assets or os.environ.get("KUBEBUILDER_ASSETS", ""))]
        return arguments


def lab_up(state: Path, options: LabOptions = LabOptions(), *, bound: bool = False) -> LabFacts:
    """Start a lab and return when it is ready. What an earlier one left in the folder is gone, but for logs.

    Args:
        state: the lab's folder.
        options: what it plays.
        bound: the lab ends when this process does.

    Raises:
        ConflictError: a lab runs there already.
        MissingToolError: the extra `lab` is not installed, or a program that machines need.
        AccessError: machines were asked for, and this is not root.
        TargetError: it did not start; with the end of its log.
        NetworkError: PyPI does not give what the source is made of.
    """
    _require_extra()
    if options.machines:
        _require_machines()
    state = state.absolute()
    if _is_running(state):
        raise ConflictError(str(state), "a lab runs with this folder already", hint="bundle lab status, or down")
    if options.source:
        _fetch_programs()
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    logs = state / "logs"
    logs.mkdir(exist_ok=True)
    (state / FACTS_FILE).unlink(missing_ok=True)
    parent = ["--parent", str(os.getpid())] if bound else []
    pid = _start(["--state", str(state), *options.arguments, *parent], logs)
    try:
        return _wait_until_ready(state, pid, logs / _LOG_FILE)
    except BaseException:
        _kill(pid)
        raise


def _fetch_programs() -> None:
    from bundler.lab.images import WHEELS
    from bundler.lab.wheels import fetch_wheels, wheel_folder

    fetch_wheels(WHEELS, folder=wheel_folder())


def _require_machines() -> None:
    from bundler.lab.machines import require_machines

    require_machines()


def _require_extra() -> None:
    missing = [name for name in ("asyncssh", "moto", "pip", "zstandard") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingToolError(
            "lab", f"needs {', '.join(missing)}", hint="Install the extra: pip install 'eks-bundler[lab]'"
        )


def _start(arguments: list[str], logs: Path) -> int:
    """Start the daemon in a session of its own and return its process id.

    Not by subprocess: its object would want to be waited for, and this process may end long before the lab.
    """
    argv = [sys.executable, "-m", "bundler.lab.daemon", *arguments]
    with (logs / _LOG_FILE).open("wb") as log, Path(os.devnull).open("rb") as nothing:
        files = [(os.POSIX_SPAWN_DUP2, nothing.fileno(), 0)]
        files += [(os.POSIX_SPAWN_DUP2, log.fileno(), number) for number in (1, 2)]
        return os.posix_spawn(sys.executable, argv, os.environ, file_actions=files, setsid=True)


def _wait_until_ready(state: Path, pid: int, log: Path) -> LabFacts:
    ends = time.monotonic() + _START_S
    while time.monotonic() < ends:
        if _has_ended(pid):
            raise TargetError("lab", f"ended before it was ready\n{_tail(log)}")
        if (state / FACTS_FILE).exists():
            return _read_facts(state / FACTS_FILE)
        time.sleep(_POLL_S)
    raise TargetError("lab", f"did not become ready in {_START_S:.0f} s\n{_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace")


def lab_down(state: Path) -> None:
    """Stop the lab of this folder, if one runs; the folder stays."""
    state = state.absolute()
    facts = lab_status(state)
    if facts is None:
        return
    with suppress(ProcessLookupError):
        os.kill(facts.pid, signal.SIGTERM)
    ends = time.monotonic() + _STOP_S
    while _is_running(state):
        if time.monotonic() > ends:
            _kill(facts.pid)
        time.sleep(_POLL_S)
    with suppress(ChildProcessError):
        os.waitpid(facts.pid, 0)
    (state / FACTS_FILE).unlink(missing_ok=True)


def _kill(pid: int) -> None:
    """Kill the daemon; what it started is ended by the watchdog of programs.py."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _has_ended(pid: int) -> bool:
    """Whether the process is gone; one of our own is also waited for."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


@contextmanager
def lab(state: Path, options: LabOptions = LabOptions()) -> Iterator[LabFacts]:
    """Run a lab for the length of a `with`; it ends with this process at the latest."""
    facts = lab_up(state, options, bound=True)
    try:
        yield facts
    finally:
        lab_down(state)
