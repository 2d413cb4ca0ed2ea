"""An EC2 instance as a process: mounts its disk, lives in it, and serves SSH to one key, until SIGTERM.

`python -m bundler.lab.machine`, as process 1 of its own mount, pid and uts namespaces (machines.py starts it). When it
is killed the kernel ends the namespaces, and with them every process, the mounts and the loop device.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import logging
import os
import signal
import socket
import stat
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import asyncssh

USER = "ec2-user"
SSH_PORT = 22
_UID = 1000
_HOME = f"/home/{USER}"
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_REAP_S = 0.5
_GRACE_S = 10.0
_POLL_S = 0.05
_LOST = 255
_DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
_HOST_KEY = "etc/ssh/ssh_host_ed25519_key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says.

    Attributes:
        disk: image of a file system.
        root: empty folder where it is mounted, in this process' own namespace.
        address: where SSH is served.
        key: a public key in OpenSSH's form, the only one that is let in.
    """

    disk: Path
    root: Path
    address: str
    host_name: str
    key: str


def main() -> None:
    """Run an instance."""
    parser = argparse.ArgumentParser(prog="bundler.lab.machine")
    parser.add_argument("--disk", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    for name in ("--address", "--host-name", "--key"):
        parser.add_argument(name, required=True)
    given = parser.parse_args()
    options = Options(**vars(given))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(_serve(options))


async def _serve(options: Options) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    outside = os.open("/", os.O_PATH | os.O_DIRECTORY)
    disk = os.open(options.disk, os.O_RDWR)
    _mount(options.root, options.disk)
    _boot(options)
    processes = Processes()
    listening = await _listen(options, processes)
    _enter(options.root)
    _touch_files_as(_UID)
    reaper = asyncio.create_task(processes.reap_orphans())
    await stopped.wait()
    listening.close()
    reaper.cancel()
    _end_all()
    _touch_files_as(0)
    os.fchdir(outside)
    os.chroot(".")
    _run("umount", "--recursive", str(options.root))
    os.fsync(disk)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, env={"PATH": _PATH})


def _mount(root: Path, disk: Path) -> None:
    """Mount the disk, and what the kernel and systemd give a running system."""
    _run("mount", "-o", "loop,noatime", str(disk), str(root))
    for kind, where, options in (
        ("proc", "proc", "nosuid"),
        ("sysfs", "sys", "ro,nosuid"),
        ("tmpfs", "dev", "mode=755"),
        ("tmpfs", "run", "mode=755"),
        ("tmpfs", "tmp", "mode=1777"),
    ):
        _run("mount", "-t", kind, "-o", options, kind, str(root / where))
    _make_devices(root / "dev")


def _make_devices(dev: Path) -> None:
    for name, minor in _DEVICES.items():
        os.mknod(dev / name, stat.S_IFCHR, os.makedev(1, minor))
        (dev / name).chmod(0o666)
    for name in ("pts", "shm"):
        (dev / name).mkdir()
    _run("mount", "-t", "devpts", "-o", "newinstance,ptmxmode=666", "devpts", str(dev / "pts"))
    _run("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", str(dev / "shm"))
    links = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
    for name, target in links.items():
        (dev / name).symlink_to(target)


def _boot(options: Options) -> None:
    """Do what cloud-init and systemd do at the first start of an instance; a bake has to remove it again."""
    root = options.root
    socket.sethostname(options.host_name)
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{options.address} {options.host_name}\n")
    (root / "etc/hostname").write_text(f"{options.host_name}\n")
    with suppress(FileNotFoundError):
        (root / "etc/resolv.conf").write_bytes(Path("/etc/resolv.conf").read_bytes())
    if not (root / "etc/machine-id").read_text().strip():
        (root / "etc/machine-id").write_text(f"{os.urandom(16).hex()}\n")
    if not (root / _HOST_KEY).exists():
        (root / _HOST_KEY).touch(mode=0o600)
        asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(root / _HOST_KEY))
    folder = root / _HOME.lstrip("/") / ".ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "authorized_keys").write_text(f"{options.key}\n")
    for path in (folder, folder / "authorized_keys"):
        os.chown(path, _UID, _UID)


def _enter(root: Path) -> None:
    os.chroot(root)
    os.chdir(_HOME)  # where SFTP begins


def _touch_files_as(user: int) -> None:
    """Let this process reach files as a user does: SFTP is served in it, everything else by children."""
    kernel = ctypes.CDLL(None)
    kernel.setfsgid(user)
    kernel.setfsuid(user)


def _end_all() -> None:
    """End every other process of the namespace, first politely."""
    for number, grace_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S)):
        with suppress(ProcessLookupError):
            os.kill(-1, number)
        ends = time.monotonic() + grace_s
        while time.monotonic() < ends:
            try:
                if os.waitpid(-1, os.WNOHANG) == (0, 0):
                    time.sleep(_POLL_S)
            except ChildProcessError:
                return


class Processes:
    """Commands of SSH sessions, and orphans, whose parent is process 1 and who has to wait for them."""

    def __init__(self) -> None:
        self._own: set[int] = set()

    async def run(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        """Run the command of a session, or a login shell."""
        command = process.command
        argv = ["/bin/bash", "--login"] if command is None else ["/bin/bash", "-c", command]
        child = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=_HOME if Path(_HOME).is_dir() else "/",
            env=_login_environment(),
            start_new_session=True,
            user=_UID,
            group=_UID,
            extra_groups=[],
        )
        self._own.add(child.pid)
        await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
        code = await self._wait(child)
        await process.stdout.drain()
        await process.stderr.drain()
        process.exit(code if code >= 0 else _LOST)

    async def _wait(self, child: subprocess.Popen[bytes]) -> int:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        handle = os.pidfd_open(child.pid)
        loop.add_reader(handle, ended.set)
        await ended.wait()
        loop.remove_reader(handle)
        os.close(handle)
        code = child.wait()
        self._own.discard(child.pid)
        return code

    async def reap_orphans(self) -> None:
        """Wait for orphans as they end."""
        while True:
            await asyncio.sleep(_REAP_S)
            with suppress(ChildProcessError):
                self._reap()

    def _reap(self) -> None:
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if found.si_pid in self._own:
                return  # `_wait` takes it in a moment
            os.waitpid(found.si_pid, 0)


def _login_environment() -> dict[str, str]:
    """Return what sshd and PAM give a session: /etc/environment and who this is."""
    found = {"PATH": _PATH}
    with suppress(FileNotFoundError):
        lines = Path("/etc/environment").read_text(encoding="utf-8").splitlines()
        found |= {name: value for name, sign, value in (line.partition("=") for line in lines) if sign}
    return {**found, "HOME": _HOME, "USER": USER, "LOGNAME": USER, "SHELL": "/bin/bash"}


class Files(asyncssh.SFTPServer):
    """SFTP on the disk; tells the client how it went, as sftp-server does."""

    def exit(self) -> None:
        """End well."""
        self.channel.exit(0)


async def _listen(options: Options, processes: Processes) -> asyncssh.SSHAcceptor:
    wanted = asyncssh.import_public_key(options.key)

    class Door(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            del username
            return True

        def public_key_auth_supported(self) -> bool:
            return True

        def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
            return username == USER and key == wanted

    return await asyncssh.listen(
        options.address,
        SSH_PORT,
        server_factory=Door,
        server_host_keys=[asyncssh.read_private_key(str(options.root / _HOST_KEY))],
        process_factory=processes.run,
        sftp_factory=Files,
        allow_scp=False,  # scp is a program of the disk, as on a real machine
        encoding=None,
    )


if __name__ == "__main__":
    main()
