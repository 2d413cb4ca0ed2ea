"""The instances of the lab that are real processes: their disks, and their start and end."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from bundler.adapters.process import run
from bundler.domain.blocks import BLOCK_BYTES
from bundler.errors import AccessError, LocalResourceError, TargetError
from bundler.lab.machine import SSH_PORT
from bundler.lab.node_disk import grow, truncate, written_blocks
from bundler.lab.node_tree import program, require_programs
from bundler.lab.programs import Programs

_START_S = 60.0
_STOP_S = 60.0
_PROBE_S = 10.0
_RELEASE_S = 10.0
_POLL_S = 0.02
_SPACES = ("--mount", "--pid", "--uts", "--fork", "--kill-child", "--propagation", "private")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One instance: its id, where SSH answers, what it calls itself, and the public key that is let in."""

    id: str
    address: str
    host_name: str
    key: str


class Network:
    """127.N.0.0/16 of this machine, held against other labs by a bound port; every address of it is there already."""

    def __init__(self, number: int, claim: socket.socket) -> None:
        self._number = number
        self._claim = claim

    @property
    def cidr(self) -> str:
        """The range of the VPC."""
        return f"127.{self._number}.0.0/16"

    @property
    def subnet(self) -> str:
        """The range of its first subnet."""
        return f"127.{self._number}.0.0/20"

    @property
    def strays(self) -> Iterator[str]:
        """Addresses outside the subnet, for instances that were put into another VPC."""
        return (f"127.{self._number}.240.{last}" for last in range(4, 255))

    def close(self) -> None:
        """Let go of it."""
        self._claim.close()


def claim_network() -> Network:
    """Return a range that no other lab of this machine has.

    Raises:
        LocalResourceError: all are taken, or something serves SSH on every address.
    """
    for number in range(80, 120):
        claim = socket.socket()
        try:
            claim.bind((f"127.{number}.255.254", SSH_PORT))
        except OSError:
            claim.close()
        else:
            return Network(number, claim)
    hint = "End other labs, or a server that listens at port 22 of every address."
    raise LocalResourceError("127.80.0.0/16 to 127.119.0.0/16", f"port {SSH_PORT} is taken in all of them", hint=hint)


def require_machines() -> None:
    """Make sure that instances can run here.

    Raises:
        AccessError: this is not root, or not a root that may mount.
        MissingToolError: a program is not installed.
    """
    if os.geteuid() != 0:
        hint = "Run it as root, or without --machines."
        raise AccessError("lab --machines", "mounts disks, which only root may", hint=hint)
    require_programs()
    done = run([str(program("unshare")), *_SPACES, "true"], timeout_s=_PROBE_S)
    if done.returncode != 0 or not Path("/dev/loop-control").exists():
        hint = "In a container: give it --privileged. Or run without --machines."
        raise AccessError("lab --machines", "this machine allows no namespaces or loop devices", hint=hint)


class Machines:
    """All of them; threads may call at a time, one instance at a time."""

    def __init__(self, folder: Path, programs: Programs) -> None:
        self._folder = folder
        self._programs = programs
        self._lock = threading.RLock()
        self._known: dict[str, Machine] = {}
        self._running: set[str] = set()

    def create(self, instance_id: str, blocks: Iterable[tuple[int, bytes]], *, gib: int) -> None:
        """Write the disk of a new instance."""
        (self._folder / instance_id / "root").mkdir(parents=True)
        with self._disk(instance_id).open("wb") as file:
            for number, content in blocks:
                file.seek(number * BLOCK_BYTES)
                file.write(content)
        truncate(self._disk(instance_id), gib)

    def has(self, instance_id: str) -> bool:
        """Whether an instance has a disk here."""
        return self._disk(instance_id).exists()

    def grow(self, instance_id: str, gib: int) -> None:
        """Enlarge disk and file system of one that does not run."""
        grow(self._disk(instance_id), gib)

    def blocks(self, instance_id: str) -> Iterator[tuple[int, bytes]]:
        """Yield the blocks of the disk of one that does not run."""
        return written_blocks(self._disk(instance_id))

    def start(self, machine: Machine) -> None:
        """Start an instance and return when it answers.

        Raises:
            TargetError: it did not start; with the end of its log.
        """
        inside = {
            "--disk": str(self._disk(machine.id)),
            "--root": str(self._folder / machine.id / "root"),
            "--address": machine.address,
            "--host-name": machine.host_name,
            "--key": machine.key,
        }
        self._known[machine.id] = machine
        words = [word for pair in inside.items() for word in pair]
        argv = [str(program("unshare")), *_SPACES, sys.executable, "-m", "bundler.lab.machine", *words]
        with self._lock:
            self._programs.start(machine.id, argv)
            self._running.add(machine.id)
            try:
                deadline = time.monotonic() + _START_S
                self._programs.wait_until(machine.id, lambda: _answers(machine.address), deadline=deadline)
            except TargetError:
                self._running.discard(machine.id)
                self._programs.end(machine.id, within_s=0.0)
                raise

    def restart(self, instance_id: str) -> None:
        """Start one that was stopped, with the same address and key; nothing where it has never been started."""
        if instance_id in self._known and instance_id not in self._running:
            self.start(self._known[instance_id])

    def stop(self, instance_id: str) -> bool:
        """End everything in an instance; its disk is unmounted and complete. Return whether it ran.

        Raises:
            TargetError: it did not come to an end by itself.
        """
        with self._lock:
            if instance_id not in self._running:
                return False
            self._running.discard(instance_id)
            code = self._programs.end(instance_id, within_s=_STOP_S)
            self._wait_until_released(instance_id)
        if code != 0:
            raise TargetError(instance_id, f"ended with {code}\n{self._programs.log_tail(instance_id)}")
        return True

    def remove(self, instance_id: str) -> None:
        """End an instance, if it runs, and remove its disk."""
        with self._lock:
            self._known.pop(instance_id, None)
            if instance_id in self._running:
                self._running.discard(instance_id)
                self._programs.end(instance_id, within_s=0.0)
                self._wait_until_released(instance_id)
        shutil.rmtree(self._folder / instance_id, ignore_errors=True)

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            self._programs.stop()
            for instance_id in self._running:
                self._wait_until_released(instance_id)
            self._running.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait_until_released(self, instance_id: str) -> None:
        """Wait for the kernel, which takes a namespace apart after its last process has ended."""
        disk, ends = str(self._disk(instance_id).resolve()), time.monotonic() + _RELEASE_S
        while disk in _loop_files() and time.monotonic() < ends:
            time.sleep(_POLL_S)

    def _disk(self, instance_id: str) -> Path:
        return self._folder / instance_id / "disk"


def _loop_files() -> set[str]:
    """Return the files that are loop devices now."""
    found = set()
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            found.add(path.read_text().rstrip("\n"))
    return found


def _answers(address: str) -> bool:
    with closing(socket.socket()) as probe:
        probe.settimeout(1)
        if probe.connect_ex((address, SSH_PORT)) != 0:
            return False
        try:
            return probe.recv(4) == b"SSH-"
        except OSError:
            return False


def public_key(material: str) -> str:
    """Return type and key of a line in OpenSSH's form, without the comment."""
    return " ".join(material.split()[:2])


def host_name(address: str, region: str) -> str:
    """Return the name that EC2 gives an instance."""
    domain = "ec2.internal" if region == "us-east-1" else f"{region}.compute.internal"
    return f"ip-{address.replace('.', '-')}.{domain}"
