"""Kill -9 at moments that the far side counts: every one of them falls within the work, whatever the machine does."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests import forked
from tests.fakes.counting import Tally


@dataclass(frozen=True, kw_only=True)
class Command:
    """A `bundle` command that is started again and again.

    Attributes:
        arguments: what follows `bundle`.
        folder: where it runs.
        said: the file for what it says.
        constants: `module:NAME` -> another value, where the usual one makes a test large.
    """

    arguments: list[str]
    folder: Path
    environment: Mapping[str, str]
    said: Path
    constants: Mapping[str, int] = field(default_factory=dict)

    def start(self) -> BaseProcess:
        """Start it."""
        return forked.start(
            self.arguments,
            folder=self.folder,
            environment=self.environment,
            said=self.said,
            constants=self.constants,
        )

    def finish(self) -> None:
        """Run it to its end."""
        process = self.start()
        process.join()
        assert process.exitcode == 0, self.said.read_text()

    def kill_at(self, tally: Tally, total: int) -> None:
        """Run it until `total` is counted: the thread that counts kills it, and nothing is counted meanwhile."""
        process = self.start()
        tally.at(total, lambda: os.kill(process.pid or 0, signal.SIGKILL))
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"it was not killed within its work: {self.said.read_text()}"


@dataclass(frozen=True, kw_only=True)
class Chain:
    """One piece of work, killed again and again before it is finished.

    Attributes:
        tally: what the far side counts of it.
        work: how much there is to count at least: while it is less, the work cannot be at its end.
        settle: waits until the far side has taken everything that came of a killed process.
    """

    command: Command
    tally: Tally
    work: int
    settle: Callable[[], None]

    def run(self, *, kills: int, chance: random.Random) -> Iterator[None]:
        """Kill at most so often, spread over the work, then finish it; yield after each kill and at the end."""
        begun = self.tally.total
        for more in range(kills, 0, -1):
            left = self.work - (self.tally.total - begun)
            if left <= 0:
                break
            self.command.kill_at(self.tally, self.tally.total + chance.randint(1, -(-2 * left // (more + 1))))
            self.settle()
            yield
        self.command.finish()
        self.settle()
        yield
