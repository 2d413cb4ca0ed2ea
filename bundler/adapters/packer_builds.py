"""Builds of AMIs with Packer: our template as this Packer takes it, a team's own in a copy that bears our tags."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from bundler.adapters.packer import LIMIT_S, Packer, Running
from bundler.atomic import publish
from bundler.domain.bake import key_prefix
from bundler.domain.credentials import Secret
from bundler.domain.digest import Digest
from bundler.domain.events import Emit, Noted, Waiting, silent
from bundler.domain.packer_job import NotedAmi, PackerJob
from bundler.domain.packer_log import CREATING, SHORTEST_HIDDEN, PackerLine, secret_values
from bundler.domain.team_template import (
    TeamNetwork,
    is_legacy,
    makes_interim_amis,
    network_of,
    sensitive_values,
    with_run,
)
from bundler.errors import BundleError, DefinitionError, LocalResourceError, PackerError, StoppedError
from bundler.transfer import pause

Made = TypeVar("Made")
_POLL_S = 1.0
_INTERIM = "interim"
_FIRST_BEAT_S, _BEAT_S = 15.0, 60.0
_TELL_S = 30.0
"""Seconds of silence after which people are told what Packer is at, and since when."""
_NOT_COPIED = shutil.ignore_patterns(".git")
_IN_HCL = (
    "your template is in HCL, which this tool does not change: what Packer makes for it bears no tags of this bake."
    " After a kill -9 or a power cut look for its instance, key pair and security group by hand (packer/README.md)"
)


@dataclass(slots=True)
class PackerBuilds:
    """Runs templates; several threads may, each a run of its own.

    Attributes:
        work: folder for each run's files: variables, a copy of its template, its lock.
        endpoint: of EC2, where it is not AWS's own.
        beat: called while Packer works on a run: says in EC2 that its owner is alive.
    """

    packer: Packer
    work: Path
    region: str
    endpoint: str = ""
    emit: Emit = silent
    beat: Callable[[Digest], None] | None = None
    _locks: dict[Digest, int] = field(default_factory=dict)

    def need(self) -> None:
        """Make sure that Packer can build AMIs.

        Raises:
            MissingToolError: Packer, or its plugin, is not installed.
        """
        self.packer.need_amazon()

    def build(self, job: PackerJob) -> str:
        """Run a template; return the id of the AMI in our Region.

        Raises:
            PackerError: with the step that failed; or it made no AMI in our Region.
            DefinitionError: Packer refuses the template or its variables.
            MissingToolError: Packer is not installed.
        """
        packer = self.packer.within(self._folder(job.run))
        if job.tags is None:
            ours = replace(job, variables={**job.variables, "ec2_endpoint": self.endpoint})
            with packer.gated(job.folder / job.file, ours.variables) as template:
                return self._build(packer, ours, template)
        if not is_legacy(job.file):
            self.emit(Noted(text=f"{job.name}: {_IN_HCL}", warning=True))
        with self._tagged_copy(job, job.tags) as folder:
            return self._build(packer, job, folder / job.file, folder)

    def network(self, job: PackerJob) -> TeamNetwork | None:
        """Return where a team's template builds, None where a security group of ours has no place in it."""
        if not is_legacy(job.file):
            return None
        path = job.folder / job.file
        return _from_template(path, path, lambda found: network_of(found, job.variables, region=self.region))

    def noted(self, run: Digest) -> NotedAmi | None:
        """Return the AMI that a team's template was making when a build was cut off, None where there is none."""
        try:
            words = self._note(run).read_text(encoding="utf-8").split()
        except OSError:
            return None
        return NotedAmi(id=words[0], is_interim=words[1:] == [_INTERIM]) if words else None

    def forget(self, run: Digest) -> None:
        """Forget the AMI that was noted: it is tagged, or gone."""
        self._note(run).unlink(missing_ok=True)

    @contextmanager
    def alone(self, run: Digest) -> Iterator[None]:
        """Hold a run for ourselves on this host; files that a killed build left of it are gone.

        Packer holds the lock with us: where we are killed and it is not, the next build waits until it has ended.

        Raises:
            LocalResourceError: the lock cannot be made.
        """
        folder = self._folder(run)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(folder.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LocalResourceError(str(folder.parent), f"cannot be written: {error.strerror}") from error
        try:
            self._acquire(handle)
            shutil.rmtree(folder, ignore_errors=True)
            self._locks[run] = handle
            yield
        finally:
            if self._locks.pop(run, None) is not None:
                shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)

    def _folder(self, run: Digest) -> Path:
        return self.work / "runs" / run.hex[:16]

    def _note(self, run: Digest) -> Path:
        return self._folder(run).with_suffix(".ami")

    def _note_down(self, job: PackerJob, ami: str) -> None:
        """Keep the id of a team's AMI as soon as Packer has it: it bears no tag of ours until it is available."""
        files = (path for path in job.folder.rglob("*") if path.suffix in (".json", ".hcl") and path.is_file())
        is_interim = any(makes_interim_amis(path.read_bytes()) for path in files)
        publish(self._note(job.run), f"{ami} {_INTERIM if is_interim else ''}".encode())

    def _acquire(self, handle: int) -> None:
        told = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    text = "another build, or what a killed one left, works on the same bake: waiting for its end"
                    self.emit(Noted(text=text, warning=True))
                    told = True
                pause(_POLL_S)
            except OSError as error:
                cause = f"cannot be locked: {error.strerror}"
                hint = "Put the cache on a file system that knows locks: BUNDLE_CACHE_DIR"
                raise LocalResourceError(str(self.work), cause, hint=hint) from error
            else:
                return

    def _build(self, packer: Packer, job: PackerJob, template: Path, folder: Path | None = None) -> str:
        held = self._locks.get(job.run)
        story = _Story(job.name, self.emit, None if folder is None else functools.partial(self._note_down, job))
        heart = _Heart(job.run, self.beat, self.emit)

        def tick(elapsed_s: float) -> None:
            story.tick(elapsed_s)
            heart.tick(elapsed_s)

        running = Running(
            folder=folder,
            keep_open=() if held is None else (held,),
            tick=tick,
            subject=f"AMI {job.name}" if folder is None else str(job.folder / job.file),
            secrets=() if folder is None else _secrets(template, job.variables),
        )
        packer.validate(template, job.variables, running=running)
        made = packer.build(template, job.variables, hear=story.hear, running=running)
        if self.region not in made:
            elsewhere = ", ".join(sorted(made)) or "none"
            hint = f"Let the template build in {self.region} (region, or ami_regions)."
            cause = f"the template made no AMI in {self.region} (Regions: {elsewhere})"
            raise PackerError(running.subject, cause, safe="What it made elsewhere is there still.", hint=hint)
        return made[self.region]

    @contextmanager
    def _tagged_copy(self, job: PackerJob, tags: Mapping[str, str]) -> Iterator[Path]:
        """Give a copy of the template's folder, where a JSON template also bears the tags of the run."""
        copy = self._folder(job.run) / "template"
        try:
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(job.folder, copy, ignore=_NOT_COPIED)
        except (OSError, shutil.Error) as error:
            raise DefinitionError(str(job.folder), f"cannot be copied: {error}") from error
        try:
            template = copy / job.file
            if is_legacy(template.name):
                keys, group = key_prefix(job.run), job.security_group
                ours = _from_template(
                    template,
                    job.folder / job.file,
                    lambda document: with_run(document, tags, keys=keys, security_group=group),
                )
                template.write_text(json.dumps(ours), encoding="utf-8")
            yield copy
        finally:
            shutil.rmtree(copy, ignore_errors=True)


