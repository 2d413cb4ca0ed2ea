"""`bundle serve` as a process, with the archive of tests/fakes/archives.py or any other."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.archives import Sample
from tests.journey import BUNDLE, clean_environment


@dataclass(frozen=True, kw_only=True)
class Running:
    """A registry that answers.

    Attributes:
        address: 127.0.0.1:PORT.
        url: the same with its scheme.
        log: its access log.
    """

    address: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def stop(self, number: int = signal.SIGINT) -> int:
        """End it by a signal; return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)


def write_bundle(made: Sample, folder: Path) -> Path:
    """Build `made`, with its trust root accepted in trust/ beside it."""
    (folder / "trust").mkdir()
    (folder / "trust" / "trust.json").write_bytes(made.trust_json)
    return made.build(folder)


@contextmanager
def serving(archive: Path | str, folder: Path, *options: str, **environment: str) -> Iterator[Running]:
    """Hold while `bundle serve` answers on a free port; its trust root is in `folder`/trust."""
    argv = [*BUNDLE, "serve", str(archive), "--trust", str(folder / "trust"), "--listen", "127.0.0.1:0", "-o", "json"]
    log = folder / "serve.log"
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            [*argv, *options],
            env={**clean_environment(), **environment},
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text()
            told = json.loads(line)
            yield Running(address=told["address"], url=told["url"], process=process, log=log)
        finally:
            process.kill()
