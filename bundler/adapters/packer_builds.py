"""Builds of AMIs with Packer: our template as this Packer takes it, a team's own in a copy that bears our tags."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundler.adapters.packer import Packer, Running
from bundler.domain.digest import Digest
from bundler.domain.events import Emit, Noted, silent
from bundler.domain.packer_job import PackerJob
from bundler.domain.packer_log import PackerLine
from bundler.errors import DefinitionError, LocalResourceError, PackerError
from bundler.transfer import pause

_POLL_S = 1.0
_NOT_COPIED = shutil.ignore_patterns(".git")
_TAGGED = ("run_tags", "run_volume_tags", "tags", "snapshot_tags")


@dataclass(slots=True)
class PackerBuilds:
    """Runs templates; several threads may, each a run of its own.

    Attributes:
        work: folder for copies of templates and for locks.
        endpoint: of EC2, where it is not AWS's own.
    """

    packer: Packer
    work: Path
    region: str
    endpoint: str = ""
    emit: Emit = silent
    _locks: list[int] = field(default_factory=list)

    def build(self, job: PackerJob) -> str:
        """Run a template; return the id of the AMI in our Region.

        Raises:
            PackerError: with the step that failed; or it made no AMI in our Region.
            DefinitionError: Packer refuses the template or its variables.
            MissingToolError: Packer, or its plugin, is not installed.
        """
        self.packer.need_amazon()
        if job.tags is None:
            with self.packer.gated(job.folder / job.file) as template:
                return self._build(job, template, {**job.variables, "ec2_endpoint": self.endpoint}, None)
        with self._tagged_copy(job, job.tags) as template:
            return self._build(job, template, job.variables, template.parent)

    @contextmanager
    def alone(self, run: Digest) -> Iterator[None]:
        """Hold a run for ourselves on this host.

        Packer holds the lock with us: where we are killed and it is not, the next build waits until it has ended.

        Raises:
            LocalResourceError: the lock cannot be made.
        """
        folder = self.work / "runs"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(folder / run.hex, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LocalResourceError(str(folder), f"cannot be written: {error.strerror}") from error
        try:
            self._acquire(handle)
            self._locks.append(handle)
            yield
        finally:
            if handle in self._locks:
                self._locks.remove(handle)
            os.close(handle)

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
            else:
                return

    def _build(self, job: PackerJob, template: Path, variables: Mapping[str, str], folder: Path | None) -> str:
        running = Running(folder=folder, keep_open=tuple(self._locks))
        self.packer.validate(template, variables, running=running)

        def hear(line: PackerLine) -> None:
            if line.step:
                self.emit(Noted(text=f"{job.name}: {line.step}"))

        made = self.packer.build(template, variables, hear=hear, running=running)
        if self.region not in made:
            elsewhere = ", ".join(sorted(made)) or "none"
            raise PackerError(job.name, f"the template made no AMI in {self.region} (Regions: {elsewhere})")
        return made[self.region]

    @contextmanager
    def _tagged_copy(self, job: PackerJob, tags: Mapping[str, str]) -> Iterator[Path]:
        """Give the template in a copy of its folder, where a JSON template also bears the tags of the run."""
        self.work.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=self.work, prefix="template-") as name:
            copy = Path(name) / "template"
            try:
                shutil.copytree(job.folder, copy, ignore=_NOT_COPIED)
            except (OSError, shutil.Error) as error:
                raise DefinitionError(str(job.folder), f"cannot be copied: {error}") from error
            template = copy / job.file
            if template.suffix == ".json" and not template.name.endswith(".pkr.json"):
                template.write_text(json.dumps(_tagged(template, tags)), encoding="utf-8")
            yield template


def _tagged(path: Path, tags: Mapping[str, str]) -> dict[str, Any]:
    """Return a legacy JSON template whose amazon builders give our tags to all that they make."""
    try:
        template = json.loads(path.read_bytes())
        builders = [builder for builder in template.get("builders", []) if builder.get("type") == "amazon-ebs"]
        for builder in builders:
            for key in _TAGGED:
                builder[key] = {**builder.get(key, {}), **tags}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DefinitionError(str(path), f"is no Packer template: {error}") from error
    return dict(template)