class _Story:
    """What people hear of a build: its milestones, and in a long silence that it goes on."""

    def __init__(self, name: str, emit: Emit, on_ami: Callable[[str], None] | None) -> None:
        self._name = name
        self._emit = emit
        self._on_ami = on_ami
        self._at = "starting"
        self._elapsed_s = self._told_s = 0.0

    def hear(self, line: PackerLine) -> None:
        """Take a line of Packer's."""
        if line.milestone:
            self._at, self._told_s = line.milestone, self._elapsed_s
            self._emit(Noted(text=f"{self._name}: {line.milestone}"))
        if self._on_ami is not None and line.noted_ami and self._at == CREATING:  # at any other step a script says so
            self._on_ami(line.noted_ami)

    def tick(self, elapsed_s: float) -> None:
        """Take the time."""
        self._elapsed_s = elapsed_s
        if elapsed_s - self._told_s >= _TELL_S:
            self._told_s = elapsed_s
            self._emit(Waiting(subject=self._name, state=self._at, elapsed_s=elapsed_s, limit_s=LIMIT_S))


class _Heart:
    """Says now and then that a run is alive."""

    def __init__(self, run: Digest, beat: Callable[[Digest], None] | None, emit: Emit) -> None:
        self._run = run
        self._beat = beat
        self._emit = emit
        self._told = False
        self._due_s = _FIRST_BEAT_S

    def tick(self, elapsed_s: float) -> None:
        """Take the time."""
        if self._beat is None or elapsed_s < self._due_s:
            return
        self._due_s = elapsed_s + _BEAT_S
        try:
            self._beat(self._run)
        except StoppedError:
            raise
        except BundleError as error:  # the next one may arrive; no bake fails for it
            if not self._told:
                self._told = True
                text = f"cannot say in EC2 that this bake is alive ({error}): another host may take it for dead"
                self._emit(Noted(text=text, warning=True))


def _from_template(path: Path, subject: Path, use: Callable[[dict[str, Any]], Made]) -> Made:
    """Return what is made of a template in legacy JSON."""
    try:
        return use({**json.loads(path.read_bytes())})
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DefinitionError(str(subject), f"is no Packer template: {error}") from error


def _secrets(template: Path, variables: Mapping[str, str]) -> tuple[Secret, ...]:
    """Return what a team's template may print and nobody may read.

    JSON lists its sensitive variables. HCL says it in a language that we do not read: there any longer value is one.
    """
    if not is_legacy(template.name):
        return secret_values(value for value in variables.values() if len(value) >= SHORTEST_HIDDEN)
    return secret_values(sensitive_values(json.loads(template.read_bytes()), variables))
